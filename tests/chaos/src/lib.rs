//! Breaks everything while jobs are on their way, and accounts for every one of them.
//!
//! | room | for |
//! |---|---|
//! | [`history`] | what independent observers saw of one run |
//! | [`checker`] | a history → figures and a verdict. Pure |
//! | [`sim`] | the core's decisions on a model store and a model broker, ten thousand seeds at a time. Pure |
//!
//! A capability that comes later joins by its own lines in [`history`], its own figures in
//! [`checker`], and its own rows in the tables of faults and crash points.

pub mod campaigns;
pub mod checker;
pub mod crash;
pub mod door;
pub mod faults;
pub mod history;
pub mod load;
pub mod mutants;
pub mod observer;
pub mod run;
pub mod schedules;
pub mod sim;
pub mod stage;
pub mod table;
