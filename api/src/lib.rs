//! The HTTP API. Any number of equal copies; no state but what can be read again.
//!
//! | room | for |
//! |---|---|
//! | [`config`] | what can be set |
//! | `server` | connections: limits in time and size, and an end that waits |
//! | `frame` | what every request has around it |
//! | `auth`, `quota` | who asks, and how much they may |
//! | `body`, `ndjson`, `trace`, `problem` | what comes in, and what is said against it |
//! | `shown` | announcements, kept in memory as long as nobody changes them |
//! | `collector`, `waker` | single jobs in one statement; schedulers that look at once |
//! | `routes` | one file for each kind of thing |

#![allow(
    unused_qualifications,
    reason = "what utoipa writes for the parameters of a path has one"
)]

pub mod config;

mod auth;
mod body;
mod collector;
mod doors;
mod frame;
mod metrics;
mod ndjson;
mod problem;
mod quota;
mod routes;
mod server;
mod shown;
mod trace;
mod waker;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use postroad_common::egress::EgressPolicy;
use postroad_common::health::{AdminPage, Health};
use postroad_common::service::{Nudge, Progress, Service, spawn};
use postroad_common::shutdown::Shutdown;
use postroad_common::startup;
use postroad_common::store::{self, Channel, Listener, Store};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use utoipa::openapi::OpenApi;

use auth::{TokenUse, Tokens};
use collector::Collector;
use config::Config;
use doors::Doors;
use quota::Quotas;
use shown::Shown;
use waker::Waker;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    store: Store,
    tokens: Tokens,
    collector: Collector,
    waker: Waker,
    quotas: Quotas,
    doors: Doors,
    previews: Arc<Semaphore>,
    shown: Shown,
    egress: EgressPolicy,
}

/// Previews of audiences at once: each may keep a processor of Postgres busy for seconds, and a
/// connection that others could use.
const PREVIEWS_MAX: usize = 2;

/// What `/readyz` says while the listener is not there.
const SERVER: &str = "server";

/// Serves until it is asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    config.log.install();
    let shutdown = Shutdown::on_signals(config.grace).context("listening for signals")?;
    let health = Health::new();
    health.expect(SERVER);
    AdminPage::bind(config.admin_listen)
        .await?
        .serve(health.clone());
    metrics::describe();
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {} (POSTROAD_LISTEN)", config.listen))?;

    let listened = config.database.clone();
    let store = Store::new(config.database)?;
    startup::postgres(&store, &health, &shutdown).await?;
    let changes = Listener::spawn(&listened, &[Channel::Settings], &shutdown);
    let tokens = Tokens::new(store.clone(), changes);
    let waker = Waker::spawn(store.clone());
    let app = App {
        tokens: tokens.clone(),
        collector: Collector::spawn(store.clone(), waker.clone()),
        waker,
        quotas: Quotas::default(),
        doors: Doors::new(store.clone()),
        previews: Arc::new(Semaphore::new(PREVIEWS_MAX)),
        shown: Shown::new(),
        egress: config.egress,
        store: store.clone(),
    };
    drop(spawn(
        TokenUse(tokens),
        Nudge::default(),
        &health,
        &shutdown,
    ));
    drop(spawn(Ping(store), Nudge::default(), &health, &shutdown));

    let address = listener.local_addr().context("reading the own address")?;
    tracing::info!(
        "postroad-api {} serves http://{address}",
        env!("CARGO_PKG_VERSION")
    );
    health.good(SERVER);
    server::serve(listener, router(app), &shutdown).await;
    tracing::info!("stopped");
    Ok(())
}

/// Asks Postgres whether it is there, so that `/readyz` knows.
struct Ping(Store);

impl Service for Ping {
    const NAME: &'static str = "postgres";
    type Error = store::Error;

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        self.0.ping().await?;
        Ok(Progress::Idle)
    }
}

/// Everything that is served.
fn router(app: App) -> Router {
    let (routes, document) = routes::all().split_for_parts();
    let document = routes::text_of(&routes::completed(document));
    routes
        .route(
            "/openapi.json",
            axum::routing::get(async move |State(_): State<App>| {
                let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
                (json, document)
            }),
        )
        .layer(axum::middleware::from_fn(frame::frame))
        .with_state(app)
}

/// The description of everything that is served.
fn openapi() -> OpenApi {
    routes::completed(routes::all().split_for_parts().1)
}

/// The same as JSON, as it is at `/openapi.json`.
pub fn openapi_text() -> String {
    routes::text_of(&openapi())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_description_is_the_one_that_is_served() {
        let committed = include_str!("../../docs/openapi.json");
        assert!(
            committed == super::openapi_text(),
            "run: cargo run -p postroad-api -- --openapi > docs/openapi.json"
        );
    }
}
