//! The provider simulator as a program, for the demo and for trying things by hand.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use postroad_tests::simulator::{Behaviour, Config, Simulator};
use tokio::signal::unix::{SignalKind, signal};

/// Simulates an SMS or webhook provider: counts and records what reaches it, and misbehaves as told.
///
/// Listens for POST on any path. Prints one line, listening=http://ADDRESS, when it is ready.
/// SIGTERM and Ctrl-C write the record file to its end and exit 0.
#[derive(Parser)]
#[command(name = "postroad-simulator", version, after_help = EXAMPLES)]
struct Args {
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// File to append one line of JSON to for each request; without it nothing is written
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Decides which requests meet which fault and latency, in the order they come
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    behaviour: Behaviour,
}

const EXAMPLES: &str = "\
Examples:
  A provider that never fails, on a port of its choice:
    postroad-simulator --record calls.ndjson

  A slow one with a rate limit, that loses one answer in a hundred:
    postroad-simulator --listen 127.0.0.1:9400 --latency lognormal:50ms..400ms \\
        --max-in-flight 200 --retry-after 2s --rate-429 0.02 --rate-reset 0.005 --rate-half 0.005

  What reached it:
    curl http://127.0.0.1:9400/report

  Which of these ids had an effect:
    curl http://127.0.0.1:9400/seen --json '[\"0199b7a0-0000-7000-8000-000000000001\"]'

  An outage, and its end (fields left out go back to their defaults):
    curl -X PUT http://127.0.0.1:9400/behaviour --json '{\"rate_503\":1,\"retry_after\":\"5s\"}'
    curl -X PUT http://127.0.0.1:9400/behaviour --json '{}'

  Hold every request open, and answer those held:
    curl -X PUT http://127.0.0.1:9400/behaviour --json '{\"latency\":\"hold\"}'
    curl -X PUT http://127.0.0.1:9400/release";

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let simulator = Simulator::start(Config {
        listen: args.listen,
        record: args.record,
        behaviour: args.behaviour,
        seed: args.seed,
        keep_records: false,
        keep_bodies: false,
    })
    .await?;
    writeln!(std::io::stdout(), "listening={}", simulator.url()).context("writing to stdout")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = simulator.record_failed() => {}
    }
    simulator.stop().await
}
