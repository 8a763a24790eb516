//! `postroad topology`: what exists in the broker, and with which arguments.

use postroad_common::broker::topology;
use postroad_common::job::QueueName;

use crate::output::line;

/// Prints the exchanges and queues that Postroad uses, with their arguments.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:\n  postroad topology sms webhooks")]
pub(crate) struct Args {
    /// Names of queues.
    #[arg(default_value = "default")]
    queues: Vec<QueueName>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let names: Vec<_> = args.queues.iter().map(ToString::to_string).collect();
    for queue in topology::describe(&names) {
        line(queue)?;
    }
    Ok(())
}
