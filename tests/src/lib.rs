//! What the tests, the demo and the benchmarks stand on: a provider to send to and faults to suffer.

pub mod faults;
pub mod harness;
pub mod proxy;
pub mod simulator;
