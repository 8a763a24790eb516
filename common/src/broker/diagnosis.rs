//! What `postroad doctor` asks RabbitMQ about itself and about whoever asks. Changes nothing.
//!
//! A permission is tried on something that does not exist: the broker looks at the permission first,
//! so the answer is either "refused" or "not found".

use std::time::Duration;

use lapin::options::{BasicGetOptions, ExchangeBindOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPScheme;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::topology::{self, DEAD_QUEUE, JOBS_EXCHANGE, PARKED_QUEUE, work_queue};
use super::{Broker, Connection, Depth, DepthReader, Error, within};

/// The broker, and the user of this connection.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Such as `3.10.8`; none where it is not known: it is asked for without TLS only.
    pub version: Option<String>,
    /// Exchanges and queues that do not exist.
    pub missing: Vec<String>,
    /// What this user may not do, in words.
    pub refused: Vec<Refused>,
    /// What waits in `postroad.parked`.
    pub parked: Option<Depth>,
    /// What waits in `postroad.dead`.
    pub dead: Option<Depth>,
}

/// A permission that the user lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// To create queues: `postroad migrate`.
    Configure,
    /// To publish jobs: a scheduler.
    Write,
    /// To consume jobs: a worker.
    Read,
}

/// How long the broker may take to introduce itself.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// Its introduction is about 500 bytes.
const GREETING_BYTES_MAX: usize = 16 * 1024;

impl Broker {
    /// Looks at the broker as this user sees it. An error: there is no way in.
    pub async fn diagnose(&self, queues: &[String]) -> Result<Diagnosis, Error> {
        let connection = self.connect_to_ask("doctor").await?;
        let diagnosis = Diagnosis {
            version: self.version().await,
            missing: topology::missing(&connection, queues).await?,
            refused: refused(&connection).await?,
            ..Diagnosis::default()
        };
        // A connection that is dropped is closed without a word, which the broker logs. That it was
        // about to close its channels when it was closed is none of our business.
        drop(connection.close().await);
        let mut depths = DepthReader::new(self.clone());
        let fixed = [PARKED_QUEUE, DEAD_QUEUE].map(str::to_owned);
        let read = depths.read(&fixed).await?;
        Ok(Diagnosis {
            parked: read[0],
            dead: read[1],
            ..diagnosis
        })
    }

    /// What the broker says of itself before anybody logs in.
    async fn version(&self) -> Option<String> {
        let uri = &self.settings.uri;
        if !matches!(uri.scheme, AMQPScheme::AMQP) {
            return None;
        }
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let greeting = tokio::time::timeout(GREETING_LIMIT, greeting(address)).await;
        version_in(&greeting.ok()?.ok()?)
    }
}

async fn greeting(address: (&str, u16)) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    // Frame: type, channel, size; then the payload.
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut payload = vec![0; size.min(GREETING_BYTES_MAX)];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// The long string under `version` in the table of the broker's properties.
fn version_in(greeting: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let found = greeting.windows(NAME.len()).position(|part| part == NAME)?;
    let rest = greeting.get(found + NAME.len()..)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    Some(String::from_utf8_lossy(text).chars().take(40).collect())
}

async fn refused(connection: &Connection) -> Result<Vec<Refused>, Error> {
    let nothing = format!("doctor-{}", uuid::Uuid::now_v7().simple());
    let name = work_queue(&nothing);
    let mut refused = Vec::new();

    let channel = connection.channel().await?;
    let delete = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
    let deleted = within("asking for the permission to configure", delete).await;
    if is_refused(deleted.map(drop), None)? {
        refused.push(Refused::Configure);
    }

    // To bind takes `write` on what receives, then `read` on what gives: which there is none of.
    let channel = connection.channel().await?;
    let bind = channel.exchange_bind(
        JOBS_EXCHANGE.into(),
        name.as_str().into(),
        "".into(),
        ExchangeBindOptions::default(),
        FieldTable::default(),
    );
    let bound = within("asking for the permission to write", bind).await;
    if is_refused(bound, Some(&format!("'{JOBS_EXCHANGE}'")))? {
        refused.push(Refused::Write);
    }

    let channel = connection.channel().await?;
    let get = channel.basic_get(name.as_str().into(), BasicGetOptions::default());
    let got = within("asking for the permission to read", get).await;
    if is_refused(got.map(drop), None)? {
        refused.push(Refused::Read);
    }
    Ok(refused)
}

/// Whether the answer is a refusal, and one of access to `what`.
fn is_refused(answer: Result<(), Error>, what: Option<&str>) -> Result<bool, Error> {
    match answer {
        Err(error) if error.is_access_refused() => {
            Ok(what.is_none_or(|what| error.to_string().contains(what)))
        }
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_greeting_and_nothing_is_found_in_a_cut_one() {
        let mut greeting = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x30".to_vec();
        greeting.extend(b"\x07productS\x00\x00\x00\x08RabbitMQ");
        let cut = greeting.len();
        greeting.extend(b"\x07versionS\x00\x00\x00\x063.10.8");
        assert_eq!(version_in(&greeting).as_deref(), Some("3.10.8"));
        for n in cut..greeting.len() {
            assert_eq!(version_in(&greeting[..n]), None, "{n} bytes");
        }
    }
}
