//! `postroad top`: everything at a glance, kept up to date.
//!
//! A frame is a function of two looks and the size of the terminal. It is drawn over the one before,
//! so nothing flickers and nothing is left in the terminal's history.

use std::time::Duration;

use anyhow::Context;
use console::truncate_str;
use postroad_common::shutdown::{GRACE_DEFAULT, Shutdown};
use postroad_common::store::{self, ProcessRow, QueueRow, Store, Totals};
use serde_json::json;

use super::values::duration;
use super::workers;
use crate::output::{self, Table, stretch};
use crate::setup::Setup;

/// Shows queues, rates and processes, and keeps them up to date until Ctrl-C.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// Look once and end. Where standard output is no terminal, that is all it does.
    #[arg(long)]
    once: bool,
    /// How often to look.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = interval)]
    interval: Duration,
    /// One look as a JSON object.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
DUE jobs wait for room in the pipe; PIPE is what is published and not started; FAILED is on its way
back through the dead-letter queue; HELD waits for a decision. Counts of due jobs end at 10,000.

Examples:
  postroad top
  postroad top --interval 500ms
  postroad top --once
  postroad top --json | jq '.queues[] | select(.due > 0) | .name'";

fn interval(text: &str) -> Result<Duration, &'static str> {
    duration(text)
        .ok()
        .filter(|time| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(time))
        .ok_or("a duration from 100ms to 1h is expected")
}

/// Without a second look there are no rates.
const FIRST_REST: Duration = Duration::from_secs(1);

/// Sets the cursor to the top left; ends a line and clears what was behind it; clears what is below.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";
/// The other screen, with the cursor hidden; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    let is_live = !args.once && !args.json && output::size().is_some() && !output::is_dumb();
    if is_live {
        return live(&store, args.interval).await;
    }
    let before = Look::take(&store).await?;
    tokio::time::sleep(FIRST_REST.min(args.interval)).await;
    let now = Look::take(&store).await?;
    if args.json {
        return output::line(now.json(&before));
    }
    let size = Size {
        rows: None,
        columns: output::width(),
    };
    let mut text = frame(&now, Some(&before), size).join("\n");
    text.push('\n');
    output::print(&text)
}

async fn live(store: &Store, interval: Duration) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals(GRACE_DEFAULT).context("listening for signals")?;
    output::print(ENTER)?;
    let ended = tokio::select! {
        failed = draw(store, interval) => failed,
        () = shutdown.quiesce.cancelled() => Ok(()),
    };
    output::print(LEAVE)?;
    ended
}

async fn draw(store: &Store, interval: Duration) -> anyhow::Result<()> {
    let mut before: Option<Look> = None;
    let mut shown = Vec::new();
    loop {
        let (rows, columns) = output::size().unwrap_or((24, 80));
        let size = Size {
            rows: Some(rows.saturating_sub(1)),
            columns: Some(columns),
        };
        match Look::take(store).await {
            Ok(now) => {
                shown = frame(&now, before.as_ref(), size);
                before = Some(now);
            }
            Err(error) if error.is_transient() => {
                let text = format!("{error}: trying again");
                shown.insert(0, truncate_str(&text, columns, "…").into_owned());
            }
            Err(error) => return Err(error.into()),
        }
        shown.truncate(rows.saturating_sub(1));
        output::print(&format!(
            "{HOME}{}{END_OF_LINE}{CLEAR_BELOW}",
            shown.join(END_OF_LINE)
        ))?;
        tokio::time::sleep(interval).await;
    }
}

/// One look at everything. Its parts are moments apart: it is for the eye.
struct Look {
    queues: Vec<QueueRow>,
    dead: Vec<(String, i64)>,
    processes: Vec<ProcessRow>,
    totals: Totals,
}

/// What went on between two looks, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    accepted: f64,
    completed: f64,
    dead: f64,
}

impl Look {
    async fn take(store: &Store) -> Result<Self, store::Error> {
        Ok(Self {
            queues: store.queues(None).await?,
            dead: store.dead_by_queue().await?,
            processes: store.processes(false, None).await?,
            totals: store.totals().await?,
        })
    }

    fn dead_of(&self, queue: &str) -> i64 {
        let found = self.dead.iter().find(|(name, _)| name == queue);
        found.map_or(0, |(_, count)| *count)
    }

    /// None: no time has passed, by the database's clock.
    fn rates(&self, before: &Self) -> Option<Rates> {
        let (now, then) = (&self.totals, &before.totals);
        let took = now.clock - then.clock;
        // What was redriven is not dead any more, and no negative death.
        let rate = |now: i64, then: i64| ((now - then) as f64 / took).max(0.0);
        (took > 0.0).then(|| Rates {
            accepted: rate(now.accepted, then.accepted),
            completed: rate(now.completed, then.completed),
            dead: rate(now.dead, then.dead),
        })
    }

    fn json(&self, before: &Self) -> serde_json::Value {
        let rates = self.rates(before).unwrap_or_default();
        let queue = |queue: &QueueRow| {
            let mut value = json!(queue);
            value["dead"] = json!(self.dead_of(&queue.name));
            value
        };
        json!({
            "accepted": self.totals.accepted,
            "completed": self.totals.completed,
            "dead": self.totals.dead,
            "accepted_per_second": rates.accepted,
            "completed_per_second": rates.completed,
            "dead_per_second": rates.dead,
            "queues": self.queues.iter().map(queue).collect::<Vec<_>>(),
            "processes": self.processes,
        })
    }
}

/// What there is room for; none: for everything.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    rows: Option<usize>,
    columns: Option<usize>,
}

/// Lines that are there whatever there is to show: two of figures, two headers, two empty ones, and
/// how many queues are left out.
const FIXED_LINES: usize = 7;

impl Size {
    /// How many queues and how many processes have room: half of it for each, and what one of them
    /// leaves for the other.
    fn share(self, queues: usize, processes: usize) -> (usize, usize) {
        let Some(rows) = self.rows else {
            return (queues, processes);
        };
        let room = rows.saturating_sub(FIXED_LINES);
        let processes = processes.min((room / 2).max(room.saturating_sub(queues)));
        (queues.min(room - processes), processes)
    }
}

/// What is shown, line by line, none of them wider than the terminal.
fn frame(now: &Look, before: Option<&Look>, size: Size) -> Vec<String> {
    let width = size.columns;
    let cut = |text: String| match width {
        Some(width) => truncate_str(&text, width.max(1), "…").into_owned(),
        None => text,
    };
    let Totals {
        accepted,
        completed,
        dead,
        ..
    } = now.totals;
    let rates = before.and_then(|before| now.rates(before));
    let per_second = |rate: fn(&Rates) -> f64| match &rates {
        Some(rates) => format!("{:.1}/s", rate(rates)),
        None => "-".to_owned(),
    };
    let mut lines = vec![
        cut(format!(
            "completed {}  accepted {}  dead {}",
            per_second(|rates| rates.completed),
            per_second(|rates| rates.accepted),
            per_second(|rates| rates.dead)
        )),
        cut(format!(
            "in all: completed {completed}  accepted {accepted}  dead {dead}"
        )),
        String::new(),
    ];
    let (queues, processes) = size.share(now.queues.len(), now.processes.len());
    push(&mut lines, &queue_table(now, queues), width);
    if queues < now.queues.len() {
        let more = now.queues.len() - queues;
        lines.push(cut(format!("and {more} queues with less in them")));
    }
    lines.push(String::new());
    push(
        &mut lines,
        &workers::table(&now.processes[..processes]),
        width,
    );
    if now.processes.is_empty() {
        lines.push(cut("nothing runs".to_owned()));
    }
    lines
}

fn push(lines: &mut Vec<String>, table: &Table, width: Option<usize>) {
    lines.extend(table.render(width).text.lines().map(str::to_owned));
}

/// So many queues, the fullest ones.
fn queue_table(look: &Look, most: usize) -> Table {
    let mut table = Table::new([
        "QUEUE", "DUE", "OLDEST", "PIPE", "RUNNING", "FAILED", "HELD", "DEAD", "PAUSED",
    ])
    .of_names()
    .right(1..=8);
    let mut fullest: Vec<_> = look.queues.iter().collect();
    if most < fullest.len() {
        let jobs = |queue: &QueueRow| {
            queue.due + queue.dispatched + queue.running + queue.failed + queue.held
        };
        fullest.sort_by_key(|queue| std::cmp::Reverse(jobs(queue)));
        fullest.truncate(most);
    }
    for queue in fullest {
        table.row([
            queue.name.clone(),
            queue.due.to_string(),
            queue
                .oldest_due_seconds
                .map_or_else(|| "-".to_owned(), stretch),
            queue.dispatched.to_string(),
            queue.running.to_string(),
            queue.failed.to_string(),
            queue.held.to_string(),
            look.dead_of(&queue.name).to_string(),
            match queue.paused_at {
                Some(_) => "yes".to_owned(),
                None => String::new(),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use console::measure_text_width;

    fn look(completed: i64, clock: f64) -> Look {
        let queue = |name: &str, due| QueueRow {
            name: name.to_owned(),
            paused_at: (due == 0).then(jiff::Timestamp::now),
            window_size: 2000,
            pipe_ttl_seconds: 60.0,
            prefetch: None,
            rate_per_second: None,
            retention_days: None,
            provider: None,
            waiting_max: None,
            on_full: "reject".to_owned(),
            full_at: None,
            due,
            dispatched: 7,
            running: 3,
            failed: 0,
            held: 1,
            stopped: 0,
            oldest_due_seconds: (due > 0).then_some(754.0),
        };
        let process = ProcessRow {
            id: 4,
            role: "worker".to_owned(),
            host: "a-machine-with-a-long-name.example.com".to_owned(),
            pid: 4711,
            version: "0.1.0".to_owned(),
            queues: vec!["sms".to_owned(), "webhooks".to_owned()],
            state: "running".to_owned(),
            started_at: jiff::Timestamp::now(),
            ended_at: None,
            seen_seconds: 1.5,
            lease_seconds: 30.0,
            jobs: 3,
        };
        Look {
            queues: vec![
                queue("sms", 12),
                queue("a-queue-with-a-rather-long-name", 0),
            ],
            dead: vec![("sms".to_owned(), 5)],
            processes: vec![process],
            totals: Totals {
                accepted: 1000,
                completed,
                dead: 5,
                given_up: 0,
                clock,
            },
        }
    }

    fn columns(columns: usize) -> Size {
        Size {
            rows: None,
            columns: Some(columns),
        }
    }

    #[test]
    fn where_not_everything_has_room_the_fullest_queues_and_some_processes_are_shown() {
        let mut now = look(150, 12.0);
        for n in 0..50 {
            let mut queue = now.queues[0].clone();
            queue.name = format!("q{n}");
            queue.due = n;
            now.queues.push(queue);
            now.processes.push(now.processes[0].clone());
        }
        let of_rows = |rows| Size {
            rows: Some(rows),
            columns: None,
        };
        for rows in 8..120 {
            assert!(
                frame(&now, None, of_rows(rows)).len() <= rows,
                "{rows} rows"
            );
        }
        let text = frame(&now, None, of_rows(23)).join("\n");
        assert!(text.contains("q49 ") && !text.contains("q0 "), "{text}");
        assert!(text.contains("and 44 queues with less in them"), "{text}");
        assert_eq!(text.matches("a-machine-with").count(), 8, "{text}");
        assert_eq!(of_rows(0).share(5, 5), (0, 0));
        assert_eq!(of_rows(17).share(2, 50), (2, 8));
        assert_eq!(Size::default().share(5, 5), (5, 5));
    }

    #[test]
    fn it_fits_every_width() {
        let (before, now) = (look(100, 10.0), look(150, 12.0));
        for width in 0..200 {
            for line in frame(&now, Some(&before), columns(width)) {
                assert!(measure_text_width(&line) <= width.max(1), "{width}: {line}");
            }
        }
    }

    #[test]
    fn at_80_columns_all_numbers_are_there() {
        let (before, now) = (look(100, 10.0), look(150, 12.0));
        let text = frame(&now, Some(&before), columns(80)).join("\n");
        for shown in [
            "completed 25.0/s",
            "accepted 0.0/s",
            "12m34s",
            "DEAD",
            "PAUSED",
            "HEARD",
        ] {
            assert!(text.contains(shown), "{shown} in\n{text}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_gives_no_rate() {
        assert_eq!(look(1, 10.0).rates(&look(0, 10.0)), None);
        assert!(frame(&look(1, 10.0), None, Size::default())[0].contains("completed -"));
        let after_redrive = look(0, 11.0).rates(&look(9, 10.0)).unwrap();
        assert_eq!(after_redrive.completed, 0.0);
    }
}
