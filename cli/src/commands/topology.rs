//! `postroad topology`: what exists in the broker, and with which arguments.

use postroad_common::broker::topology;

/// Prints the exchanges and queues that Postroad uses, with their arguments.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:\n  postroad topology sms webhooks")]
pub(crate) struct Args {
    /// Names of queues.
    #[arg(default_value = "default")]
    queues: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    for line in topology::describe(&args.queues) {
        println!("{line}");
    }
    Ok(())
}
