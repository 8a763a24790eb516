//! The provider's door: HTTP/1.1 on bare hyper, because a reset and a half answer are made on the
//! connection, which frameworks keep to themselves.
//!
//! A request is recorded and takes effect when it has been read, *before* the pause that models
//! the provider's latency: a client that gives up or dies while it waits has caused the effect and
//! does not know, which is the case that matters.
//! Nothing is awaited between the effect and its record, so neither exists without the other.

use std::error::Error;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};

use super::answer::{Answered, ResetConnection, answer, error, json};
use super::behaviour::{Answer, Behaviour};
use super::ledger::{Decision, Key, Ledger};
use super::record::Record;

/// The largest body of a request to the provider.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The largest body of a control request: some 400,000 ids to ask for at once.
const CONTROL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What all connections share.
pub(super) struct Shared {
    ledger: Mutex<Ledger>,
    /// Told of every change of the counts.
    pub(super) changed: Notify,
    /// Counts the releases of held requests.
    released: watch::Sender<u64>,
    pub(super) records: Option<mpsc::Sender<Record>>,
    keep: Keep,
}

/// What of a request stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    Record,
    RecordAndBody,
}

impl Shared {
    pub(super) fn new(ledger: Ledger, records: Option<mpsc::Sender<Record>>, keep: Keep) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            changed: Notify::new(),
            released: watch::Sender::new(0),
            records,
            keep,
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .expect("nothing panics while it holds the ledger")
    }

    pub(super) fn set(&self, behaviour: Behaviour) -> anyhow::Result<()> {
        behaviour.check()?;
        self.ledger().behaviour = behaviour;
        Ok(())
    }

    pub(super) fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }
}

/// Serves one connection until it ends, is to be reset, or this future is dropped.
pub(super) async fn serve(shared: &Shared, stream: TcpStream) {
    // A socket that is dead already shows itself at the first read.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| route(shared, request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let Err(error) = (&mut connection).await else {
        return;
    };
    if error
        .source()
        .is_some_and(|source| source.is::<ResetConnection>())
    {
        // With a linger time of zero, closing sends RST and forgets what is unsent.
        let _ = connection.into_parts().io.inner().set_zero_linger();
    }
}

async fn route(shared: &Shared, request: Request<Incoming>) -> Answered {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/report") => Ok(json(StatusCode::OK, &shared.ledger().report())),
        (&Method::GET, "/behaviour") => Ok(json(StatusCode::OK, &shared.ledger().behaviour)),
        (&Method::PUT, "/behaviour") => {
            control(request, |behaviour| {
                shared.set(behaviour)?;
                Ok(shared.ledger().behaviour.clone())
            })
            .await
        }
        (&Method::PUT, "/release") => {
            shared.release();
            Ok(json(StatusCode::OK, &serde_json::json!({})))
        }
        (&Method::POST, "/seen") => {
            control(request, |ids: Vec<String>| Ok(seen(shared, ids))).await
        }
        (&Method::POST, _) => receive(shared, request).await,
        _ => Ok(error(StatusCode::NOT_FOUND, "try POST /sms or GET /report")),
    }
}

/// The ids among these that had an effect.
pub(super) fn seen(shared: &Shared, mut ids: Vec<String>) -> Vec<String> {
    let ledger = shared.ledger();
    ids.retain(|id| ledger.seen(Key::of(id)));
    ids
}

/// Reads JSON, acts on it, answers with JSON.
async fn control<Given: DeserializeOwned, Answer: Serialize>(
    request: Request<Incoming>,
    act: impl FnOnce(Given) -> anyhow::Result<Answer>,
) -> Answered {
    let body = match Limited::new(request.into_body(), CONTROL_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(cause) => return Ok(error(StatusCode::PAYLOAD_TOO_LARGE, &cause.to_string())),
    };
    let acted = serde_json::from_slice(&body)
        .map_err(Into::into)
        .and_then(act);
    Ok(match acted {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(cause) => error(StatusCode::BAD_REQUEST, &format!("{cause:#}")),
    })
}

/// Takes one request to the provider.
async fn receive(shared: &Shared, request: Request<Incoming>) -> Answered {
    let t = unix_now();
    let mut in_flight = InFlight::enter(shared);
    let (head, body) = request.into_parts();
    let (body, too_large) = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => (body.to_bytes(), false),
        Err(cause) if cause.is::<LengthLimitError>() => (Bytes::new(), true),
        Err(_) => return Err(ResetConnection), // The client is gone.
    };
    let refusal = match (in_flight.within_limit, too_large) {
        (_, true) => Some(Answer::TooLarge),
        (false, _) => Some(Answer::TooMany),
        _ => None,
    };
    let record = Record::of(&head, &body, t);
    // Room for the record first: the effect must not wait for it, see the top of this file.
    let room = match &shared.records {
        Some(records) => Some(records.reserve().await.map_err(|_| ResetConnection)?),
        None => None,
    };
    let (decision, record, released) = decide(shared, record, refusal, body);
    in_flight.decided = true;
    if let Some(room) = room {
        room.send(record);
    }
    pause(shared, decision.pause, released).await;
    in_flight.answered = Some(decision.answer);
    drop(in_flight);
    answer(&decision)
}

/// Decides and takes the effect, in one hold of the lock.
fn decide(
    shared: &Shared,
    mut record: Record,
    refusal: Option<Answer>,
    body: Bytes,
) -> (Decision, Record, watch::Receiver<u64>) {
    let key = record.key.as_deref().map(Key::of);
    let mut ledger = shared.ledger();
    let decision = ledger.decide(key, refusal, record.t);
    // Under the lock, so that whoever sees this request as held cannot release it too early.
    let released = shared.released.subscribe();
    record.status = decision.answer.into();
    record.effect = decision.effect;
    if shared.keep != Keep::Nothing {
        let body = (shared.keep == Keep::RecordAndBody).then_some(body);
        ledger.records.push(Record {
            body,
            ..record.clone()
        });
    }
    drop(ledger);
    shared.changed.notify_waiters();
    (decision, record, released)
}

async fn pause(shared: &Shared, pause: Option<Duration>, mut released: watch::Receiver<u64>) {
    match pause {
        Some(Duration::ZERO) => {}
        Some(pause) => tokio::time::sleep(pause).await,
        None => {
            let _held = Held(shared);
            // Fails only when the simulator is gone, and this with it.
            let _ = released.changed().await;
        }
    }
}

/// Counts a held request down, also when its client goes away.
struct Held<'a>(&'a Shared);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.ledger().unhold();
        self.0.changed.notify_waiters();
    }
}

/// A request in flight; hyper drops it with its future when the client goes away.
struct InFlight<'a> {
    shared: &'a Shared,
    within_limit: bool,
    decided: bool,
    answered: Option<Answer>,
}

impl<'a> InFlight<'a> {
    fn enter(shared: &'a Shared) -> Self {
        let within_limit = shared.ledger().enter();
        shared.changed.notify_waiters();
        Self {
            shared,
            within_limit,
            decided: false,
            answered: None,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        match self.answered {
            Some(answer) => self.shared.ledger().answered(answer),
            None => self.shared.ledger().gone(self.decided),
        }
        self.shared.changed.notify_waiters();
    }
}

fn unix_now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs_f64()
}
