//! The checker is held to an honest story, which it must believe, and to that story with one lie
//! each, which it must name.

mod bugs;
mod excuses;
mod laws;
mod lifelike;
mod story;
