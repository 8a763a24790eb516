//! Recipients from a file or a pipe, in constant memory, with what is wrong in it by line.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use postroad_common::campaign;
use postroad_common::draft::{Counts, Intake, PIECE, RefusedLine};
use postroad_common::store::Store;
use postroad_common::text::one_line;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use super::{How, none};
use crate::exit;
use crate::lines::REJECTS_SHOWN;
use crate::output::{self, line, note};

pub(super) async fn run(
    id: Uuid,
    file: &Path,
    how: &How,
    is_started: bool,
    json: bool,
) -> anyhow::Result<()> {
    let source = Source::open(file, how).await?;
    let store = super::store().await?;
    let counts = upload(&store, id, source, is_started).await?;
    match json {
        true => line(serde_json::to_string(&counts)?)?,
        false => say_counts(&counts, |text| line(text))?,
    }
    end(id, &counts, is_started)
}

/// What a file is called in what is said about it.
pub(super) fn name_of(path: &Path) -> String {
    one_line(&path.display().to_string())
}

/// What has been taken, a line each.
pub(super) fn say_counts(
    counts: &Counts,
    say: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Counts {
        accepted, rejected, ..
    } = counts;
    let state = counts.state.as_deref().unwrap_or_default();
    say(&format!(
        "accepted={accepted}\nrejected={rejected}\nstate={state}"
    ))
}

/// How it ends: everything was taken, or not.
pub(super) fn end(id: Uuid, counts: &Counts, is_started: bool) -> anyhow::Result<()> {
    if is_started && counts.accepted == 0 {
        return Err(exit::conflict(format_args!(
            "campaign {id} has no recipients, and is not started"
        )));
    }
    match counts.rejected {
        0 => Ok(()),
        1 => bail!("1 line is no recipient and was left out"),
        n => bail!("{n} lines are no recipients and were left out"),
    }
}

/// Recipients that are to be read, and where those go that cannot be.
pub(super) struct Source {
    name: String,
    format: campaign::Format,
    input: Box<dyn AsyncRead + Send + Unpin>,
    /// How many bytes there are, where that is known.
    bytes: Option<u64>,
    rejects: Option<Rejects>,
}

struct Rejects {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Source {
    /// Opens what is to be read and written, before any server is asked.
    pub(super) async fn open(path: &Path, how: &How) -> anyhow::Result<Self> {
        let (name, format) = (name_of(path), format_of(path, how)?);
        let opening = || format!("opening {name}");
        let (input, metadata): (Box<dyn AsyncRead + Send + Unpin>, _) =
            match path.as_os_str() == "-" {
                true => (Box::new(tokio::io::stdin()), None),
                false => {
                    let file = tokio::fs::File::open(path).await.with_context(opening)?;
                    let metadata = file.metadata().await.with_context(opening)?;
                    (Box::new(file), Some(metadata))
                }
            };
        let rejects = match &how.rejects {
            None => None,
            Some(to) => Some(Rejects::create(to, metadata.as_ref())?),
        };
        let bytes = metadata
            .filter(|file| file.is_file())
            .map(|file| file.len());
        Ok(Self {
            name,
            format,
            input,
            bytes,
            rejects,
        })
    }
}

impl Rejects {
    fn create(path: &Path, input: Option<&std::fs::Metadata>) -> anyhow::Result<Self> {
        let name = name_of(path);
        if let (Some(input), Ok(output)) = (input, std::fs::metadata(path))
            && (input.dev(), input.ino()) == (output.dev(), output.ino())
        {
            return Err(exit::usage(format_args!(
                "--rejects {name} is the file with the recipients"
            )));
        }
        let file = File::create(path).with_context(|| format!("creating {name}"))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }
}

fn format_of(path: &Path, how: &How) -> anyhow::Result<campaign::Format> {
    if let Some(format) = how.format {
        return Ok(format.into());
    }
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("csv" | "tsv") => Ok(campaign::Format::Csv),
        Some("ndjson" | "jsonl") => Ok(campaign::Format::Ndjson),
        _ => Err(exit::usage(format_args!(
            "{}: give --format csv or --format ndjson, its name does not say",
            name_of(path)
        ))),
    }
}

/// Makes what is read the recipients of a draft. What breaks off leaves it as it was.
pub(super) async fn upload(
    store: &Store,
    id: Uuid,
    source: Source,
    is_started: bool,
) -> anyhow::Result<Counts> {
    // Before anything is shown: whoever sees it may press Ctrl-C.
    let interrupted = signal(SignalKind::interrupt()).context("listening for signals")?;
    let texts = store.campaign_texts(id).await?.ok_or_else(|| none(id))?;
    let intake = Intake::new(store.clone(), id, &texts, source.format).map_err(exit_of)?;
    let progress = match source.bytes {
        Some(bytes) => output::bar(Some(bytes), "bytes"),
        None => output::bar(None, "recipients"),
    };
    let mut upload = Upload {
        intake,
        source,
        progress,
        interrupted,
        refused: 0,
    };
    let ended = upload.run(is_started).await;
    upload.progress.finish_and_clear();
    if ended.is_err() {
        upload.intake.drop_all().await;
    }
    upload.say_rest();
    ended.context("nothing was taken")?;
    let (name, counts) = (upload.source.name, upload.intake.into_counts());
    if !counts.ignored_columns.is_empty() {
        let columns = counts.ignored_columns.join(", ");
        note(format_args!(
            "{name}: passed over what the content does not know: {}",
            one_line(&columns)
        ));
    }
    Ok(counts)
}

/// The exit code that fits what cannot be done.
fn exit_of(error: postroad_common::draft::Error) -> anyhow::Error {
    use postroad_common::draft::Error;
    match error {
        Error::NoDraft(_) | Error::HasAudience | Error::NewerContent => exit::conflict(error),
        error => error.into(),
    }
}

struct Upload {
    intake: Intake,
    source: Source,
    progress: ProgressBar,
    interrupted: Signal,
    refused: u64,
}

impl Upload {
    async fn run(&mut self, is_started: bool) -> anyhow::Result<()> {
        let (mut piece, mut lines) = (vec![0; PIECE], Vec::new());
        loop {
            // Only reading is broken off: what is being kept is waited for, so that all of it can be
            // thrown away.
            let read = tokio::select! {
                biased;
                _ = self.interrupted.recv() => bail!("interrupted"),
                read = self.source.input.read(&mut piece) => read,
            };
            let length = read.with_context(|| format!("reading {}", self.source.name))?;
            match length {
                0 => self.intake.read_rest(&mut lines)?,
                _ => self.intake.read(&piece[..length], &mut lines)?,
            }
            for line in lines.drain(..) {
                if let Some(refused) = self.intake.keep(line).await.map_err(exit_of)? {
                    self.refuse(&refused)?;
                }
            }
            if length == 0 {
                break;
            }
            match self.source.bytes {
                Some(_) => self.progress.inc(length as u64),
                None => self.progress.set_position(self.intake.accepted()),
            }
        }
        if let Some(rejects) = &mut self.source.rejects {
            rejects.file.flush().with_context(|| writing(rejects))?;
        }
        self.intake.finish(is_started).await.map_err(exit_of)
    }

    fn refuse(&mut self, refused: &RefusedLine) -> anyhow::Result<()> {
        self.refused += 1;
        if let Some(rejects) = &mut self.source.rejects {
            let json = serde_json::to_string(refused)?;
            writeln!(rejects.file, "{json}").with_context(|| writing(rejects))?;
        }
        if self.refused <= REJECTS_SHOWN {
            let RefusedLine { line, field, error } = refused;
            let name = &self.source.name;
            let field = match field.as_str() {
                "" => String::new(),
                field => format!("{field}: "),
            };
            self.progress
                .suspend(|| note(format_args!("{name}:{line}: {field}{error}")));
        }
        Ok(())
    }

    fn say_rest(&self) {
        let more = self.refused.saturating_sub(REJECTS_SHOWN);
        match &self.source.rejects {
            _ if more == 0 => {}
            None => note(format_args!(
                "and {more} more; --rejects FILE keeps them all"
            )),
            Some(rejects) => note(format_args!(
                "and {more} more; all of them are in {}",
                name_of(&rejects.path)
            )),
        }
    }
}

fn writing(rejects: &Rejects) -> impl fmt::Display + Send + Sync + 'static {
    format!("writing {}", name_of(&rejects.path))
}
