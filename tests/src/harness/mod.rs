//! What the tests against real servers stand on.

pub mod api;
pub mod broker;
pub mod cluster;
pub mod database;
pub mod endpoints;
pub mod eventually;
pub mod program;
mod roles;
