//! What Postgres calls out: that a job is due now, that a setting has changed.
//!
//! A call says only that it is worth looking: whoever was away looks when it is back. So nothing
//! depends on a call that arrives, and everything is sooner for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, NoTls};

use super::{Error, Settings, Store, verified_tls};
use crate::backoff::Backoff;
use crate::job::QueueName;
use crate::shutdown::Shutdown;

/// Queues that are remembered as called, at most: of more, nobody needs to be told.
const CALLED_MAX: usize = 64;

/// What is called out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A job was enqueued that is due now.
    Due,
    /// A tenant, a queue, a kind, a secret or a token has changed.
    Settings,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Due => "postroad_due",
            Self::Settings => "postroad_settings",
        }
    }
}

/// A connection that listens, for as long as this process runs.
#[derive(Clone)]
pub struct Listener {
    heard: watch::Receiver<Heard>,
    called: Called,
}

/// The queues of which it was called that a job is due, until somebody takes them.
#[derive(Clone, Debug, Default)]
pub struct Called(Arc<std::sync::Mutex<BTreeSet<String>>>);

impl Called {
    /// Takes what was called since the last call of this. A hint: what was called may be missing, when
    /// nobody heard it or it was too much, and nothing of it may be due any more.
    pub fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.lock())
    }

    fn note(&self, queue: &str) {
        let mut called = self.lock();
        if !queue.is_empty() && called.len() < CALLED_MAX {
            called.insert(queue.to_owned());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How often something was called out; also raised when the connection is new, as calls may have
/// been missed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    count: u64,
}

impl Listener {
    /// Listens to these channels.
    pub fn spawn(settings: &Settings, channels: &'static [Channel], shutdown: &Shutdown) -> Self {
        let (tell, heard) = watch::channel(Heard::default());
        let called = Called::default();
        let task = Task {
            config: settings.config.clone(),
            channels,
            tell,
            called: called.clone(),
        };
        let stop = shutdown.cancel.clone();
        let _detached: JoinHandle<()> = tokio::spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Self { heard, called }
    }

    /// Waits until something is called out that was not there at the last call of this.
    pub async fn next(&mut self) {
        if self.heard.changed().await.is_err() {
            // The process is about to end.
            std::future::pending::<()>().await;
        }
    }

    /// The queues of which it was called that a job is due.
    pub fn called(&self) -> Called {
        self.called.clone()
    }

    /// How often something was called out so far.
    pub fn count(&self) -> u64 {
        self.heard.borrow().count
    }
}

struct Task {
    config: tokio_postgres::Config,
    channels: &'static [Channel],
    tell: watch::Sender<Heard>,
    called: Called,
}

impl Task {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            match self.listen(&mut backoff).await {
                Ok(()) => tracing::debug!("the listening connection was closed"),
                Err(error) => tracing::debug!("listening for changes: {error}"),
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Until the connection ends.
    async fn listen(&self, backoff: &mut Backoff) -> Result<(), Error> {
        let failed = |cause| Error::Query {
            operation: "listening for changes",
            cause,
        };
        match self.config.get_ssl_mode() {
            tokio_postgres::config::SslMode::Require => {
                let (client, connection) =
                    self.config.connect(verified_tls()?).await.map_err(failed)?;
                self.follow(client, connection, backoff).await
            }
            _ => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
                self.follow(client, connection, backoff).await
            }
        }
        .map_err(failed)
    }

    async fn follow<S, T>(
        &self,
        client: tokio_postgres::Client,
        mut connection: tokio_postgres::Connection<S, T>,
        backoff: &mut Backoff,
    ) -> Result<(), tokio_postgres::Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut listen = String::new();
        for channel in self.channels {
            listen.push_str("listen ");
            listen.push_str(channel.name());
            listen.push(';');
        }
        let mut listening = std::pin::pin!(client.batch_execute(&listen));
        let mut is_listening = false;
        // A connection without traffic is looked after by TCP's own keepalive.
        loop {
            tokio::select! {
                done = &mut listening, if !is_listening => {
                    done?;
                    is_listening = true;
                    *backoff = Backoff::default();
                    self.tell();
                }
                message = std::future::poll_fn(|cx| connection.poll_message(cx)) => match message {
                    Some(Ok(AsyncMessage::Notification(call))) => {
                        if call.channel() == Channel::Due.name() {
                            self.called.note(call.payload());
                        }
                        self.tell();
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
            }
        }
    }

    fn tell(&self) {
        self.tell.send_modify(|heard| heard.count += 1);
    }
}

/// Between two calls that a job is due: what comes meanwhile is one call.
const CALL_REST: Duration = Duration::from_millis(2);

impl Store {
    /// Calls out, for every scheduler, that a job of each of these queues is due now; without queues,
    /// of any.
    ///
    /// In a transaction of its own and never in the one that enqueues: Postgres commits those that
    /// call out one after the other.
    pub async fn call_due(&self, queues: &[QueueName]) -> Result<(), Error> {
        const SQL: &str = "select pg_notify('postroad_due', name) from unnest($1::text[]) name";
        let names: Vec<_> = queues.iter().map(QueueName::as_str).collect();
        let names = if names.is_empty() { vec![""] } else { names };
        self.query("calling that a job is due", SQL, &[&names])
            .await?;
        tokio::time::sleep(CALL_REST).await;
        Ok(())
    }
}
