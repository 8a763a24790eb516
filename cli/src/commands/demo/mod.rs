//! `postroad demo`: a campaign through everything, counted by the provider.

mod audience;
mod campaign;
mod report;
mod simulator;
mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postroad_common::job::NewJob;
use postroad_common::shutdown::{GRACE_DEFAULT, Shutdown};
use postroad_common::store::{QueueChange, Store};

use self::audience::Audience;
use self::campaign::{CampaignDemo, CampaignReport};
use self::report::Report;
use self::simulator::SimulatorClient;
use self::webhooks::Webhooks;
use crate::cluster::Cluster;
use crate::commands::{enqueue, migrate, tokens};
use crate::output::Line;

/// Sends a sample campaign through the real programs to a simulated provider, and counts what
/// arrived there.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// How many messages; with --campaign, how many recipients are uploaded [default: 5000; with
    /// --campaign, 2000000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    recipients: Option<u64>,
    /// Upload a campaign over the API, cancel it in the middle, and resume it.
    #[arg(long, conflicts_with_all = ["webhooks", "kill", "resolve"])]
    campaign: bool,
    /// With --campaign: end when so many have arrived.
    #[arg(long, value_name = "MESSAGES", default_value_t = 200_000, requires = "campaign",
          value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    drain: u64,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    schedulers: u16,
    /// Send real webhook bodies instead of messages, and check them byte for byte.
    #[arg(long)]
    webhooks: bool,
    /// Kill (SIGKILL) a random worker or scheduler every second while the campaign runs.
    #[arg(long)]
    kill: bool,
    /// Decide about held jobs by the provider's own record, and wait until they are done too.
    #[arg(long)]
    resolve: bool,
    /// Leave everything running afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Flags for the simulated provider, such as "--latency 50ms --rate-503 0.01".
    #[arg(
        long,
        value_name = "FLAGS",
        default_value = "",
        allow_hyphen_values = true
    )]
    simulator: String,
    /// Where data and logs go.
    #[arg(long, default_value = ".postroad/demo", value_name = "DIR")]
    dir: PathBuf,
}

const HELP: &str = "\
The last lines are the report; the exit code is 1 when anything was lost or arrived twice.
`held` are messages whose worker was killed in mid-effect: they wait for a decision.

Examples:
  postroad demo
  postroad demo --recipients 50000 --workers 4 --kill --resolve
  postroad demo --webhooks --simulator '--rate-503 0.1'
  postroad demo --campaign --recipients 500000 --drain 50000";

/// In a killed cluster, what waits for a lease should not wait for long.
const LEASE_WHEN_KILLING: &str = "5s";
/// Killing ends when the provider has heard nothing for so long: what is left waits for leases.
const QUIET: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);
/// How long the campaign may stand still before something is wrong. Longer than any lease, and
/// than a message may wait in the pipe.
const STALL: Duration = Duration::from_secs(180);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals(GRACE_DEFAULT).context("listening for signals")?;
    let line = Arc::new(Line::new());
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&args.dir, true, &line) => cluster?,
        () = shutdown.quiesce.cancelled() => bail!("stopped before everything was up"),
    };
    let result = tokio::select! {
        result = shown(&args, &mut cluster, &line) => result,
        () = shutdown.quiesce.cancelled() => Err(anyhow::anyhow!("stopped by a signal")),
    };
    if args.keep && result.is_ok() {
        if let Some(api) = &cluster.urls.api {
            let store = cluster.setup()?.current_store().await?;
            let token = tokens::for_a_day(&store, "postroad demo").await?;
            line.say(&tokens::example(api, &token));
        }
        line.say(&format!(
            "still running: DATABASE_URL={}",
            cluster.urls.database
        ));
        line.say(&format!("               AMQP_URL={}", cluster.urls.amqp));
        if let Some(management) = &cluster.urls.management {
            line.say(&format!(
                "               RabbitMQ's own pages: {management}"
            ));
        }
    }
    if let Ok(report) = &result {
        line.show(String::new());
        report.print();
    }
    if args.keep && result.is_ok() {
        line.say("running until Ctrl-C");
        shutdown.quiesce.cancelled().await;
    }
    line.show("stopping".to_owned());
    cluster.stop().await?;
    result?.verdict()
}

/// What was shown, with its figures.
enum Shown {
    Jobs(Report),
    Campaign(CampaignReport),
}

impl Shown {
    fn print(&self) {
        match self {
            Self::Jobs(report) => report.print(),
            Self::Campaign(report) => report.print(),
        }
    }

    fn verdict(&self) -> anyhow::Result<()> {
        match self {
            Self::Jobs(report) => report.verdict(),
            Self::Campaign(report) => report.verdict(),
        }
    }
}

async fn shown(args: &Args, cluster: &mut Cluster, line: &Arc<Line>) -> anyhow::Result<Shown> {
    match args.campaign {
        true => over_the_api(args, cluster, line).await.map(Shown::Campaign),
        false => campaign(args, cluster, line).await.map(Shown::Jobs),
    }
}

/// Jobs of a campaign in the pipe at once: more than a queue has by itself, for the sake of pace.
const CAMPAIGN_WINDOW: i32 = 6000;
/// Recipients that are uploaded unless it is told otherwise, and messages without a campaign.
const CAMPAIGN_RECIPIENTS: u64 = 2_000_000;
const RECIPIENTS: u64 = 5000;

async fn over_the_api(
    args: &Args,
    cluster: &mut Cluster,
    line: &Arc<Line>,
) -> anyhow::Result<CampaignReport> {
    let recipients = args.recipients.unwrap_or(CAMPAIGN_RECIPIENTS);
    let setup = cluster.setup()?;
    migrate::migrate(&setup, GRACE_DEFAULT, |text| line.say(text)).await?;
    let simulator = SimulatorClient::start(cluster, &args.simulator).await?;
    start_programs(args, cluster, &simulator, None)?;
    line.show("waiting for the programs".to_owned());
    cluster.wait_ready().await?;
    let store = setup.current_store().await?;
    let window = QueueChange {
        window_size: Some(CAMPAIGN_WINDOW),
        ..QueueChange::default()
    };
    store.set_queue("sms", &window).await?;
    let token = tokens::for_a_day(&store, "postroad demo").await?;
    let api = cluster.urls.api.clone().context("there is no api")?;
    let demo = CampaignDemo {
        api: &api,
        token: &token,
        simulator: &simulator,
        line,
        recipients,
        drained: args.drain.min(recipients),
    };
    demo.run().await
}

/// What is sent.
enum Campaign {
    Sms(Audience),
    Webhooks(Webhooks),
}

async fn campaign(args: &Args, cluster: &mut Cluster, line: &Arc<Line>) -> anyhow::Result<Report> {
    let setup = cluster.setup()?;
    migrate::migrate(&setup, GRACE_DEFAULT, |text| line.say(text)).await?;
    let simulator = SimulatorClient::start(cluster, &args.simulator).await?;
    let mut campaign = if args.webhooks {
        Campaign::Webhooks(Webhooks::load(&simulator)?)
    } else {
        Campaign::Sms(Audience::load(args.recipients.unwrap_or(RECIPIENTS))?)
    };
    start_programs(args, cluster, &simulator, Some(&campaign))?;
    line.show("waiting for the programs".to_owned());
    cluster.wait_ready().await?;

    let store = setup.current_store().await?;
    let run = Run {
        store: &store,
        simulator: &simulator,
        line,
    };
    let started = Instant::now();
    let accepted = run.accept(&mut campaign).await?;
    let accept_time = started.elapsed();
    let kills = run
        .drain(args.kill.then_some(&mut *cluster), accepted)
        .await?;
    let drain_time = started.elapsed();
    if args.kill {
        line.say(&format!("killed {kills} times"));
    }
    if args.resolve {
        run.resolve_held().await?;
        run.drain(None, accepted).await?;
    }
    if let Campaign::Webhooks(webhooks) = &campaign {
        webhooks.check(&simulator, line).await?;
    }
    Report::count(&store, &simulator, accepted, accept_time, drain_time).await
}

fn start_programs(
    args: &Args,
    cluster: &mut Cluster,
    simulator: &SimulatorClient,
    campaign: Option<&Campaign>,
) -> anyhow::Result<()> {
    let mut common = Vec::new();
    if args.kill {
        common.push(("POSTROAD_LEASE", LEASE_WHEN_KILLING.to_owned()));
    }
    for n in 1..=args.schedulers {
        cluster.start_program(&format!("scheduler-{n}"), "postroad-scheduler", &common)?;
    }
    let mut env = common;
    env.push(("POSTROAD_WEBHOOK_ALLOW", "127.0.0.0/8".to_owned()));
    cluster.start_api(&env)?;
    env.push(("POSTROAD_QUEUES", "default,sms,webhooks".to_owned()));
    env.push(("POSTROAD_SMS_GATEWAY_URL", simulator.url("/sms")));
    if let Some(Campaign::Webhooks(webhooks)) = campaign {
        env.push(("POSTROAD_WEBHOOK_SECRET", webhooks.secret()));
    }
    for n in 1..=args.workers {
        cluster.start_program(&format!("worker-{n}"), "postroad-worker", &env)?;
    }
    Ok(())
}

/// The campaign under way.
struct Run<'a> {
    store: &'a Store,
    simulator: &'a SimulatorClient,
    line: &'a Line,
}

impl Run<'_> {
    /// Enqueues everything, a batch at a time, with at most two batches in memory.
    async fn accept(&self, campaign: &mut Campaign) -> anyhow::Result<u64> {
        let mut accepted = 0;
        loop {
            let batch: Vec<NewJob> = match campaign {
                Campaign::Sms(audience) => audience.next_batch()?,
                Campaign::Webhooks(webhooks) => webhooks.next_batch()?,
            };
            if batch.is_empty() {
                return Ok(accepted);
            }
            accepted += enqueue::enqueue(self.store, &batch).await?.len() as u64;
            self.line.show(format!("accepted {accepted}"));
        }
    }

    /// Waits until nothing is on its way any more. Kills a program of `victims` every second, as
    /// long as the provider still hears something.
    async fn drain(&self, mut victims: Option<&mut Cluster>, accepted: u64) -> anyhow::Result<u32> {
        let mut kills = 0;
        let (mut next_kill, mut heard) = (Instant::now() + Duration::from_secs(1), 0);
        let mut heard_at = Instant::now();
        while self.store.has_unfinished().await? {
            let effects = self.simulator.report().await?.effects;
            if effects > heard {
                (heard, heard_at) = (effects, Instant::now());
            }
            if heard_at.elapsed() > STALL {
                bail!("nothing has arrived for {STALL:?}; the logs are kept");
            }
            self.show(accepted, effects).await?;
            if let Some(cluster) = &mut victims
                && Instant::now() >= next_kill
                && heard_at.elapsed() < QUIET
            {
                let name = cluster.kill_one().await?;
                kills += 1;
                self.line.show(format!("killed {name}"));
                next_kill = Instant::now() + Duration::from_secs(1);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(kills)
    }

    async fn show(&self, accepted: u64, delivered: u64) -> anyhow::Result<()> {
        let census = self.store.census().await?;
        let piped = (census.dispatched + census.running) as u64;
        let (failed, held) = (census.failed as u64, census.held as u64);
        let scheduled =
            accepted.saturating_sub(delivered + census.dispatched as u64 + failed + held);
        self.line.show(format!(
            "scheduled {scheduled}  in the pipe {piped}  delivered {delivered}  failed {failed}  held {held}"
        ));
        Ok(())
    }

    /// The provider's record decides: what it has seen is done, what it has not is sent again.
    async fn resolve_held(&self) -> anyhow::Result<()> {
        use postroad_common::store::Resolution;
        let held = report::ids_in_state(self.store, "held").await?;
        let seen = self.simulator.seen(&held).await?;
        let (done, again): (Vec<_>, Vec<_>) = held.into_iter().partition(|id| seen.contains(id));
        self.line.say(&format!(
            "resolving {} held jobs by the provider's record: {} arrived, {} did not",
            done.len() + again.len(),
            done.len(),
            again.len()
        ));
        self.store.resolve(&done, Resolution::Completed).await?;
        self.store.resolve(&again, Resolution::Retry).await?;
        Ok(())
    }
}
