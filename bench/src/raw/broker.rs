//! The broker alone: a quorum queue, one publisher, one consumer, both at once.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::ensure;
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use postroad_tests::harness::cluster::Cluster;

use super::{Part, QUEUE, consuming, ended, make_queue, persistent, publishing, rabbitmq};

/// Bytes of a message.
const SIZE: usize = 256;
/// Messages whose confirms are awaited at once.
const WINDOW: usize = 2000;
const PREFETCH: u16 = 500;
/// Messages per ack.
const ACK: usize = 100;

/// Messages a second, from the first to be published to the last to be acked.
pub(crate) async fn rate(cluster: &Cluster, messages: usize) -> anyhow::Result<f64> {
    make_queue(cluster).await?;
    let consumer = Part::Consume { messages }.start(cluster)?;
    let started = Instant::now();
    ended(Part::Publish { messages }.start(cluster)?).await?;
    ended(consumer).await?;
    Ok(messages as f64 / started.elapsed().as_secs_f64())
}

pub(super) async fn publish(messages: usize) -> anyhow::Result<()> {
    let connection = rabbitmq().await?;
    let channel = publishing(&connection).await?;
    let (body, mut confirms) = ([b'x'; SIZE], VecDeque::with_capacity(WINDOW));
    for _ in 0..messages {
        if confirms.len() == WINDOW {
            confirm(confirms.pop_front()).await?;
        }
        let options = BasicPublishOptions::default();
        let written = channel
            .basic_publish("".into(), QUEUE.into(), options, &body, persistent())
            .await?;
        confirms.push_back(written);
    }
    while !confirms.is_empty() {
        confirm(confirms.pop_front()).await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}

pub(super) async fn confirm(written: Option<lapin::PublisherConfirm>) -> anyhow::Result<()> {
    if let Some(written) = written {
        ensure!(written.await?.is_ack(), "the broker refused a message");
    }
    Ok(())
}

pub(super) async fn consume(messages: usize) -> anyhow::Result<()> {
    let connection = rabbitmq().await?;
    let channel = consuming(&connection, PREFETCH).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel
        .basic_consume(QUEUE.into(), "raw".into(), options, FieldTable::default())
        .await?;
    for n in 1..=messages {
        let Some(delivery) = deliveries.next().await else {
            anyhow::bail!("the consumer was ended");
        };
        if n % ACK == 0 || n == messages {
            delivery?.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(connection.close(200, "done".into()).await?)
}
