//! What more than one Postroad program needs.

pub mod job;
