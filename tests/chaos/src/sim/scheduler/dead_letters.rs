//! The dead-letter queue → what each letter says about its job.

use std::time::Duration;

use postroad_common::broker::topology::DEAD_QUEUE;
use postroad_common::broker::{DeathReason, Settle};
use postroad_common::store::Fenced;

use super::rule;
use crate::sim::executor::{Bell, NoAnswer, Sim};
use crate::sim::membership::Backoff;
use crate::sim::model_broker::{ChannelId, ConnectionId, Delivery};
use crate::sim::world::{Parcel, ProcessNo};

// The service keeps these to itself; the same figures stand there.
const PREFETCH: usize = 500;
const REFUSED_REST: Duration = Duration::from_secs(60);

/// The service.
pub(super) struct DeadLetters {
    pub(super) sim: Sim,
    pub(super) me: ProcessNo,
    pub(super) session: Option<(ConnectionId, ChannelId)>,
    pub(super) in_hand: Vec<Delivery<Parcel>>,
}

impl DeadLetters {
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Some(channel) = self.channel() else {
                // What was in hand comes again on the next connection.
                (self.session, self.in_hand) = (None, Vec::new());
                let wait = backoff.next_wait(&self.sim);
                self.sim.sleep(wait).await;
                continue;
            };
            if self.in_hand.is_empty() {
                self.receive(channel);
            }
            if self.in_hand.is_empty() {
                self.sim.wait(Bell::Broker, 500).await;
                continue;
            }
            match self.handle(channel).await {
                Ok(()) => backoff.reset(),
                Err(NoAnswer) => {
                    let wait = backoff.next_wait(&self.sim);
                    self.sim.sleep(wait).await;
                }
            }
        }
    }

    fn channel(&mut self) -> Option<ChannelId> {
        self.sim.with(|world| {
            if let Some((connection, channel)) = self.session {
                return world.broker.is_open(connection).then_some(channel);
            }
            let connection = world.connect(self.me)?;
            world.declare();
            let channel = world
                .broker
                .subscribe(connection, DEAD_QUEUE, PREFETCH, world.now)?;
            self.session = Some((connection, channel));
            Some(channel)
        })
    }

    fn receive(&mut self, channel: ChannelId) {
        self.sim.with(|world| {
            while let Some(letter) = world.broker.next(channel, world.now) {
                self.in_hand.push(letter);
            }
        });
    }

    async fn handle(&mut self, channel: ChannelId) -> Result<(), NoAnswer> {
        let (mut rejected, mut never_started) = (Vec::new(), Vec::new());
        for letter in &self.in_hand {
            match letter.death {
                Some(DeathReason::Rejected) => rejected.push(letter.message.job),
                _ => never_started.push((letter.message.job, Duration::ZERO)),
            }
        }
        if !rejected.is_empty() {
            self.rule_on(rejected).await?;
        }
        if !never_started.is_empty() {
            self.sim
                .call(self.me, move |store| store.release(&never_started))
                .await?;
        }
        for letter in std::mem::take(&mut self.in_hand) {
            self.sim.step().await;
            self.sim.with(|world| {
                world
                    .broker
                    .settle(channel, letter.tag, Settle::Ack, world.now);
            });
        }
        Ok(())
    }

    async fn rule_on(&self, rejected: Vec<Fenced>) -> Result<(), NoAnswer> {
        let asked = rejected.clone();
        let failed = self
            .sim
            .call(self.me, move |store| store.failed_of(&asked))
            .await?;
        rule(&self.sim, self.me, &failed).await?;
        let is_failed = |job: &Fenced| failed.iter().any(|failed| failed.job == *job);
        let others = rejected.into_iter().filter(|job| !is_failed(job));
        let refused: Vec<_> = others.map(|job| (job, REFUSED_REST)).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let released = self
            .sim
            .call(self.me, move |store| store.release(&refused))
            .await?;
        if released.is_empty() {
            return Ok(());
        }
        self.sim
            .call(self.me, move |store| {
                store.note_errors(&released, "refused");
            })
            .await
    }
}
