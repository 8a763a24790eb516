//! What breaks a RabbitMQ from within, and what only the node itself knows exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use postroad_provision::Control;
use serde::Deserialize;

use crate::harness::broker::Vhost;
use crate::harness::eventually::eventually;

/// What the broker has run out of: whoever publishes is blocked until it has it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Memory.
    Memory,
    /// Room on its disk.
    Disk,
}

impl Alarm {
    fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    fn raise(self) -> &'static str {
        match self {
            Self::Memory => "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})",
            Self::Disk => "rabbit_disk_monitor:set_disk_free_limit(\"1000GB\")",
        }
    }

    /// The limits that the node was started with.
    fn clear(self) -> &'static str {
        match self {
            Self::Memory => {
                "{ok, Limit} = application:get_env(rabbit, vm_memory_high_watermark), \
                 vm_memory_monitor:set_vm_memory_high_watermark(Limit)"
            }
            Self::Disk => {
                "{ok, Limit} = application:get_env(rabbit, disk_free_limit), \
                 rabbit_disk_monitor:set_disk_free_limit(Limit)"
            }
        }
    }
}

/// Messages of a queue, as the queue itself counts them at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Depth {
    /// Messages that nobody has in hand.
    pub ready: u64,
    /// Messages in somebody's hands.
    pub unacked: u64,
    /// Dead letters that the queue keeps until their target has confirmed them.
    pub dead_lettering: u64,
}

/// A client's connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OpenConnection {
    /// The name that the client gave itself.
    pub name: String,
    /// The process that serves it, as Erlang writes it.
    pid: String,
}

/// Raises an alarm; returns when it is in force. A restart of the node ends it.
pub async fn raise(node: &Control, alarm: Alarm) -> anyhow::Result<()> {
    change(node, alarm, alarm.raise(), true).await
}

/// Ends an alarm; returns when nobody is blocked for it any more.
pub async fn clear(node: &Control, alarm: Alarm) -> anyhow::Result<()> {
    change(node, alarm, alarm.clear(), false).await
}

async fn change(
    node: &Control,
    alarm: Alarm,
    change: &str,
    is_expected: bool,
) -> anyhow::Result<()> {
    let changed = node.eval(&format!("{change}, []")).await;
    changed.with_context(|| format!("changing the {alarm:?} alarm"))?;
    let says = if is_expected { "raised" } else { "cleared" };
    eventually(format_args!("the {alarm:?} alarm is {says}"), async || {
        let is_raised = is_raised(node, alarm).await?;
        ensure!(is_raised == is_expected, "it is not");
        Ok(())
    })
    .await
}

/// Whether an alarm is in force.
pub async fn is_raised(node: &Control, alarm: Alarm) -> anyhow::Result<bool> {
    let ask = format!(
        "[atom_to_list(Resource) ++ \" \" || \
          {{{{resource_limit, Resource, Node}}, _}} <- rabbit_alarm:get_alarms(), Node =:= node(), \
          Resource =:= {}]",
        alarm.resource()
    );
    let raised = node.eval(&ask).await.context("asking for alarms")?;
    Ok(!raised.is_empty())
}

/// How often channels look for messages that are in somebody's hands for too long.
const LOOK: Duration = Duration::from_secs(1);

/// Closes channels that have a message in hand for longer than this, within a second or two.
///
/// It holds for channels that are opened from now on, as the broker reads it when one opens; and
/// until the node is restarted.
pub async fn set_consumer_timeout(node: &Control, timeout: Duration) -> anyhow::Result<()> {
    let set = format!(
        "ok = application:set_env(rabbit, consumer_timeout, {}), \
         ok = application:set_env(rabbit, channel_tick_interval, {}), []",
        timeout.as_millis(),
        LOOK.as_millis()
    );
    let set = node.eval(&set).await;
    set.map(drop).context("setting the consumer timeout")
}

/// The depths of all queues of a virtual host.
///
/// Quorum queues, whose published counts are seconds old, are asked for their state.
pub async fn depths(node: &Control, vhost: &str) -> anyhow::Result<BTreeMap<String, Depth>> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
        #[serde(flatten)]
        depth: Depth,
    }
    let ask = format!(
        "rabbit_json:encode([begin \
           {{resource, _, _, Name}} = amqqueue:get_name(Queue), \
           case amqqueue:get_type(Queue) of \
             rabbit_quorum_queue -> \
               Ask = fun(Query) -> \
                 {{ok, {{_, Answer}}, _}} = ra:local_query(amqqueue:get_pid(Queue), Query), Answer end, \
               {{Dead, _}} = Ask(fun rabbit_fifo:query_stat_dlx/1), \
               #{{name => Name, ready => Ask(fun rabbit_fifo:query_messages_ready/1), \
                 unacked => Ask(fun rabbit_fifo:query_messages_checked_out/1), \
                 dead_lettering => Dead}}; \
             _ -> \
               Info = rabbit_amqqueue:info(Queue, [messages_ready, messages_unacknowledged]), \
               [{{_, Ready}}, {{_, Unacked}}] = Info, \
               #{{name => Name, ready => Ready, unacked => Unacked, dead_lettering => 0}} \
           end end || Queue <- rabbit_amqqueue:list(<<\"{vhost}\">>)])"
    );
    let answer = node.eval(&ask).await.context("asking for depths")?;
    let named: Vec<Named> = serde_json::from_str(&answer).context("reading depths")?;
    Ok(named.into_iter().map(|one| (one.name, one.depth)).collect())
}

/// The connections of a virtual host whose name, as the client chose it, contains `text`.
pub async fn connections(
    node: &Control,
    vhost: &str,
    text: &str,
) -> anyhow::Result<Vec<OpenConnection>> {
    let ask = format!(
        "rabbit_json:encode([begin \
           Name = case lists:keyfind(<<\"connection_name\">>, 1, Properties) of \
             {{_, _, Found}} -> Found; false -> <<>> end, \
           #{{name => Name, pid => list_to_binary(pid_to_list(Pid))}} end || \
           [{{pid, Pid}}, {{vhost, <<\"{vhost}\">>}}, {{client_properties, Properties}}] <- \
           rabbit_networking:connection_info_all([pid, vhost, client_properties])])"
    );
    let answer = node.eval(&ask).await.context("asking for connections")?;
    let mut found: Vec<OpenConnection> =
        serde_json::from_str(&answer).context("reading connections")?;
    found.retain(|connection| connection.name.contains(text));
    Ok(found)
}

/// Closes these connections, as an administrator does; returns when they are gone, and says how
/// many they were.
pub async fn close_connections(node: &Control, vhost: &str, text: &str) -> anyhow::Result<usize> {
    let found = connections(node, vhost, text).await?;
    for OpenConnection { pid, .. } in &found {
        // One that went by itself meanwhile is as good.
        let close = format!(
            "catch rabbit_networking:close_connection(list_to_pid(\"{pid}\"), \"closed by a test\"), []"
        );
        node.eval(&close).await.context("closing a connection")?;
    }
    eventually("closed connections are gone", async || {
        let mut left = connections(node, vhost, text).await?;
        left.retain(|connection| found.contains(connection));
        ensure!(left.is_empty(), "{left:?} are there");
        Ok(())
    })
    .await?;
    Ok(found.len())
}

/// Has so many strangers at once connect, open a channel and leave, and again so many times.
pub async fn churn(vhost: &Vhost, strangers: usize, rounds: usize) -> anyhow::Result<()> {
    for _ in 0..rounds {
        let visits = (0..strangers).map(async |_| vhost.stranger().await?.leave().await);
        try_join_all(visits).await.context("coming and going")?;
    }
    Ok(())
}
