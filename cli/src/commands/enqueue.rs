//! `postroad enqueue`: one job, or a stream of them in constant memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use jiff::Timestamp;
use postroad_common::backoff::Backoff;
use postroad_common::failpoint;
use postroad_common::job::{ARGS_BYTES_MAX, InputError, JobInput, NewJob};
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{self, Enqueued, Store};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, BufReader};

use crate::lines::{REJECTS_SHOWN, read_line};
use crate::output;
use crate::setup::Setup;

/// Enqueues one job, or one per line of a file or of standard input.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// What to do: the kind of the job.
    #[arg(long, required_unless_present = "file")]
    kind: Option<String>,
    /// Its input, as JSON.
    #[arg(long, default_value = "{}", conflicts_with = "file")]
    args: String,
    #[arg(long, conflicts_with = "file")]
    queue: Option<String>,
    #[arg(long, conflicts_with = "file")]
    tenant: Option<String>,
    /// 0 first to 3 last [default: as the tenant says, else 1].
    #[arg(long, conflicts_with = "file")]
    priority: Option<i16>,
    /// When it is due, as RFC 3339.
    #[arg(long, conflicts_with_all = ["file", "delay"])]
    run_at: Option<Timestamp>,
    /// How long from now it is due, such as 5m.
    #[arg(long, conflicts_with = "file")]
    delay: Option<String>,
    /// When it is pointless, as RFC 3339 [default: as the tenant says, else never].
    #[arg(long, conflicts_with = "file")]
    expires_at: Option<Timestamp>,
    /// A second job with this key (same tenant and kind) is the first one.
    #[arg(long, conflicts_with = "file")]
    dedup_key: Option<String>,
    /// Of waiting jobs of the tenant and kind with this key only the newest is kept, in a queue that
    /// coalesces when it is full (1 to 255 bytes).
    #[arg(long, value_name = "KEY", conflicts_with = "file")]
    coalesce_key: Option<String>,
    /// Attempts before it is dead [default: as the tenant says, else as the kind does].
    #[arg(long, conflicts_with = "file")]
    max_attempts: Option<i32>,
    /// What a lost worker means: retry or hold [default: as the kind says].
    #[arg(long, conflicts_with = "file")]
    on_lost: Option<String>,
    /// One JSON object a line, with the fields above (`-`: standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    file: Option<PathBuf>,
}

const HELP: &str = r#"Prints the job's id; with --file, counts. A line that is no job is reported with its number and
left out, the others are enqueued, and the exit code is 1. Ctrl-C takes what has been read, and the
command says from which line to go on; a second one does not wait for the database.

Examples:
  postroad enqueue --kind sms --queue sms --args '{"to":"+33639980606","text":"hi"}' --delay 5m
  postroad enqueue --kind echo --dedup-key order-17
  postroad enqueue --file jobs.ndjson
  generate-jobs | postroad enqueue --file -

A line of the file:
  {"kind":"sms","queue":"sms","args":{"to":"+33639980606","text":"hi"},"dedup_key":"order-17"}"#;

/// Jobs per statement.
const BATCH: usize = 1000;
/// And their bytes, at most: two thousand of the largest would be half a gigabyte.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// A line may be as long as the largest args, with room for the other fields.
const LINE_BYTES_MAX: usize = ARGS_BYTES_MAX + 16 * 1024;
/// How long a database that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(mut args: Args) -> anyhow::Result<()> {
    match args.file.take() {
        Some(path) => enqueue_file(path).await,
        None => enqueue_one(args).await,
    }
}

async fn enqueue_one(args: Args) -> anyhow::Result<()> {
    let json = RawValue::from_string(args.args).context("--args is not JSON")?;
    let input = JobInput {
        id: None,
        tenant: args.tenant,
        queue: args.queue,
        kind: args.kind.unwrap_or_default(),
        args: Some(json),
        priority: args.priority,
        run_at: args.run_at,
        delay: args.delay,
        expires_at: args.expires_at,
        dedup_key: args.dedup_key,
        max_attempts: args.max_attempts,
        on_lost: args.on_lost,
        traceparent: None,
        coalesce_key: args.coalesce_key,
    };
    let job = input.into_job()?;
    let store = Setup::of_process()?.current_store().await?;
    let enqueued = enqueue(&store, &[job]).await?;
    output::line(enqueued[0].id)?;
    if !enqueued[0].is_new {
        output::note("enqueued before under the same dedup key: this is the first job's id");
    }
    Ok(())
}

async fn enqueue_file(path: PathBuf) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    let stop = Shutdown::on_signals(PATIENCE).context("listening for signals")?;
    let mut lines = Lines {
        store,
        stop,
        progress: output::bar(None, "jobs"),
        counts: Counts::default(),
    };
    let ended = if path.as_os_str() == "-" {
        lines.enqueue(BufReader::new(tokio::io::stdin())).await
    } else {
        let file = tokio::fs::File::open(&path)
            .await
            .with_context(|| format!("opening {}", path.display()))?;
        lines.enqueue(BufReader::with_capacity(1 << 20, file)).await
    };
    lines.progress.finish_and_clear();
    let counts = lines.counts;
    let is_complete = match ended {
        Err(error) if counts.line > 0 => return Err(error.context(counts.way_on(&path))),
        ended => ended?,
    };
    let Counts {
        enqueued,
        duplicates,
        rejected,
        ..
    } = counts;
    output::line(format_args!(
        "enqueued={enqueued}\nduplicates={duplicates}\nrejected={rejected}"
    ))?;
    if !is_complete {
        bail!("interrupted: {}", counts.way_on(&path));
    }
    if rejected > 0 {
        bail!("{rejected} lines were no jobs and were left out");
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    enqueued: u64,
    duplicates: u64,
    rejected: u64,
    /// Lines that were read.
    line: u64,
    /// The line up to which everything that is a job is one in the database.
    taken: u64,
}

impl Counts {
    fn add(&mut self, enqueued: &[Enqueued]) {
        let new = enqueued.iter().filter(|one| one.is_new).count() as u64;
        self.enqueued += new;
        self.duplicates += enqueued.len() as u64 - new;
    }

    /// How far it came, and how to go on from there.
    fn way_on(&self, path: &Path) -> String {
        let (taken, next) = (self.taken, self.taken + 1);
        let mut text = format!("everything up to line {taken} is taken");
        if self.line > taken {
            let line = self.line;
            text += &format!(", and nobody knows of lines {next} to {line}");
        }
        if path.as_os_str() == "-" {
            return text + &format!("; go on with line {next} of what was read");
        }
        let file = path.display().to_string().replace('\'', r"'\''");
        text + &format!("; go on with `tail -n +{next} '{file}' | postroad enqueue --file -`")
    }
}

/// A stream of lines on its way to the database.
struct Lines {
    store: Store,
    stop: Shutdown,
    progress: ProgressBar,
    counts: Counts,
}

impl Lines {
    /// Enqueues a job for each line; whether that was all of them, or somebody has interrupted it.
    /// What was read before that is enqueued all the same: a pipe does not give it again.
    async fn enqueue(&mut self, mut input: impl AsyncBufRead + Unpin) -> anyhow::Result<bool> {
        let (mut batch, mut bytes, mut line) = (Vec::with_capacity(BATCH), 0, Vec::new());
        let (quiesce, mut is_interrupted) = (self.stop.quiesce.clone(), false);
        loop {
            let read = tokio::select! {
                biased;
                () = quiesce.cancelled() => {
                    is_interrupted = true;
                    None
                }
                read = read_line(&mut input, &mut line, LINE_BYTES_MAX) => read.context("reading jobs")?,
            };
            if let Some(length) = read {
                self.counts.line += 1;
                if let Some(job) = parse(&line, length, &self.progress, &mut self.counts) {
                    bytes += job.args.get().len();
                    batch.push(job);
                }
            }
            let is_full = batch.len() >= BATCH || bytes >= BATCH_BYTES;
            if is_full || read.is_none() {
                self.take(&batch).await?;
                batch.clear();
                bytes = 0;
            }
            if read.is_none() {
                return Ok(!is_interrupted);
            }
        }
    }

    /// Enqueues the jobs of all lines that were read and not taken yet.
    async fn take(&mut self, batch: &[NewJob]) -> anyhow::Result<()> {
        if !batch.is_empty() {
            let enqueued = tokio::select! {
                enqueued = enqueue(&self.store, batch) => enqueued?,
                () = self.stop.cancel.cancelled() => bail!("stopped at once"),
            };
            failpoint!("enqueue.committed");
            self.counts.add(&enqueued);
            let done = self.counts.enqueued + self.counts.duplicates;
            self.progress.set_position(done);
        }
        self.counts.taken = self.counts.line;
        Ok(())
    }
}

fn parse(
    line: &[u8],
    length: usize,
    progress: &ProgressBar,
    counts: &mut Counts,
) -> Option<NewJob> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let result = if length > LINE_BYTES_MAX {
        Err(InputError::whole(&format!(
            "longer than {LINE_BYTES_MAX} bytes"
        )))
    } else {
        JobInput::parse(line).and_then(JobInput::into_job)
    };
    match result {
        Ok(job) => Some(job),
        Err(error) => {
            counts.rejected += 1;
            if counts.rejected <= REJECTS_SHOWN {
                progress.suspend(|| output::note(format_args!("line {}: {error}", counts.line)));
            }
            None
        }
    }
}

/// Enqueues a batch, again and again while the database is away: the ids make that safe.
pub(crate) async fn enqueue(store: &Store, jobs: &[NewJob]) -> Result<Vec<Enqueued>, store::Error> {
    let (until, mut backoff) = (Instant::now() + PATIENCE, Backoff::default());
    let mut is_resend = false;
    loop {
        match store.enqueue(jobs, is_resend).await {
            Err(error) if error.is_transient() && Instant::now() < until => {
                tracing::warn!("{error}: trying again");
                tokio::time::sleep(backoff.next_wait()).await;
                is_resend = true;
            }
            result => return result,
        }
    }
}
