//! How many messages wait in a queue, asked of the queue itself.
//!
//! A passive declare needs no permission and no management API, and is answered by the queue's
//! leader: what it says is true at that moment. It counts what nobody has in hand, not more.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::{Broker, CALL_TIMEOUT, Connection, Error, within};

/// What a queue holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody has in hand.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Asks for depths over a connection of its own, which it keeps.
pub struct DepthReader {
    broker: Broker,
    connection: Option<Connection>,
}

impl DepthReader {
    /// Connects when first asked.
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            connection: None,
        }
    }

    /// The depths of these queues, in the order asked, by one round trip each. None: there is no
    /// such queue. Bounded as a whole, however many queues there are.
    pub async fn read(&mut self, queues: &[String]) -> Result<Vec<Option<Depth>>, Error> {
        match tokio::time::timeout(CALL_TIMEOUT, self.read_all(queues)).await {
            Ok(depths) => depths,
            Err(_) => Err(Error::Timeout {
                operation: "asking for the depths of queues",
            }),
        }
    }

    async fn read_all(&mut self, queues: &[String]) -> Result<Vec<Option<Depth>>, Error> {
        // Taken out, and put back only if it still serves.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.broker.connect_to_ask("audit").await?,
        };
        let depths = read(&connection, queues).await?;
        self.connection = Some(connection);
        Ok(depths)
    }
}

async fn read(connection: &Connection, queues: &[String]) -> Result<Vec<Option<Depth>>, Error> {
    let mut depths = Vec::with_capacity(queues.len());
    let mut channel = connection.channel().await?;
    for queue in queues {
        match depth(&channel, queue).await {
            Ok(depth) => depths.push(Some(depth)),
            // The refusal has closed the channel.
            Err(error) if error.is_not_found() => {
                depths.push(None);
                channel = connection.channel().await?;
            }
            Err(error) => return Err(error),
        }
    }
    let closing = channel.close(200, "done".into());
    within("closing a channel", closing).await?;
    Ok(depths)
}

async fn depth(channel: &Channel, queue: &str) -> Result<Depth, Error> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let asking = channel.queue_declare(queue.into(), passive, FieldTable::default());
    let queue = within("asking for a queue's depth", asking).await?;
    Ok(Depth {
        ready: queue.message_count(),
        consumers: queue.consumer_count(),
    })
}
