//! The model broker against a real RabbitMQ, through the doors that the programs use.

use std::time::Duration;

use anyhow::{Context as _, bail};
use postroad_chaos::sim::Chance;
use postroad_chaos::sim::model_broker::{ChannelId, ConnectionId, Mischief, ModelBroker};
use postroad_common::broker::topology::{self, DEAD_QUEUE, work_queue};
use postroad_common::broker::{
    Broker, Connection, DeathReason, Delivery, Outgoing, Published, Publisher, Settings, Settle,
    Subscription,
};
use postroad_common::health::Health;
use postroad_common::message::Envelope;
use postroad_common::shutdown::Shutdown;
use postroad_tests::harness::broker::Vhost;
use postroad_tests::harness::endpoints::Endpoints;
use postroad_tests::harness::eventually::eventually;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

const QUEUE: &str = "conformance";
const PREFETCH: u16 = 3;
const SEQUENCES: u64 = 12;
const STEPS: usize = 40;
/// Longer than a message takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const AN_HOUR: Duration = Duration::from_secs(60 * 60);

/// A message in hand: its tag, its number, whether it was delivered before.
type Received = (u64, u64, bool);

/// What the simulation asks a broker.
trait Door {
    async fn publish(&mut self, queue: &str, number: u64, expiration: Duration) -> Published;
    /// The next delivery, which must be there.
    async fn receive(&mut self) -> anyhow::Result<Received>;
    async fn settle(&mut self, tag: u64, settle: Settle);
    /// Ends the consumer's connection and opens another.
    async fn reconnect(&mut self) -> anyhow::Result<()>;
    /// The next dead letter, which must be there, and is acked.
    async fn receive_dead(&mut self) -> anyhow::Result<(u64, DeathReason)>;
}

struct Real {
    vhost: Vhost,
    broker: Broker,
    publisher: Publisher,
    consumer: Option<(Connection, Subscription)>,
    dead: (Connection, Subscription),
    _queues: watch::Sender<Vec<String>>,
}

impl Real {
    async fn open(name: &str) -> anyhow::Result<Self> {
        let Endpoints {
            amqp_url,
            management_url,
            ..
        } = Endpoints::shared()?;
        let name = format!("conformance_{name}_{}", std::process::id());
        let vhost = Vhost::create(&amqp_url, &management_url, &name).await?;
        let settings = Settings::of_url(vhost.amqp_url()).map_err(anyhow::Error::msg)?;
        let broker = Broker::new(settings, "conformance".to_owned());
        let (queues, seen) = watch::channel(vec![QUEUE.to_owned()]);
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let publisher = Publisher::spawn(broker.clone(), seen, health, shutdown);
        eventually("the publisher is connected", async || {
            match publisher.is_ready() {
                true => Ok(()),
                false => bail!("it is not"),
            }
        })
        .await?;
        let dead = consume(&broker, DEAD_QUEUE).await?;
        Ok(Self {
            vhost,
            broker,
            publisher,
            consumer: None,
            dead,
            _queues: queues,
        })
    }

    fn subscription(&mut self) -> anyhow::Result<&mut Subscription> {
        let (_, subscription) = self.consumer.as_mut().context("nobody consumes")?;
        Ok(subscription)
    }
}

async fn consume(broker: &Broker, queue: &str) -> anyhow::Result<(Connection, Subscription)> {
    let connection = broker.connect("conformance").await?;
    topology::declare(&connection, &[QUEUE.to_owned()]).await?;
    let subscription = Subscription::open(&connection, queue, PREFETCH, "conformance").await?;
    Ok((connection, subscription))
}

impl Door for Real {
    async fn publish(&mut self, queue: &str, number: u64, expiration: Duration) -> Published {
        let envelope = Envelope {
            id: Uuid::from_u64_pair(0, number).into(),
            dispatch: 1,
            kind: "echo".to_owned(),
            tenant: "default".to_owned(),
            attempt: 1,
            traceparent: None,
            body: b"{}".to_vec(),
        };
        let outgoing = Outgoing::job(queue, envelope, expiration, 0);
        self.publisher.publish(vec![outgoing]).await[0]
    }

    async fn receive(&mut self) -> anyhow::Result<Received> {
        let next = timeout(PATIENCE, self.subscription()?.next()).await;
        let delivery = next.context("no delivery came")??;
        let number = number(&delivery)?;
        Ok((delivery.tag, number, delivery.redelivered))
    }

    async fn settle(&mut self, tag: u64, settle: Settle) {
        let subscription = self.subscription().expect("what is settled was received");
        let settler = subscription.settler();
        settler.settle(vec![(tag, settle)]).await;
        settler.flush().await;
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        if let Some((connection, _)) = self.consumer.take() {
            connection.close().await?;
        }
        self.consumer = Some(consume(&self.broker, &work_queue(QUEUE)).await?);
        Ok(())
    }

    async fn receive_dead(&mut self) -> anyhow::Result<(u64, DeathReason)> {
        let (_, letters) = &mut self.dead;
        let next = timeout(PATIENCE, letters.next()).await;
        let delivery = next.context("no dead letter came")??;
        let settler = letters.settler();
        settler.settle(vec![(delivery.tag, Settle::Ack)]).await;
        let number = number(&delivery)?;
        Ok((number, delivery.message.death_reason()))
    }
}

/// The number that the id of its job was made of.
fn number(delivery: &Delivery) -> anyhow::Result<u64> {
    let jobs = delivery.message.clone().into_jobs()?;
    let (_, number) = jobs[0].id.as_uuid().as_u64_pair();
    Ok(number)
}

struct Model {
    broker: ModelBroker<u64>,
    consumer: Option<(ConnectionId, ChannelId)>,
    dead: ChannelId,
    now: i64,
}

impl Model {
    fn open() -> Self {
        let mut broker = ModelBroker::default();
        broker.declare([work_queue(QUEUE).as_str()], 0);
        let connection = broker.connect();
        let dead = broker
            .subscribe(connection, DEAD_QUEUE, PREFETCH.into(), 0)
            .unwrap();
        Self {
            broker,
            consumer: None,
            dead,
            now: 0,
        }
    }

    /// The delivery that the real broker must bring next.
    fn next(&mut self) -> Option<Received> {
        let (_, channel) = self.consumer?;
        let delivery = self.broker.next(channel, self.now)?;
        Some((delivery.tag, delivery.message, delivery.redelivered))
    }
}

impl Door for Model {
    async fn publish(&mut self, queue: &str, number: u64, expiration: Duration) -> Published {
        let expires_at = Some(self.now + i64::try_from(expiration.as_millis()).unwrap());
        let queue = work_queue(queue);
        self.broker
            .publish(&queue, number, expires_at, Mischief::default(), self.now)
    }

    async fn receive(&mut self) -> anyhow::Result<Received> {
        self.next().context("no delivery came")
    }

    async fn settle(&mut self, tag: u64, settle: Settle) {
        let (_, channel) = self.consumer.expect("what is settled was received");
        self.broker.settle(channel, tag, settle, self.now);
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        if let Some((connection, _)) = self.consumer.take() {
            self.broker.close(connection, self.now);
        }
        let connection = self.broker.connect();
        let queue = work_queue(QUEUE);
        let channel = self
            .broker
            .subscribe(connection, &queue, PREFETCH.into(), self.now);
        self.consumer = Some((connection, channel.context("there is no queue")?));
        Ok(())
    }

    async fn receive_dead(&mut self) -> anyhow::Result<(u64, DeathReason)> {
        let letter = self
            .broker
            .next(self.dead, self.now)
            .context("no dead letter came")?;
        self.broker
            .settle(self.dead, letter.tag, Settle::Ack, self.now);
        Ok((
            letter.message,
            letter.death.context("a dead letter has a reason")?,
        ))
    }
}

#[tokio::test]
async fn messages_are_delivered_settled_and_given_back_as_the_model_says() -> anyhow::Result<()> {
    for seed in 0..SEQUENCES {
        let mut real = Real::open(&format!("any{seed}")).await?;
        compare(seed, &mut real)
            .await
            .with_context(|| format!("seed {seed}"))?;
        real.vhost.delete().await?;
    }
    Ok(())
}

async fn compare(seed: u64, real: &mut Real) -> anyhow::Result<()> {
    let (mut chance, mut model) = (Chance::of(seed), Model::open());
    let (mut in_hand, mut published) = (Vec::new(), 0);
    real.reconnect().await?;
    model.reconnect().await?;
    for step in 0..STEPS {
        match chance.below(10) {
            0..=3 => {
                published += 1;
                let modelled = model.publish(QUEUE, published, AN_HOUR).await;
                let answer = real.publish(QUEUE, published, AN_HOUR).await;
                assert_eq!(modelled, answer, "seed {seed}, step {step}");
            }
            4..=8 if !in_hand.is_empty() => {
                let (tag, _, _) = in_hand.swap_remove(chance.below(in_hand.len()));
                let settle = *chance.one_of(&[Settle::Ack, Settle::DeadLetter, Settle::Requeue]);
                model.settle(tag, settle).await;
                real.settle(tag, settle).await;
                if settle == Settle::DeadLetter {
                    let modelled = model.receive_dead().await?;
                    assert_eq!(
                        modelled,
                        real.receive_dead().await?,
                        "seed {seed}, step {step}"
                    );
                }
            }
            9 => {
                // What was given back comes again, marked as such.
                model.reconnect().await?;
                real.reconnect().await?;
                in_hand.clear();
            }
            _ => {}
        }
        // All that is pushed: what is on its way when a connection ends, nobody can foresee.
        while let Some(modelled) = model.next() {
            assert_eq!(modelled, real.receive().await?, "seed {seed}, step {step}");
            in_hand.push(modelled);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_message_for_no_queue_is_returned() -> anyhow::Result<()> {
    let (mut real, mut model) = (Real::open("returned").await?, Model::open());
    for queue in ["nowhere", QUEUE] {
        let modelled = model.publish(queue, 1, AN_HOUR).await;
        assert_eq!(modelled, real.publish(queue, 1, AN_HOUR).await, "{queue}");
    }
    real.vhost.delete().await
}

#[tokio::test]
async fn a_message_that_waits_too_long_is_dead_lettered_as_expired() -> anyhow::Result<()> {
    let (mut real, mut model) = (Real::open("expired").await?, Model::open());
    let shortly = Duration::from_millis(20);
    let modelled = model.publish(QUEUE, 1, shortly).await;
    assert_eq!(modelled, real.publish(QUEUE, 1, shortly).await);
    model.now += 1_000;
    let modelled = model.receive_dead().await?;
    assert_eq!(modelled, real.receive_dead().await?);
    assert_eq!(modelled, (1, DeathReason::Expired));
    real.vhost.delete().await
}

#[tokio::test]
async fn a_message_that_is_given_back_too_often_is_dead_lettered() -> anyhow::Result<()> {
    let (mut real, mut model) = (Real::open("limit").await?, Model::open());
    assert_eq!(model.publish(QUEUE, 1, AN_HOUR).await, Published::Confirmed);
    assert_eq!(real.publish(QUEUE, 1, AN_HOUR).await, Published::Confirmed);
    let mut deliveries = 0;
    loop {
        model.reconnect().await?;
        real.reconnect().await?;
        let Some(modelled) = model.next() else { break };
        assert_eq!(modelled, real.receive().await?, "delivery {deliveries}");
        deliveries += 1;
    }
    let modelled = model.receive_dead().await?;
    assert_eq!(
        modelled,
        real.receive_dead().await?,
        "after {deliveries} deliveries"
    );
    assert_eq!(modelled, (1, DeathReason::DeliveryLimit));
    real.vhost.delete().await
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_messages() -> anyhow::Result<()> {
    let (mut real, mut model) = (Real::open("full").await?, Model::open());
    real.vhost.limit_queues(2).await?;
    model.broker.limit_length(2);
    // A quorum queue learns of its policy, and of its length, a little late.
    for door in [&mut Either::Real(&mut real), &mut Either::Model(&mut model)] {
        let mut number = 0;
        while door.publish(number).await != Published::Nacked {
            number += 1;
            assert!(number < 10_000, "it took {number} messages");
        }
    }
    real.vhost.delete().await
}

/// One of the two, where the same is asked of both but not in step.
enum Either<'a> {
    Real(&'a mut Real),
    Model(&'a mut Model),
}

impl Either<'_> {
    async fn publish(&mut self, number: u64) -> Published {
        match self {
            Self::Real(real) => real.publish(QUEUE, number, AN_HOUR).await,
            Self::Model(model) => model.publish(QUEUE, number, AN_HOUR).await,
        }
    }
}
