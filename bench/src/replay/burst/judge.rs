//! What has to hold of a burst.

use super::found::{Class, Flood, Found};
use super::{Plan, UNANSWERED, WINDOW};
use crate::picture::thousands;
use crate::replay::verdict::Verdict;
use crate::replay::watch::Watch;
use crate::table::quantile;

/// A code that takes longer is no use to whoever waits for it.
const ON_TIME: f64 = 5.0;
/// By how much a program may grow in a burst: buffers that were never full before.
const GROWTH_MAX: f64 = 32.0;
/// What comes in for so long may be in the buffer beyond what may wait: it is looked at a few times a second,
/// and worked off in steps.
const SHED_WITHIN: f64 = 5.0;
/// A burst that takes longer than this share of its time was not played in real time.
const LATE_SHARE: f64 = 1.1;

impl Plan {
    pub(super) fn judge(&self, watch: &Watch, found: &Found, pace: f64, slower: u32) -> Verdict {
        let mut verdict = Verdict::of(self.title(pace, slower));
        self.judge_sums(found, &mut verdict);
        self.judge_buffer(watch, found, pace, &mut verdict);
        self.judge_lateness(found, &mut verdict);
        self.judge_memory(found, &mut verdict);
        verdict
    }

    /// Each class adds up, and is where it should be.
    fn judge_sums(&self, found: &Found, verdict: &mut Verdict) {
        for class in Class::ALL {
            let of = found.of_class(class);
            let name = class.name();
            verdict.figure(format!("{name}: accepted"), "", of.accepted as f64);
            verdict.figure(format!("{name}: delivered"), "", of.delivered as f64);
            verdict.figure(format!("{name}: shed"), "", of.shed as f64);
            let sum = of.delivered + of.shed + of.waiting;
            let holds = of.accepted == sum
                && of.completed == of.delivered
                && of.waiting == 0
                && of.otherwise == 0;
            verdict.check(
                format!("{name}: accepted = delivered + shed + waiting, which is 0"),
                holds,
                format!(
                    "{} = {} + {} + {}",
                    thousands(of.accepted as f64),
                    thousands(of.delivered as f64),
                    thousands(of.shed as f64),
                    of.waiting
                ),
            );
        }
        let important = [Class::Code, Class::Transactional];
        let shed: u64 = important
            .map(|class| found.of_class(class).shed)
            .iter()
            .sum();
        verdict.check(
            "no code and nothing transactional is shed",
            shed == 0,
            format!("{shed}"),
        );
        let marketing = found.of_class(Class::Marketing);
        verdict.check(
            "what is shed is booked: archive and the scheduler's counter agree",
            marketing.shed == found.shed_counted,
            format!(
                "{} and {}",
                thousands(marketing.shed as f64),
                thousands(found.shed_counted as f64)
            ),
        );
        verdict.check(
            "the ledger of every tenant is balanced",
            found.unbalanced.is_empty(),
            match found.unbalanced.as_slice() {
                [] => "every".to_owned(),
                some => format!("not of {}", some.join(", ")),
            },
        );
        let provider = &found.provider;
        verdict.check(
            "nobody gets two",
            provider.duplicates == 0 && provider.without_key == 0,
            format!(
                "{} twice of {}",
                provider.duplicates,
                thousands(provider.effects as f64)
            ),
        );
        verdict.check(
            format!("never more than {UNANSWERED} unanswered for each worker"),
            provider.violations == 0,
            format!(
                "{} at once at most, {} refused",
                provider.peak_in_flight, provider.violations
            ),
        );
    }

    /// What was shed is what there was no room for: not more, and not less.
    fn judge_buffer(&self, watch: &Watch, found: &Found, pace: f64, verdict: &mut Verdict) {
        let took = found.flood.to - found.flood.from;
        verdict.figure("the burst took", "s", took);
        verdict.figure("handed in meanwhile", "jobs/s", self.burst as f64 / took);
        verdict.figure(
            "until the last of it had arrived",
            "s",
            found.flood.done - found.flood.from,
        );
        let planned = self.burst_over.as_secs_f64();
        if took > planned * LATE_SHARE {
            verdict.figure(
                "not in real time: slower than planned by a factor of",
                "",
                took / planned,
            );
        }
        let shed = found.of_class(Class::Marketing).shed;
        let most_shed = self.burst.saturating_sub(self.waiting_max);
        verdict.check(
            format!(
                "nothing is shed for which there was room ({})",
                thousands(self.waiting_max as f64)
            ),
            shed <= most_shed,
            format!(
                "{} shed, {} at most",
                thousands(shed as f64),
                thousands(most_shed as f64)
            ),
        );
        let line = Self::marketing_line("http://127.0.0.1:65535");
        let size = self.burst as f64 * line.len() as f64 / 1e6;
        verdict.figure("size of the burst, as it comes in", "MB", size);
        let in_pipe = watch.most(|look| (look.dispatched + look.running) as f64);
        verdict.check(
            format!("no more than {WINDOW} are in the pipe, running ones included"),
            in_pipe <= WINDOW as f64,
            format!("{} at most", thousands(in_pipe)),
        );
        let most = watch.most(|look| look.bulk.unfinished() as f64);
        verdict.figure("buffered at once, most", "jobs", most);
        let come_in = SHED_WITHIN * self.burst as f64 / took;
        let bound = self.waiting_max as f64 + WINDOW as f64 + come_in;
        verdict.check(
            "the buffer is bounded",
            most <= bound,
            format!("{} at most, bound {}", thousands(most), thousands(bound)),
        );
        let of_burst = (found.flood.from + 1.0)..found.flood.done - 1.0;
        let arrived = found
            .arrivals
            .iter()
            .filter(|one| of_burst.contains(&one.second))
            .count();
        let rate = arrived as f64 / (of_burst.end - of_burst.start).max(0.001);
        verdict.figure("to the provider meanwhile", "requests/s", rate);
        verdict.figure("of what it takes", "%", 100.0 * rate / pace);
    }

    /// Ordinary tenants do not notice.
    fn judge_lateness(&self, found: &Found, verdict: &mut Verdict) {
        let Flood { from, done, .. } = found.flood;
        for class in [Class::Code, Class::Transactional] {
            let name = class.name();
            let mut before = found.lateness(self, class, 0.0, from);
            let mut meanwhile = found.lateness(self, class, from, done);
            for (when, late) in [("before", &mut before), ("meanwhile", &mut meanwhile)] {
                for (share, of) in [
                    (0.5, "median"),
                    (0.95, "p95"),
                    (0.99, "p99"),
                    (1.0, "latest"),
                ] {
                    let late = 1000.0 * quantile(late, share);
                    verdict.figure(format!("{name} {when}: {of}"), "ms", late);
                }
            }
            let (share, of) = match class {
                Class::Code => (1.0, "every one"),
                _ => (0.99, "99 %"),
            };
            let late = quantile(&mut meanwhile, share);
            verdict.check(
                format!("{name}: {of} within {ON_TIME:.0} s while it lasts"),
                late <= ON_TIME,
                format!("{late:.2} s"),
            );
        }
    }

    /// The burst is in Postgres, and in no program.
    fn judge_memory(&self, found: &Found, verdict: &mut Verdict) {
        let pairs = found
            .flood
            .memory_before
            .iter()
            .zip(&found.flood.memory_after);
        for ((name, before), (_, after)) in pairs {
            verdict.figure(format!("memory of the {name}, peak before"), "MB", *before);
            verdict.figure(format!("memory of the {name}, peak of all"), "MB", *after);
            verdict.check(
                format!("the {name} does not grow with the burst (by {GROWTH_MAX:.0} MB at most)"),
                after - before <= GROWTH_MAX,
                format!("{before:.0} MB before, {after:.0} MB at most"),
            );
        }
    }
}
