//! A history → figures and a verdict. Pure.
