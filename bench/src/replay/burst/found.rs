//! What came of a burst: by Postgres, by the provider, and by the programs' own figures.

use std::collections::HashMap;

use anyhow::Context as _;
use postroad_tests::simulator::{Record, Report};

use super::{FLOOD, ONE_IS_A_CODE_OF, Plan, TENANTS};
use crate::ground::Site;

/// The class of a message, and its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Code = 0,
    Transactional = 1,
    Marketing = 2,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Code, Self::Transactional, Self::Marketing];

    /// Of messages of ordinary tenants; each tenant has some of both.
    pub(super) fn of_nth(n: u64) -> Self {
        match (n / TENANTS).is_multiple_of(ONE_IS_A_CODE_OF) {
            true => Self::Code,
            false => Self::Transactional,
        }
    }

    /// In the path under which the provider gets it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Code => "codes",
            Self::Transactional => "transactional",
            Self::Marketing => "marketing",
        }
    }
}

/// When the burst was, and what the programs had of the machine before it and after all.
pub(super) struct Flood {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) done: f64,
    pub(super) memory_before: Vec<(&'static str, f64)>,
    pub(super) memory_after: Vec<(&'static str, f64)>,
}

/// A message that the provider got.
pub(super) struct Arrival {
    pub(super) class: Class,
    /// Which of the ordinary tenants' messages.
    pub(super) nth: Option<u64>,
    pub(super) second: f64,
}

impl Arrival {
    fn of(record: &Record, began: f64) -> anyhow::Result<Self> {
        let mut parts = record.path.trim_start_matches('/').split('/');
        let name = parts.next();
        let class = Class::ALL
            .into_iter()
            .find(|class| Some(class.name()) == name);
        Ok(Self {
            class: class.with_context(|| format!("nobody sends to {}", record.path))?,
            nth: parts.next().map(str::parse).transpose()?,
            second: record.t - began,
        })
    }
}

/// Where jobs of a class are, by Postgres and by the provider.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whereabouts {
    pub(super) accepted: u64,
    pub(super) completed: u64,
    pub(super) shed: u64,
    /// Ended in any other way.
    pub(super) otherwise: u64,
    /// In the table of unfinished jobs.
    pub(super) waiting: u64,
    pub(super) delivered: u64,
}

/// What there was to be found in the end.
pub(super) struct Found {
    pub(super) flood: Flood,
    classes: HashMap<Class, Whereabouts>,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) provider: Report,
    /// By the scheduler's counter.
    pub(super) shed_counted: u64,
    pub(super) unbalanced: Vec<String>,
}

impl Found {
    pub(super) async fn of(
        site: &Site,
        ordinary: [u64; 2],
        flood: Flood,
        began: f64,
    ) -> anyhow::Result<Self> {
        let cluster = &site.cluster;
        let sql = "
            select priority, count(*) filter (where state = 'completed'),
                   count(*) filter (where state = 'cancelled' and reason = 'shed'),
                   count(*) filter (where state <> 'completed' and (state <> 'cancelled' or reason is distinct from 'shed')),
                   count(*) filter (where state is null)
            from (select priority, state, reason from postroad.archive
                  union all
                  select priority, null, null from postroad.job) every
            group by 1";
        let marketing = flood_accepted(site).await?;
        let accepted = [ordinary[0], ordinary[1], marketing];
        let mut classes: HashMap<_, _> = HashMap::new();
        for class in Class::ALL {
            let accepted = accepted[class as usize];
            let empty = Whereabouts {
                accepted,
                ..Whereabouts::default()
            };
            classes.insert(class, empty);
        }
        for row in cluster.query(sql, &[]).await? {
            let priority = row.get::<_, i16>(0);
            let class = Class::ALL
                .into_iter()
                .find(|class| *class as i16 == priority);
            let class = class.with_context(|| format!("nobody has priority {priority}"))?;
            let of = classes.entry(class).or_default();
            let count = |nth| anyhow::Ok(u64::try_from(row.get::<_, i64>(nth))?);
            (of.completed, of.shed) = (count(1)?, count(2)?);
            (of.otherwise, of.waiting) = (count(3)?, count(4)?);
        }
        let records = cluster.provider.records();
        let effects = records.iter().filter(|record| record.effect);
        let arrivals: Vec<_> = effects
            .map(|record| Arrival::of(record, began))
            .collect::<Result<_, _>>()?;
        for arrival in &arrivals {
            classes.entry(arrival.class).or_default().delivered += 1;
        }
        let ledger = cluster.store.ledger(None).await?;
        let unbalanced = ledger.accounts.into_iter().filter(|one| !one.balanced);
        let shed = cluster.counted(cluster.scheduler(0), "postroad_jobs_shed_total");
        Ok(Self {
            flood,
            classes,
            arrivals,
            provider: cluster.provider.report(),
            shed_counted: shed.await?.unwrap_or(0),
            unbalanced: unbalanced.map(|one| one.tenant).collect(),
        })
    }

    pub(super) fn of_class(&self, class: Class) -> Whereabouts {
        self.classes.get(&class).copied().unwrap_or_default()
    }

    /// How late each message of a class was that was to be handed in within this time, in seconds.
    pub(super) fn lateness(&self, plan: &Plan, class: Class, from: f64, to: f64) -> Vec<f64> {
        let of_class = self.arrivals.iter().filter(|one| one.class == class);
        let late = |one: &Arrival| {
            let due = plan.due(one.nth?);
            (from..to).contains(&due).then_some(one.second - due)
        };
        of_class.filter_map(late).collect()
    }
}

/// What the API has accepted of the flood, by the ledger.
async fn flood_accepted(site: &Site) -> anyhow::Result<u64> {
    let ledger = site.cluster.store.ledger(Some(FLOOD)).await?;
    let account = ledger.accounts.first().context("nothing of the flood")?;
    Ok(u64::try_from(account.accepted)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_tenant_has_some_codes_and_mostly_others() {
        let round = TENANTS * ONE_IS_A_CODE_OF;
        for tenant in 0..TENANTS {
            let of_tenant = (0..round).filter(|n| n % TENANTS == tenant);
            let codes = of_tenant.filter(|n| Class::of_nth(*n) == Class::Code);
            assert_eq!(codes.count(), 1, "tenant {tenant}");
        }
    }

    #[test]
    fn a_message_is_recognized_where_it_arrives() {
        let arrival = |path: &str| {
            let record = json!({
                "t": 17.5, "path": path, "id": null, "key": null, "attempt": 1, "body_sha256": "",
                "bytes": 0, "status": 200, "effect": true,
            });
            let record: Record = serde_json::from_value(record).expect("a record");
            Arrival::of(&record, 10.0)
        };
        let code = arrival("/codes/17").expect("a message");
        assert_eq!(
            (code.class, code.nth, code.second),
            (Class::Code, Some(17), 7.5)
        );
        let marketing = arrival("/marketing").expect("a message");
        assert_eq!((marketing.class, marketing.nth), (Class::Marketing, None));
        assert!(arrival("/elsewhere").is_err());
    }
}
