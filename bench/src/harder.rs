//! The same drain where it is harder, each run of it right after an easy one.
//!
//! Machines drift by a tenth within minutes: only neighbours can be compared.

use crate::drain::{self, Backlog, Statistics};
use crate::ground::Ground;
use crate::table::Table;
use crate::whole::{Charts, DRAINED, print_statements, rates};

const LATER: i64 = 5_000_000;

/// The parts, by the names that `--only` knows.
pub(crate) const PARTS: [&str; 4] = ["stale", "tenants", "large-args", "later"];

/// What makes it harder.
fn kinds(part: &str, scale: i64) -> Vec<(&'static str, Backlog)> {
    let easy = Backlog::of(DRAINED as i64 / scale);
    match part {
        "stale" => vec![
            (
                "drain, loaded a moment ago and never analyzed",
                Backlog {
                    statistics: Statistics::None,
                    ..easy.clone()
                },
            ),
            (
                "drain, analyzed when the table was empty",
                Backlog {
                    statistics: Statistics::OfEmpty,
                    ..easy
                },
            ),
        ],
        "tenants" => vec![(
            "drain, of 1,000 tenants",
            Backlog {
                tenants: 1000,
                ..easy
            },
        )],
        "large-args" => vec![(
            "drain, with args of 4 kB",
            Backlog {
                args_bytes: 4096,
                jobs: easy.jobs / 4,
                ..easy
            },
        )],
        _ => vec![(
            "drain, among 5,000,000 jobs of later",
            Backlog {
                later: LATER / scale,
                ..easy
            },
        )],
    }
}

pub(crate) async fn measure(
    part: &str,
    ground: &Ground,
    charts: &Charts<'_>,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    const LIMIT: &str = "the drain without";
    for (name, backlog) in kinds(part, i64::try_from(scale)?) {
        let easy = Backlog::of(backlog.jobs);
        let (mut hard, mut without) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            without.push(drain::run(ground, &easy).await?);
            hard.push(drain::run(ground, &backlog).await?);
        }
        table.add_beside(name, "jobs/s", rates(&hard), LIMIT, &rates(&without));
        if charts.with_statements {
            println!("{LIMIT}:");
            print_statements(&without);
            println!("{name}:");
            print_statements(&hard);
        }
    }
    Ok(())
}
