//! `postroad-chaos`: breaks everything while jobs are on their way, and accounts for every one.

mod args;
mod breaking;
mod previous;
mod site;
mod suite;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = args::Args::parse();
    // On the main thread, which lives as long as the process.
    if let Err(error) = postroad_provision::stop_with_parent() {
        eprintln!("warning: {error}");
    }
    postroad_common::program::run(suite::run(args))
}
