//! Starts both servers, prints their URLs, and runs until Ctrl-C or SIGTERM.
//!
//! `cargo run -p postroad-provision --example servers -- [<directory>]`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use postroad_provision::{Options, Servers};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| ".postroad/dev".into(), PathBuf::from);
    let progress = Arc::new(|step: &str| eprintln!("{step}"));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut servers = Servers::start(Options {
        progress,
        ..Options::new(dir)
    })
    .await?;
    println!("{}", servers.database_url());
    println!("{}", servers.amqp_url());
    println!("{}", servers.management_url());

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        error = servers.exited() => return Err(error.into()),
    }
    servers.stop().await?;
    Ok(())
}
