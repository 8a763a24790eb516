//! One run: load, fault, calm, drain, history, verdict.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::checker::{Limits, Report, check_with};
use crate::faults::{Acted, FaultRow, Field};
use crate::history::History;
use crate::stage::{Ground, PIPE_TTL, Stage};

/// Load before the fault: what throughput was like.
const BEFORE: Duration = Duration::from_secs(4);
/// Load after the fault, at least.
const AFTER: Duration = Duration::from_secs(3);
/// Nothing here may take longer than this: a hang is a finding, too.
const RUN_MAX: Duration = Duration::from_secs(300);

/// What became of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The fault, or the crash point and its hit.
    pub name: String,
    /// What it was started with.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Programs killed.
    pub kills: u64,
    /// Wires cut or degraded.
    pub partitions: u64,
    /// Seconds from the end of the fault until throughput was back.
    pub recovered_after: Option<f64>,
    /// The figures.
    pub report: Report,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether throughput was back too late beside other runs, so that it was measured again alone:
    /// this is what was found then.
    #[serde(default)]
    pub is_second: bool,
}

/// How the complaints begin that depend on the machine, too.
const SLOW: &str = "throughput";

impl Outcome {
    /// Whether nothing is wrong with it but the time that it took to be well again.
    pub fn is_only_slow(&self) -> bool {
        match &self.verdict {
            Verdict::Red(reasons) => reasons.iter().all(|reason| reason.starts_with(SLOW)),
            Verdict::Green | Verdict::Skipped(_) => false,
        }
    }
}

/// Whether a run was as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was.
    Green,
    /// It was not: in what.
    Red(Vec<String>),
    /// It could not be made on this machine: why.
    Skipped(String),
}

/// What a run left, beside its outcome: the observers' history, to be kept when it is red.
pub struct Ran {
    /// The outcome.
    pub outcome: Outcome,
    /// The history, unless the run broke off before it could be taken.
    pub history: Option<History>,
}

/// Makes the run of this row. What goes wrong is in the outcome.
pub async fn make(row: &FaultRow, ground: &Ground, field: &Field) -> Ran {
    if let (true, Err(why)) = ((row.setup)().upgrades, &ground.previous) {
        return skipped(row, ground.seed, why.clone());
    }
    let started = Instant::now();
    let mut counts = Counts::default();
    let made = tokio::time::timeout(RUN_MAX, attempt(row, ground, field, &mut counts)).await;
    let made = made
        .with_context(|| format!("the run did not end within {RUN_MAX:?}"))
        .flatten();
    let (history, verdict, report) = match made {
        Ok(Made::Skipped(why)) => (None, Verdict::Skipped(why), Report::default()),
        Ok(Made::History(history)) => {
            let report = check(&history);
            let verdict = judge(row, &report, counts.recovered_after);
            (Some(history), verdict, report)
        }
        Err(error) => (
            None,
            Verdict::Red(vec![format!("{error:#}")]),
            Report::default(),
        ),
    };
    Ran {
        history,
        outcome: Outcome {
            name: row.name.to_owned(),
            seed: ground.seed,
            seconds: started.elapsed().as_secs_f64(),
            kills: counts.kills,
            partitions: counts.partitions,
            recovered_after: counts.recovered_after,
            report,
            verdict,
            is_second: false,
        },
    }
}

/// A run that this machine does not allow.
pub fn skipped(row: &FaultRow, seed: u64, why: String) -> Ran {
    Ran {
        history: None,
        outcome: Outcome {
            name: row.name.to_owned(),
            seed,
            seconds: 0.0,
            kills: 0,
            partitions: 0,
            recovered_after: None,
            report: Report::default(),
            verdict: Verdict::Skipped(why),
            is_second: false,
        },
    }
}

#[derive(Default)]
struct Counts {
    kills: u64,
    partitions: u64,
    recovered_after: Option<f64>,
}

enum Made {
    History(History),
    Skipped(String),
}

async fn attempt(
    row: &FaultRow,
    ground: &Ground,
    field: &Field,
    counts: &mut Counts,
) -> anyhow::Result<Made> {
    let mut stage = Stage::open(ground, (row.setup)()).await?;
    let made = with_stage(row, ground, field, &mut stage).await;
    (counts.kills, counts.partitions) = (stage.kills, stage.partitions);
    match made {
        Ok(Some(submits)) => {
            let (broken, healed) = (stage.broken_at(), stage.healed_at());
            let history = stage.close(submits).await?;
            if let (Some(broken), Some(healed)) = (broken, healed) {
                counts.recovered_after = recovered_after(&history, broken, healed);
            }
            Ok(Made::History(history))
        }
        Ok(None) => {
            stage.cluster.take_down().await?;
            Ok(Made::Skipped("this machine does not allow it".to_owned()))
        }
        Err(error) => {
            let logs = stage.cluster.keep_logs();
            Err(error.context(format!("logs are in {}", logs.display())))
        }
    }
}

/// The submits; none: the fault could not be injected here.
async fn with_stage(
    row: &FaultRow,
    ground: &Ground,
    field: &Field,
    stage: &mut Stage,
) -> anyhow::Result<Option<Vec<crate::history::Submit>>> {
    let is_herd = stage.setup.load.herd_after.is_some();
    stage.load(ground.seed);
    if !is_herd {
        tokio::time::sleep(BEFORE).await;
    }
    let before = stage.cluster.provider.report().effects as f64 / BEFORE.as_secs_f64();
    if let Acted::Skipped(why) = (row.act)(stage, field)
        .await
        .context("injecting the fault")?
    {
        tracing::warn!("{}: {why}", row.name);
        stage.stop_clients().await?;
        return Ok(None);
    }
    let submits = if is_herd {
        stage.await_clients().await?
    } else {
        let limit = row.recovery.limit(stage.setup.lease).unwrap_or(0.0);
        await_recovery(stage, before, limit).await;
        stage.stop_clients().await?
    };
    stage.drain().await?;
    Ok(Some(submits))
}

/// From the gate to the provider. Debug builds take their time, and share the machine with other runs.
const START_SLACK: f64 = if cfg!(debug_assertions) { 2.0 } else { 0.5 };

/// The figures of a run here, where messages wait in the pipe for less long than usual.
pub fn check(history: &History) -> Report {
    let missed_after = PIPE_TTL + Duration::from_secs(25);
    let limits = Limits {
        shadow_seconds: missed_after.as_secs_f64(),
        start_slack_seconds: START_SLACK,
        ..Limits::default()
    };
    check_with(history, &limits)
}

/// What a report finds fault with, one thing each.
pub fn complaints(report: &Report) -> Vec<String> {
    let told = report.findings.iter().flat_map(|(figure, finding)| {
        let count = format!("{figure}: {}", finding.count);
        std::iter::once(count).chain(finding.samples.iter().map(|sample| format!("  {sample}")))
    });
    told.collect()
}

/// Lets the load go on until throughput is back, or the time for it is over. What is judged is the
/// history; this only saves waiting.
async fn await_recovery(stage: &Stage, before: f64, limit: f64) {
    let healed = Instant::now();
    let effects = || stage.cluster.provider.report().effects as f64;
    let is_over = || healed.elapsed().as_secs_f64() > limit + WINDOW;
    tokio::time::sleep(AFTER).await;
    while !is_over() {
        let count = effects();
        tokio::time::sleep(Duration::from_secs_f64(WINDOW)).await;
        if effects() - count >= before * WINDOW {
            return;
        }
    }
}

/// What must hold beyond the figures of every run.
fn judge(row: &FaultRow, report: &Report, recovered_after: Option<f64>) -> Verdict {
    let mut red = complaints(report);
    if !row.may_repeat && report.context.explained_duplicates > 0 {
        red.push(format!(
            "{} effects were repeated, which this fault does not excuse",
            report.context.explained_duplicates
        ));
    }
    let setup = (row.setup)();
    let asks_apis = setup.apis > 0 && setup.load.http_percent > 0;
    if asks_apis && report.context.over_http == 0 {
        red.push("nobody was served over HTTP".to_owned());
    }
    if let Some(limit) = row.recovery.limit((row.setup)().lease) {
        match recovered_after {
            Some(seconds) if seconds <= limit => {}
            Some(seconds) => red.push(format!(
                "{SLOW} was back after {seconds:.1} s, not within {limit:.1} s"
            )),
            None => red.push(format!("{SLOW} did not come back")),
        }
    }
    if red.is_empty() {
        Verdict::Green
    } else {
        Verdict::Red(red)
    }
}

/// A window of throughput.
const WINDOW: f64 = 1.0;
const STEP: f64 = 0.1;

/// Seconds from the end of the fault to the first second in which as much was done as nine tenths
/// of the mean before the fault. None: there was none.
fn recovered_after(history: &History, broken: f64, healed: f64) -> Option<f64> {
    let mut effects: Vec<f64> = history
        .calls
        .iter()
        .filter(|call| call.effect)
        .map(|call| call.t)
        .collect();
    effects.sort_by(f64::total_cmp);
    let within = |from: f64, to: f64| {
        effects.partition_point(|t| *t < to) - effects.partition_point(|t| *t < from)
    };
    let first = effects.first().copied()?;
    // The first second is the start of everything.
    let from = (first + WINDOW).min(broken);
    let before = within(from, broken) as f64 / (broken - from).max(WINDOW);
    let last = effects.last().copied()?;
    let mut start = healed;
    while start < last {
        if within(start, start + WINDOW) as f64 >= 0.9 * before * WINDOW {
            return Some((start - healed).max(0.0));
        }
        start += STEP;
    }
    None
}
