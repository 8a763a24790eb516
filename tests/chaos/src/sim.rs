//! The core on models. Pure.
