//! Commands that die halfway and are given again.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_tests::simulator::Behaviour;
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use super::{Death, SIGABRT};
use crate::history::{Answer, History, Lost, Submit};
use crate::load::sha256;
use crate::observer::now;
use crate::stage::{Ground, Setup, Stage};

/// Longer than any of these commands takes.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Three batches of `postroad enqueue`, and some more.
const LINES: usize = 3300;

/// `postroad migrate` of a database without a schema dies; given again, it comes to its end.
pub(super) async fn migrate(death: Death, ground: &Ground) -> anyhow::Result<()> {
    let setup = Setup {
        schedulers: 0,
        workers: 0,
        ..Setup::default()
    };
    let stage = Stage::open(ground, setup).await?;
    stage
        .cluster
        .query("drop schema postroad cascade", &[])
        .await?;
    let died = postroad(&stage, ground, &["migrate"], Some(death)).await?;
    ensure!(
        died.signal() == Some(SIGABRT),
        "the command ended with {died}"
    );
    for args in [&["migrate"][..], &["migrate", "--check"][..]] {
        let again = postroad(&stage, ground, args, None).await?;
        ensure!(
            again.success(),
            "`postroad {}` ended with {again}",
            args.join(" ")
        );
    }
    stage.cluster.take_down().await
}

/// `postroad enqueue --file` dies after a batch; given again with the same keys, every line has
/// one job.
pub(super) async fn enqueue(death: Death, ground: &Ground) -> anyhow::Result<History> {
    let setup = Setup {
        provider: Behaviour::default(),
        schedulers: 1,
        workers: 2,
        prefetch: 100,
        ..Setup::default()
    };
    let mut stage = Stage::open(ground, setup).await?;
    let (lines, mut submits) = lines(&stage.cluster.provider.url());
    let file = stage.cluster.dir().join("jobs.ndjson");
    std::fs::write(&file, lines).context("writing jobs")?;
    let path = file.to_str().context("the directory has a UTF-8 name")?;
    let args = ["enqueue", "--file", path];

    let died = postroad(&stage, ground, &args, Some(death)).await?;
    ensure!(
        died.signal() == Some(SIGABRT),
        "the command ended with {died}"
    );
    let again = postroad(&stage, ground, &args, None).await?;
    ensure!(
        again.success(),
        "given again, the command ended with {again}"
    );
    stage.note("abort", false);
    stage.drain().await?;
    answer(&stage, &mut submits).await?;
    stage.close(submits).await
}

fn lines(provider_url: &str) -> (String, Vec<Submit>) {
    let mut text = String::new();
    let mut submits = Vec::with_capacity(LINES);
    for n in 0..LINES {
        let (key, body) = (format!("line-{n}"), format!("default line {n}"));
        let args = json!({"url": format!("{provider_url}/webhook/default"), "body": body});
        let line = json!({"kind": "webhook", "args": args, "dedup_key": key});
        text.push_str(&line.to_string());
        text.push('\n');
        let t = now();
        submits.push(Submit {
            t,
            id: Uuid::nil(),
            tenant: "default".to_owned(),
            kind: "webhook".to_owned(),
            on_lost: Lost::Retry,
            due: t,
            expires: None,
            dedup_key: Some(key),
            tick: None,
            body_sha256: Some(sha256(&body)),
            over_http: false,
            resumed: Vec::new(),
            answer: Answer::Unknown,
        });
    }
    (text, submits)
}

/// Which job stands for which line.
async fn answer(stage: &Stage, submits: &mut [Submit]) -> anyhow::Result<()> {
    let rows = stage
        .cluster
        .query("select key, job_id from postroad.dedup", &[])
        .await?;
    ensure!(
        rows.len() == LINES,
        "{} of {LINES} lines have a job",
        rows.len()
    );
    for row in rows {
        let (key, id): (String, Uuid) = (row.get(0), row.get(1));
        let line = submits
            .iter_mut()
            .find(|submit| submit.dedup_key.as_ref() == Some(&key));
        let line = line.with_context(|| format!("nobody enqueued {key}"))?;
        (line.id, line.answer) = (id, Answer::Accepted(id));
    }
    Ok(())
}

async fn postroad(
    stage: &Stage,
    ground: &Ground,
    args: &[&str],
    death: Option<Death>,
) -> anyhow::Result<ExitStatus> {
    let mut command = Command::new(ground.programs.join("postroad"));
    command
        .args(args)
        .env("DATABASE_URL", stage.cluster.database_url())
        .env("AMQP_URL", stage.cluster.vhost().amqp_url())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    if let Some(death) = death {
        command.env(
            "POSTROAD_FAILPOINT",
            format!("{}:abort@{}", death.point.name, death.hit.name()),
        );
    }
    let ended = tokio::time::timeout(COMMAND_MAX, command.status()).await;
    ended
        .with_context(|| format!("`postroad {}` did not end", args.join(" ")))?
        .context("running postroad")
}
