//! A dispatcher that does one thing after the other, and one of them wrong.

use std::time::Duration;

use postroad_common::broker::{Broker, Outgoing, Publisher};
use postroad_common::health::Health;
use postroad_common::membership::Membership;
use postroad_common::message::Envelope;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Claim, Cursor, DueQueue, NewProcess, Role, Store, Wanted};
use tokio::sync::watch;

use super::Bug;

const REST: Duration = Duration::from_millis(20);
const BATCH: i64 = 100;

/// Every tick that is due, so often, and on to the next: without a lock, without a row for the tick.
const TICK: &str = "
    with due as materialized (
        select * from postroad.schedule where paused_at is null and next_at <= now()),
    made as (
        insert into postroad.job
            (id, queue_id, kind_id, tenant_id, args, priority, run_at, max_attempts, on_lost)
        select gen_random_uuid(), queue_id, kind_id, tenant_id, args, priority, next_at,
               max_attempts, on_lost
        from due, generate_series(1, $1))
    update postroad.schedule s set next_at = s.next_at + interval '1 second'
    from due where s.id = due.id";

pub(super) struct Scheduler {
    bug: Bug,
    store: Store,
    membership: Membership,
    publisher: Publisher,
    shutdown: Shutdown,
    _queues: watch::Sender<Vec<String>>,
}

impl Scheduler {
    pub(super) async fn join(
        bug: Bug,
        store: Store,
        broker: Broker,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let process = NewProcess {
            role: Role::Scheduler,
            host: "here".to_owned(),
            pid: std::process::id(),
            version: "rogue",
            queues: Vec::new(),
            lease: Duration::from_secs(60),
            prefetch: None,
        };
        let health = Health::new();
        let membership = Membership::join(store.clone(), process, &health, shutdown).await?;
        let (queues, seen) = watch::channel(store.queue_names().await?);
        let publisher = Publisher::spawn(broker, seen, health, shutdown.clone());
        Ok(Self {
            bug,
            store,
            membership,
            publisher,
            shutdown: shutdown.clone(),
            _queues: queues,
        })
    }

    pub(super) async fn run(self) -> anyhow::Result<()> {
        while !self.shutdown.is_requested() {
            if self.bug == Bug::EarlyByASecond {
                let early = "update postroad.job set run_at = run_at - interval '1 second'
                             where stage = 0 and run_at > now()
                               and run_at <= now() + interval '1 second'";
                self.store
                    .own_connection()
                    .await?
                    .execute(early, &[])
                    .await?;
            }
            let times = match self.bug {
                Bug::ScheduleTicksTwice => Some(2),
                Bug::ScheduleTickLost => Some(0),
                _ => None,
            };
            if let Some(times) = times {
                let connection = self.store.own_connection().await?;
                connection.execute(TICK, &[&times]).await?;
            }
            for queue in self.store.due_queues(&[]).await? {
                let claims = self
                    .store
                    .claim(
                        &queue,
                        Wanted::up_to(BATCH),
                        self.membership.last_id(),
                        &Cursor::default(),
                    )
                    .await?;
                let jobs = claims.map_or_else(Vec::new, |claimed| claimed.jobs);
                self.publish(&queue, jobs).await;
            }
            tokio::time::sleep(REST).await;
        }
        Ok(())
    }

    /// Looks at no confirm: what the broker refused is forgotten.
    async fn publish(&self, queue: &DueQueue, claims: Vec<Claim>) {
        let message = |claim: Claim| {
            let envelope = Envelope {
                id: claim.id,
                dispatch: claim.dispatch,
                kind: claim.kind.to_string(),
                tenant: claim.tenant.to_string(),
                attempt: claim.attempts_before + 1,
                traceparent: claim.traceparent,
                body: claim.args.into_bytes(),
            };
            Outgoing::job(&queue.name, envelope, queue.pipe_ttl, claim.claimed_at)
        };
        let messages: Vec<_> = claims.into_iter().map(message).collect();
        if !messages.is_empty() {
            drop(self.publisher.publish(messages).await);
        }
    }
}
