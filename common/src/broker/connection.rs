//! Connections: named, with a heartbeat, opened within a bound.

use std::fmt;

use lapin::uri::AMQPUri;
use lapin::{Channel, ConnectionProperties};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{CALL_TIMEOUT, Error, within};
use crate::config::{AMQP_URL_DEFAULT, Env};

/// Seconds between heartbeats, unless the URL says otherwise: a dead peer is noticed after twice
/// as long. RabbitMQ's own default of 60 would hide a cut wire for two minutes.
const HEARTBEAT_SECONDS: u16 = 15;

/// The largest frame, in bytes, of a connection that carries whatever there may be in a queue, unless
/// the URL says otherwise: RabbitMQ's own default. It is said all the same, because the client then
/// makes its buffers in that size; those that it enlarges later it fills with zeros.
const FRAME_MAX: u32 = 128 * 1024;
/// The largest frame, in bytes, of a connection that carries messages that are made here: the
/// properties of one have to fit in. The client keeps room for 64 frames of each connection for as
/// long as it lives: 8 MiB of RabbitMQ's default, 2 MiB of these.
pub(super) const FRAME_OF_OURS_MAX: u32 = 32 * 1024;
/// Of one that only asks and declares. RabbitMQ takes no less than 8 KiB.
pub(super) const FRAME_OF_QUESTIONS_MAX: u32 = 16 * 1024;

/// Where the broker is.
#[derive(Clone)]
pub struct Settings {
    pub(super) uri: AMQPUri,
}

impl fmt::Debug for Settings {
    // The URL holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri {
            authority, vhost, ..
        } = &self.uri;
        f.debug_struct("Settings")
            .field("host", &authority.host)
            .field("port", &authority.port)
            .field("vhost", vhost)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads `AMQP_URL`.
    pub fn read(env: &mut Env) -> Self {
        let url = env.text("AMQP_URL").unwrap_or(AMQP_URL_DEFAULT).to_owned();
        Self::of_url(&url).unwrap_or_else(|error| {
            let what = format!(
                "is not an AMQP URL ({error}); one looks like amqp://user:password@host:5672/vhost"
            );
            env.problem("AMQP_URL", what);
            Self {
                uri: AMQPUri::default(),
            }
        })
    }

    /// The broker at `url`.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let mut uri: AMQPUri = url.parse().map_err(|error| without_url(error, url))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let timeout_ms = u64::try_from(CALL_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        uri.query.connection_timeout.get_or_insert(timeout_ms);
        Ok(Self { uri })
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }
}

/// What is wrong with a URL. Some of the parser's texts repeat it whole, with its password.
fn without_url(error: String, url: &str) -> String {
    if error.contains(url) {
        "it names no host".to_owned()
    } else {
        error
    }
}

/// Opens connections on behalf of one process.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(super) settings: Settings,
    process: String,
}

impl Broker {
    /// `process` is how the broker's pages name this process: program, version, host and pid.
    pub fn new(settings: Settings, process: String) -> Self {
        Self { settings, process }
    }

    /// Opens a connection for one `purpose`, such as `consume`.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, Error> {
        let mut uri = self.settings.uri.clone();
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        self.connect_by(uri, purpose).await
    }

    /// Opens one over which no message goes.
    pub async fn connect_to_ask(&self, purpose: &str) -> Result<Connection, Error> {
        self.connect_with(FRAME_OF_QUESTIONS_MAX, purpose).await
    }

    /// Frames are no larger than this, nor than the URL and the broker say.
    pub(super) async fn connect_with(
        &self,
        frame_max: u32,
        purpose: &str,
    ) -> Result<Connection, Error> {
        let mut uri = self.settings.uri.clone();
        let asked = uri.query.frame_max.filter(|asked| *asked > 0);
        uri.query.frame_max = Some(asked.map_or(frame_max, |asked| asked.min(frame_max)));
        self.connect_by(uri, purpose).await
    }

    async fn connect_by(&self, uri: AMQPUri, purpose: &str) -> Result<Connection, Error> {
        // Fails when a provider is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let name = format!("{} ({purpose})", self.process);
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "Postroad".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let connecting = lapin::Connection::connect_uri(uri, properties);
        Ok(Connection {
            inner: within("connecting to RabbitMQ", connecting).await?,
            settlers: TaskTracker::new(),
        })
    }
}

/// A connection to the broker. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    inner: lapin::Connection,
    /// What settles the deliveries of its subscriptions, those that have ended as well.
    pub(super) settlers: TaskTracker,
}

impl Connection {
    pub(super) async fn channel(&self) -> Result<Channel, Error> {
        within("opening a channel", self.inner.create_channel()).await
    }

    /// Whether the broker has asked this connection to stop publishing, followed until the
    /// connection ends.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        use futures_util::StreamExt;
        let (told, blocked) = watch::channel(None);
        let mut events = Box::pin(self.inner.events_listener());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let state = match event {
                    lapin::Event::ConnectionBlocked(reason) => Some(reason),
                    lapin::Event::ConnectionUnblocked => None,
                    lapin::Event::Error(_) => break,
                    _ => continue,
                };
                if told.send(state).is_err() {
                    break;
                }
            }
        });
        blocked
    }

    /// Closes the connection and waits until the broker has read everything before the close.
    pub async fn close(self) -> Result<(), Error> {
        within(
            "closing the connection",
            self.inner.close(200, "done".into()),
        )
        .await
    }

    /// The same, once every settle that was handed in has been written. It waits for everybody who
    /// holds a settler.
    pub async fn close_settled(self) -> Result<(), Error> {
        self.settlers.close();
        let settled = async {
            self.settlers.wait().await;
            Ok(())
        };
        let settled = within("settling what is done", settled).await;
        self.close().await?;
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_appears_in_no_error_and_no_debug_output() {
        let error = Settings::of_url("amqp:postroad:hunter2@host:5672/vhost").unwrap_err();
        assert_eq!(error, "it names no host");
        let settings = Settings::of_url("amqp://postroad:hunter2@host:5672/vhost").unwrap();
        let debug = format!("{settings:?}");
        assert!(
            debug.contains("\"host\"") && !debug.contains("hunter2"),
            "{debug}"
        );
    }
}
