//! `postroad dev`: everything on this machine, with private servers.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use anyhow::{Context, bail};
use postroad_common::config::Env;
use postroad_common::shutdown::{GRACE_DEFAULT, Shutdown};

use crate::cluster::Cluster;
use crate::commands::{migrate, tokens};
use crate::output::Line;

/// Runs Postroad on this machine until Ctrl-C: a private Postgres and RabbitMQ on free ports, an
/// API, a scheduler, and workers.
///
/// What is missing is installed where that is allowed (Debian's postgresql and rabbitmq-server).
/// With DATABASE_URL and AMQP_URL set, those servers are used and none are started.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// Where data and logs go.
    #[arg(long, default_value = ".postroad/dev", value_name = "DIR")]
    dir: PathBuf,
    /// Begin with empty servers.
    #[arg(long)]
    fresh: bool,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    workers: u16,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=16))]
    schedulers: u16,
    /// The queues that the workers consume.
    #[arg(long, default_value = "default,sms,webhooks")]
    queues: String,
    /// Start Postgres and RabbitMQ, and nothing on them.
    #[arg(long)]
    servers_only: bool,
    /// Run this with DATABASE_URL, AMQP_URL, POSTROAD_MANAGEMENT_URL and, if there is an API,
    /// POSTROAD_URL set, then stop.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const HELP: &str = "\
Examples:
  postroad dev                                   until Ctrl-C
  postroad dev --workers 8 --fresh
  postroad dev --servers-only -- cargo test      fails if the command does";

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals(GRACE_DEFAULT).context("listening for signals")?;
    let line = Arc::new(Line::new());
    let started = tokio::select! {
        started = start(&args, &line) => Some(started?),
        () = shutdown.quiesce.cancelled() => None,
    };
    let Some(mut cluster) = started else {
        bail!("stopped before everything was up")
    };
    let ended = if args.command.is_empty() {
        describe(&cluster, &line).await?;
        tokio::select! {
            error = cluster.exited() => Err(error),
            () = shutdown.quiesce.cancelled() => Ok(()),
        }
    } else {
        let urls = &cluster.urls;
        let mut command = tokio::process::Command::new(&args.command[0]);
        command
            .args(&args.command[1..])
            .env("DATABASE_URL", &urls.database)
            .env("AMQP_URL", &urls.amqp)
            .envs(
                urls.management
                    .iter()
                    .map(|url| ("POSTROAD_MANAGEMENT_URL", url)),
            )
            .envs(urls.api.iter().map(|url| ("POSTROAD_URL", url)))
            .kill_on_drop(true);
        drop(line);
        tokio::select! {
            status = command.status() => status.context("running the command").and_then(passed_on),
            error = cluster.exited() => Err(error),
            () = shutdown.quiesce.cancelled() => Err(anyhow::anyhow!("stopped by a signal")),
        }
    };
    cluster.stop().await?;
    ended
}

async fn start(args: &Args, line: &Arc<Line>) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::start(&args.dir, args.fresh, line).await?;
    if args.servers_only {
        return Ok(cluster);
    }
    let result = start_programs(args, &mut cluster, line).await;
    match result {
        Ok(()) => Ok(cluster),
        Err(error) => {
            cluster.stop().await?;
            Err(error)
        }
    }
}

async fn start_programs(args: &Args, cluster: &mut Cluster, line: &Line) -> anyhow::Result<()> {
    migrate::migrate(&cluster.setup()?, GRACE_DEFAULT, |text| line.say(text)).await?;
    for n in 1..=args.schedulers {
        cluster.start_program(&format!("scheduler-{n}"), "postroad-scheduler", &[])?;
    }
    // Whoever tries webhooks here sends them to this machine.
    let allow = Env::of_process()
        .text("POSTROAD_WEBHOOK_ALLOW")
        .unwrap_or("127.0.0.0/8")
        .to_owned();
    let allow = ("POSTROAD_WEBHOOK_ALLOW", allow);
    cluster.start_api(std::slice::from_ref(&allow))?;
    let env = [("POSTROAD_QUEUES", args.queues.clone()), allow];
    for n in 1..=args.workers {
        cluster.start_program(&format!("worker-{n}"), "postroad-worker", &env)?;
    }
    cluster.wait_ready().await
}

async fn describe(cluster: &Cluster, line: &Line) -> anyhow::Result<()> {
    let urls = &cluster.urls;
    if let Some(api) = &urls.api {
        let store = cluster.setup()?.current_store().await?;
        let token = tokens::for_a_day(&store, "postroad dev").await?;
        line.say(&tokens::example(api, &token));
        let file = cluster.dir().join("env");
        write_env(&file, api, &token).with_context(|| format!("writing {}", file.display()))?;
        line.say(&format!("for another terminal:  . {}", file.display()));
    }
    line.say(&format!("DATABASE_URL={}", urls.database));
    line.say(&format!("AMQP_URL={}", urls.amqp));
    if let Some(management) = &urls.management {
        line.say(&format!("RabbitMQ's own pages: {management}"));
    }
    line.say(&format!("logs: {}", cluster.dir().join("log").display()));
    line.say("running until Ctrl-C");
    Ok(())
}

/// For a shell to read: where the API is, and the token. For its owner's eyes. Not DATABASE_URL and
/// AMQP_URL: with these set, other commands would use these servers instead of their own.
fn write_env(file: &Path, api: &str, token: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = file.with_extension("new");
    drop(std::fs::remove_file(&new));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let text = format!("export POSTROAD_URL='{api}' POSTROAD_TOKEN='{token}'\n");
    options.open(&new)?.write_all(text.as_bytes())?;
    std::fs::rename(new, file)
}

/// The command's failure is ours.
fn passed_on(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() {
        Ok(())
    } else {
        bail!("the command ended with {status}")
    }
}
