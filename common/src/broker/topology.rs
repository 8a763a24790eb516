//! What exists in the broker, as data, and the one function that declares it.
//!
//! What correctness needs is an argument here, because arguments cannot be changed behind our
//! back. What operators tune (lengths, leader placement) is left to policies. Every argument means
//! the same from RabbitMQ 3.10 to 4.x.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::{Connection, Error, within};
use crate::failpoint;

/// Direct: the routing key is the queue's name in Postroad.
pub const JOBS_EXCHANGE: &str = "postroad.jobs";
/// Fanout, so that a dead letter arrives whatever its routing key was.
pub const DEAD_EXCHANGE: &str = "postroad.dead";
/// The scheduler drains it.
pub const DEAD_QUEUE: &str = "postroad.dead";
/// Fanout as well.
pub const PARKED_EXCHANGE: &str = "postroad.parked";
/// What nobody can read ends here, for people to look at.
pub const PARKED_QUEUE: &str = "postroad.parked";

/// Deliveries of one message before the broker gives it up. Postgres counts attempts; this ends a
/// message that kills every worker before the gate, and one that is given back without end. The
/// scheduler then lets its job go again, at no cost of an attempt. Stated, because 4.x has a default and
/// 3.10 has none. <https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>
const WORK_DELIVERY_LIMIT: i32 = 20;
/// The retrier takes everything it understands; what kills it again and again is parked.
const DEAD_DELIVERY_LIMIT: i32 = 100;
/// People look at parked messages by getting and requeueing them, which counts as deliveries.
const PARKED_DELIVERY_LIMIT: i32 = 1_000_000;

/// The broker's queue of a Postroad queue.
pub fn work_queue(queue: &str) -> String {
    format!("{JOBS_EXCHANGE}.{queue}")
}

/// A queue and where it is bound.
struct QueuePlan {
    name: String,
    exchange: &'static str,
    routing_key: String,
    arguments: Vec<(&'static str, AMQPValue)>,
}

const EXCHANGES: [(&str, ExchangeKind); 3] = [
    (JOBS_EXCHANGE, ExchangeKind::Direct),
    (DEAD_EXCHANGE, ExchangeKind::Fanout),
    (PARKED_EXCHANGE, ExchangeKind::Fanout),
];

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// What every queue here is: replicated, with fsync before the confirm.
fn quorum(delivery_limit: i32) -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(delivery_limit)),
    ]
}

/// Dead letters are kept until the other queue has confirmed them. `at-least-once` works only
/// together with `reject-publish`; alone it silently means `at-most-once`.
/// <https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>
fn dead_letters_to(exchange: &'static str) -> [(&'static str, AMQPValue); 3] {
    [
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

fn work_plan(queue: &str) -> QueuePlan {
    let mut arguments = quorum(WORK_DELIVERY_LIMIT);
    arguments.extend(dead_letters_to(DEAD_EXCHANGE));
    QueuePlan {
        name: work_queue(queue),
        exchange: JOBS_EXCHANGE,
        routing_key: queue.to_owned(),
        arguments,
    }
}

fn fixed_plans() -> [QueuePlan; 2] {
    let mut dead = quorum(DEAD_DELIVERY_LIMIT);
    dead.extend(dead_letters_to(PARKED_EXCHANGE));
    let plan = |name: &str, exchange, arguments| QueuePlan {
        name: name.to_owned(),
        exchange,
        routing_key: String::new(),
        arguments,
    };
    [
        plan(DEAD_QUEUE, DEAD_EXCHANGE, dead),
        plan(PARKED_QUEUE, PARKED_EXCHANGE, quorum(PARKED_DELIVERY_LIMIT)),
    ]
}

/// The topology as a table, one line per queue, for `postroad topology`.
pub fn describe(queues: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, kind) in &EXCHANGES {
        lines.push(format!("exchange {name} {} durable", kind_name(kind)));
    }
    for plan in fixed_plans()
        .into_iter()
        .chain(queues.iter().map(|queue| work_plan(queue)))
    {
        let arguments: Vec<_> = plan
            .arguments
            .iter()
            .map(|(name, value)| match value {
                AMQPValue::LongString(text) => format!("{name}={text}"),
                AMQPValue::LongInt(number) => format!("{name}={number}"),
                other => format!("{name}={other:?}"),
            })
            .collect();
        let QueuePlan {
            name,
            exchange,
            routing_key,
            ..
        } = plan;
        lines.push(format!(
            "queue {name} durable {} from {exchange} by `{routing_key}`",
            arguments.join(" ")
        ));
    }
    lines
}

fn kind_name(kind: &ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Fanout => "fanout",
        _ => "direct",
    }
}

/// How declaring went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Things that this user may not declare. They exist if an administrator made them.
    pub refused: usize,
    /// Things that exist with other arguments, and stay as they are.
    pub different: usize,
}

/// Declares exchanges, the fixed queues and one queue per name. Idempotent.
///
/// A user without `configure` permission gets `refused` counts and no error: then `postroad migrate`
/// has to be run by one who has it.
pub async fn declare(connection: &Connection, queues: &[String]) -> Result<Declared, Error> {
    let mut declared = Declared::default();
    for (name, kind) in &EXCHANGES {
        let channel = connection.channel().await?;
        let exchange = declare_exchange(&channel, name, kind.clone()).await;
        declared.count(name, exchange)?;
    }
    for plan in fixed_plans()
        .into_iter()
        .chain(queues.iter().map(|queue| work_plan(queue)))
    {
        // A refusal closes its channel, so everything gets one of its own.
        let channel = connection.channel().await?;
        let result = declare_queue(&channel, &plan).await;
        failpoint!("topology.queue_declared");
        declared.count(&plan.name, result)?;
    }
    Ok(declared)
}

/// The exchanges and queues that do not exist. Needs the permission to declare them.
pub async fn missing(connection: &Connection, queues: &[String]) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for (name, kind) in &EXCHANGES {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = connection.channel().await?;
        let call =
            channel.exchange_declare((*name).into(), kind.clone(), passive, FieldTable::default());
        note_missing(
            within("looking for an exchange", call).await,
            name,
            &mut missing,
        )?;
    }
    for plan in fixed_plans()
        .into_iter()
        .chain(queues.iter().map(|queue| work_plan(queue)))
    {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let channel = connection.channel().await?;
        let call = channel.queue_declare(plan.name.as_str().into(), passive, FieldTable::default());
        let found = within("looking for a queue", call).await.map(drop);
        note_missing(found, &plan.name, &mut missing)?;
    }
    Ok(missing)
}

fn note_missing(
    found: Result<(), Error>,
    name: &str,
    missing: &mut Vec<String>,
) -> Result<(), Error> {
    match found {
        Err(error) if error.is_not_found() => missing.push(name.to_owned()),
        other => return other,
    }
    Ok(())
}

impl Declared {
    fn count(&mut self, name: &str, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if error.is_access_refused() => self.refused += 1,
            Err(error) if error.is_precondition_failed() => {
                self.different += 1;
                tracing::warn!("{name} exists with other arguments and stays as it is: {error}");
            }
            other => return other,
        }
        Ok(())
    }
}

async fn declare_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), Error> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let call = channel.exchange_declare(name.into(), kind, durable, FieldTable::default());
    within("declaring an exchange", call).await
}

async fn declare_queue(channel: &Channel, plan: &QueuePlan) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    for (name, value) in &plan.arguments {
        arguments.insert((*name).into(), value.clone());
    }
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let name = plan.name.as_str();
    within(
        "declaring a queue",
        channel.queue_declare(name.into(), durable, arguments),
    )
    .await?;
    let bind = channel.queue_bind(
        name.into(),
        plan.exchange.into(),
        plan.routing_key.as_str().into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within("binding a queue", bind).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dead_letter_strategy_comes_with_the_overflow_it_needs() {
        for plan in fixed_plans().into_iter().chain([work_plan("sms")]) {
            let has = |name| plan.arguments.iter().any(|(argument, _)| *argument == name);
            assert_eq!(
                has("x-dead-letter-strategy"),
                has("x-overflow"),
                "{}",
                plan.name
            );
            assert!(has("x-delivery-limit"), "{}", plan.name);
        }
    }

    #[test]
    fn the_table_names_every_queue() {
        let lines = describe(&["sms".to_owned()]);
        let work = lines
            .iter()
            .find(|line| line.contains("postroad.jobs.sms"))
            .unwrap();
        assert!(
            work.contains("x-dead-letter-exchange=postroad.dead"),
            "{work}"
        );
        assert!(work.ends_with("from postroad.jobs by `sms`"), "{work}");
    }
}
