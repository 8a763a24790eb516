//! The runs with a fault: which of them go beside each other, and on which servers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::future::try_join;
use futures_util::stream;
use postroad_chaos::faults::{self, Field, Needs};
use postroad_chaos::run::{self, Outcome, Ran};
use postroad_chaos::stage::Ground;
use postroad_tests::faults::disk::{Possible, SmallDisk};
use postroad_tests::harness::endpoints::Endpoints;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::args::Args;
use crate::site::start_servers;
use crate::suite::{RUNS_AT_ONCE, fault_rows, finished};

/// First those that leave the servers alone, beside each other; then those that break them, on two
/// pairs of servers; then those that need the machine for themselves.
pub(crate) async fn everything(
    args: &Args,
    ground: &Ground,
    field: &Field,
    red: &Path,
) -> anyhow::Result<Vec<Outcome>> {
    let rows: Vec<_> = fault_rows(args)
        .into_iter()
        .map(|(row, n)| Run {
            row,
            seed: ground.seed + n,
        })
        .collect();
    let of = |needs: Needs| rows.iter().filter(move |run| run.row.needs == needs);
    let mut outcomes = Vec::new();
    {
        let beside = Ground {
            is_alone: false,
            ..ground.clone()
        };
        // These measure time, too, and debug programs take more of it.
        let at_once = RUNS_AT_ONCE - usize::from(args.debug_programs);
        let ran = stream::iter(of(Needs::Nothing))
            .map(|run| run.make(&beside, field))
            .buffer_unordered(at_once);
        let mut ran = std::pin::pin!(ran);
        while let Some(ran) = ran.next().await {
            outcomes.push(finished(ran, red)?);
        }
    }
    let of_servers = of(Needs::Servers).collect();
    outcomes.extend(servers(args, of_servers, ground, field, red).await?);
    // Time is the machine's, too: who was slow beside others, and nothing else, has it to himself.
    let slow = outcomes.extract_if(.., |outcome| outcome.is_only_slow());
    let slow: Vec<String> = slow.map(|outcome| outcome.name).collect();
    for run in rows
        .iter()
        .filter(|run| slow.iter().any(|name| name == run.row.name))
    {
        println!("again, alone: {}", run.row.name);
        let mut ran = run.make(ground, field).await;
        ran.outcome.is_second = true;
        outcomes.push(finished(ran, red)?);
    }
    for run in of(Needs::Machine) {
        outcomes.push(finished(run.make(ground, field).await, red)?);
    }
    for run in of(Needs::SmallDisk) {
        outcomes.push(finished(on_small_disk(run, ground).await?, red)?);
    }
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(outcomes)
}

/// A row and its seed.
struct Run {
    row: faults::FaultRow,
    seed: u64,
}

impl Run {
    async fn make(&self, ground: &Ground, field: &Field) -> Ran {
        let ground = Ground {
            seed: self.seed,
            ..ground.clone()
        };
        run::make(&self.row, &ground, field).await
    }
}

/// One by one on each pair of servers. Most of such a run is waiting for a server to be back, so that
/// there are two pairs.
async fn servers(
    args: &Args,
    mut runs: VecDeque<&Run>,
    ground: &Ground,
    field: &Field,
    red: &Path,
) -> anyhow::Result<Vec<Outcome>> {
    // Debug programs keep the machine busy enough.
    let second = match runs.len() {
        2.. if !args.debug_programs => Some(start_servers(&args.dir.join("second")).await?),
        _ => None,
    };
    let runs = RefCell::new(&mut runs);
    let one_by_one = async |ground: &Ground, field: &Field| {
        let mut outcomes = Vec::new();
        loop {
            let Some(run) = runs.borrow_mut().pop_front() else {
                return anyhow::Ok(outcomes);
            };
            outcomes.push(finished(run.make(ground, field).await, red)?);
        }
    };
    let Some(second) = second else {
        return Box::pin(one_by_one(ground, field)).await;
    };
    let beside = Ground {
        endpoints: Endpoints::of(&second),
        ..ground.clone()
    };
    let second = Field::new(second);
    let made = try_join(
        Box::pin(one_by_one(ground, field)),
        Box::pin(one_by_one(&beside, &second)),
    );
    let made = made.await;
    second.into_inner().stop().await?;
    let (mut outcomes, others) = made?;
    outcomes.extend(others);
    Ok(outcomes)
}

/// Runs in random order on the same servers, until the time is up; then the one that looks for leaks.
pub(crate) async fn soak(
    minutes: u64,
    ground: &Ground,
    field: &Field,
    red: &Path,
) -> anyhow::Result<Vec<Outcome>> {
    let deadline = Instant::now() + Duration::from_secs(60 * minutes);
    let mut rng = StdRng::seed_from_u64(ground.seed);
    let (measured, mut rows): (Vec<_>, Vec<_>) = faults::table()
        .into_iter()
        .partition(|row| row.name == faults::LEAKS);
    rows.retain(|row| row.needs != Needs::SmallDisk);
    let mut seeds = ground.seed + 1..;
    let mut outcomes = Vec::new();
    let mut make = async |row| {
        let seed = seeds.next().context("there are seeds enough")?;
        let run = Run { row, seed };
        finished(run.make(ground, field).await, red)
    };
    while Instant::now() < deadline {
        outcomes.push(make(rows[rng.random_range(0..rows.len())].clone()).await?);
    }
    for row in measured {
        outcomes.push(make(row).await?);
    }
    Ok(outcomes)
}

/// Postgres keeps up to 1 GB of its log, and RabbitMQ half of that; the latter raises an alarm when
/// less than 50 MB are free.
const DISK_BYTES: u64 = 2560 * 1024 * 1024;

/// Makes a run on servers of its own, whose disk can be filled.
async fn on_small_disk(run: &Run, ground: &Ground) -> anyhow::Result<Ran> {
    let disk = match SmallDisk::mount(DISK_BYTES)? {
        Possible::Here(disk) => disk,
        Possible::NotHere(why) => return Ok(run::skipped(&run.row, run.seed, why)),
    };
    let servers = start_servers(disk.path()).await?;
    let ground = Ground {
        endpoints: Endpoints::of(&servers),
        disk: Some(Arc::new(disk)),
        ..ground.clone()
    };
    let field = Field::new(servers);
    let ran = run.make(&ground, &field).await;
    field.into_inner().stop().await?;
    Ok(ran)
}
