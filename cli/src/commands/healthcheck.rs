//! `postroad healthcheck`: asks a program on this machine whether it is ready.

use std::time::Duration;

use anyhow::{Context, bail};
use postroad_common::config::Env;

use crate::cluster::http_client;
use crate::output::line;

/// Succeeds if the program whose admin page is at POSTROAD_ADMIN_LISTEN is ready.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples:\n  postroad healthcheck\n  postroad healthcheck --url http://127.0.0.1:9090"
)]
pub(crate) struct Args {
    /// The admin page, if not at POSTROAD_ADMIN_LISTEN.
    #[arg(long)]
    url: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let url = match (args.url, Env::of_process().text("POSTROAD_ADMIN_LISTEN")) {
        (Some(url), _) => url,
        (None, Some(address)) => format!("http://{address}"),
        (None, None) => bail!("give --url, or set POSTROAD_ADMIN_LISTEN as for the program"),
    };
    let request = http_client()?
        .get(format!("{url}/readyz"))
        .timeout(Duration::from_secs(3));
    let answer = request
        .send()
        .await
        .with_context(|| format!("asking {url}"))?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    if !status.is_success() {
        bail!("not ready: {text}");
    }
    line("ready")
}
