//! The burst as curves.

use std::path::Path;

use super::Plan;
use super::found::{Class, Found};
use crate::chart::Line;
use crate::picture::{Panel, Picture, thousands};
use crate::replay::seconds;
use crate::replay::watch::{Watch, per_second};

impl Plan {
    pub(super) fn title(&self, pace: f64, slower: u32) -> String {
        let speed = if slower == 1 {
            ""
        } else {
            ", at half its speed"
        };
        format!(
            "{} requests within {} for a provider that takes {pace:.0} a second{speed}",
            thousands(self.burst as f64),
            seconds(self.burst_over)
        )
    }

    pub(super) fn draw(
        &self,
        watch: &Watch,
        found: &Found,
        pace: f64,
        slower: u32,
        file: &Path,
    ) -> anyhow::Result<()> {
        let until = watch.looks.last().map_or(0.0, |look| look.second);
        let line = |name: &str, points| Line {
            name: name.to_owned(),
            points,
        };
        let flat = |name: &str, level| line(name, vec![(0.0, level), (until, level)]);
        let arrived = |name: &str, is_meant: fn(Class) -> bool| {
            let meant = found.arrivals.iter().filter(|one| is_meant(one.class));
            line(name, per_second(meant.map(|one| one.second), until))
        };
        let worst = |class: Class| {
            let mut points: Vec<(f64, f64)> = Vec::new();
            for second in 0..until as usize {
                let from = second as f64;
                let late = found.lateness(self, class, from, from + 1.0);
                let longest = late.into_iter().fold(None, |most: Option<f64>, one| {
                    Some(most.map_or(one, |most| most.max(one)))
                });
                points.extend(longest.map(|longest| (from + 0.5, longest * 1000.0)));
            }
            points
        };
        let memory = found.flood.memory_before.iter().enumerate();
        let memory =
            memory.map(|(nth, (name, _))| line(name, watch.levels(|look| look.memory[nth])));
        let picture = Picture {
            title: self.title(pace, slower),
            panels: vec![
                Panel {
                    unit: "in and shed, jobs/s",
                    lines: vec![
                        line(
                            "handed in",
                            watch.rates(|look| look.bulk.accepted + look.others.accepted),
                        ),
                        line(
                            "shed",
                            watch.rates(|look| look.bulk.shed + look.others.shed),
                        ),
                    ],
                },
                Panel {
                    unit: "at the provider, requests/s",
                    lines: vec![
                        arrived("all", |_| true),
                        arrived("codes and transactional", |class| class != Class::Marketing),
                        flat("what it takes", pace),
                    ],
                },
                Panel {
                    unit: "buffered, jobs",
                    lines: vec![
                        line(
                            "marketing",
                            watch.levels(|look| look.bulk.unfinished() as f64),
                        ),
                        line(
                            "codes and transactional",
                            watch.levels(|look| look.others.unfinished() as f64),
                        ),
                        flat("may wait", self.waiting_max as f64),
                    ],
                },
                Panel {
                    unit: "the latest of a second, ms",
                    lines: vec![
                        line("transactional", worst(Class::Transactional)),
                        line("codes", worst(Class::Code)),
                    ],
                },
                Panel {
                    unit: "memory, MB",
                    lines: memory.collect(),
                },
            ],
            span: (found.flood.from, found.flood.to, "the burst"),
            marks: (Vec::new(), ""),
            until,
        };
        picture.write(file)
    }
}
