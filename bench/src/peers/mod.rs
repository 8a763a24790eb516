//! Side by side with peers: the same machine, the same run, the same number of jobs and the same
//! payload; and beside each rate what is guaranteed while it is reached.
//!
//! | room | for |
//! |---|---|
//! | `peer` | what a peer is: its programs as data, and its guarantees |
//! | `celery` … `apalis` | one each; their programs are in `bench/peers` |
//! | `postroad` | Postroad, measured as they are |
//! | `install` | from package registries into a directory of their own |
//! | `programs` | started, waited for with a limit, stopped |
//! | `site` | a database, a virtual host or a Redis for one run |
//! | `measure` | one run of one peer |
//! | `records` | what handlers write down, and what follows from it |
//! | `report` | the table, `peers.json` and `peers.svg` |
//!
//! To add one: a file here, its programs beside the others, and a line in [`PEERS`].
//!
//! A job takes no time: its handler appends 16 bytes to a file. It is enqueued while no worker runs,
//! by the call for many where there is one (1,000 each). Then workers start; the rate is from the
//! first start to the last, so that nobody's way to the first one counts. Then, on the idle system,
//! 200 jobs are enqueued 50 ms apart. Runs of all take turns, so that what changes on the machine
//! changes for all.

mod apalis;
mod bullmq;
mod celery;
mod dramatiq;
mod graphile_worker;
mod install;
mod measure;
mod peer;
mod pg_boss;
mod postroad;
mod programs;
mod records;
mod report;
mod sidekiq;
mod site;

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;

use self::install::{Home, Installed};
use self::peer::Peer;
use self::report::{Report, Row};
use crate::ground::Ground;

/// All of them, in the order in which they take turns.
const PEERS: [&Peer; 7] = [
    &celery::PEER,
    &dramatiq::PEER,
    &graphile_worker::PEER,
    &pg_boss::PEER,
    &bullmq::PEER,
    &sidekiq::PEER,
    &apalis::PEER,
];

/// What several of them have from the server they run on.
const RABBITMQ_ORDER: &str = "first in, first out, but for what is redelivered";
const RABBITMQ_QUEUES: &str = "https://www.rabbitmq.com/docs/queues";
const REDIS_LOSES: &str = "no: synced each second, a crash may lose the last one";
const REDIS_PERSISTENCE: &str =
    "https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/";

/// Jobs in a run, unless said.
const JOBS: usize = 50_000;
const JOBS_QUICK: usize = 5_000;
const RUNS: u16 = 3;

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A tenth of the jobs, once: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Only these; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    only: Vec<String>,
    /// How often each is measured [default: 3, with --quick 1]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: Option<u16>,
    /// Jobs in a run [default: 50000, with --quick 5000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    jobs: Option<u32>,
    /// Where peers are installed.
    #[arg(long, default_value = ".postroad/peers", value_name = "DIR")]
    home: PathBuf,
}

const HELP: &str = "\
Examples:
  make bench-peers                                    all of them; some twenty minutes, longer at first
  make bench-peers ARGS='--quick'                     a look
  make bench-peers ARGS='--only postroad --only graphile-worker --runs 5'

What is missing is installed first: by pip, npm and cargo into .postroad/peers, Redis and Sidekiq by
apt. A peer that cannot be installed, or fails, is reported with the reason; the others go on.

The figures are in bench/out/peers.json, the rates in bench/out/peers.svg.";

fn names() -> Vec<&'static str> {
    let peers = PEERS.iter().map(|peer| peer.name);
    std::iter::once(postroad::NAME).chain(peers).collect()
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn jobs(&self) -> anyhow::Result<usize> {
        let default = if self.quick { JOBS_QUICK } else { JOBS };
        Ok(self.jobs.map_or(Ok(default), usize::try_from)?)
    }

    fn runs(&self) -> u16 {
        self.runs.unwrap_or(if self.quick { 1 } else { RUNS })
    }
}

pub(crate) async fn run(args: Args, dir: &Path, out: &Path) -> anyhow::Result<()> {
    let (jobs, runs) = (args.jobs()?, args.runs());
    std::fs::create_dir_all(out)?;
    let ground = Ground::start(dir).await?;
    let home = Home::open(&args.home, ground.processes())?;
    let mut contenders = Vec::new();
    if args.wants(postroad::NAME) {
        contenders.push((Contender::Postroad, Row::of_postroad()));
    }
    for peer in PEERS.into_iter().filter(|peer| args.wants(peer.name)) {
        eprintln!("installing what is missing of {}", peer.name);
        let mut row = Row::of(peer);
        match home.install(peer).await {
            Ok(installed) => {
                row.version.clone_from(&installed.version);
                contenders.push((Contender::Peer(installed), row));
            }
            Err(error) => {
                row.failed(&error);
                contenders.push((Contender::Absent, row));
            }
        }
    }
    for nth in 1..=runs {
        for (contender, row) in &mut contenders {
            let run = match contender {
                Contender::Postroad => postroad::run(&ground, jobs).await,
                Contender::Peer(installed) => measure::run(&ground, installed, jobs).await,
                Contender::Absent => continue,
            };
            match run {
                Ok(run) => row.measured(nth, run),
                Err(error) => row.failed(&error),
            }
        }
    }
    ground.stop().await?;
    let rows = contenders.into_iter().map(|(_, row)| row).collect();
    let report = Report::new(jobs, rows);
    report.write(out)?;
    println!("{report}");
    Ok(())
}

/// Who takes turns.
enum Contender {
    Postroad,
    Peer(Installed),
    /// It could not be installed.
    Absent,
}
