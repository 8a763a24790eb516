//! What a process knows about its own readiness, and the page that tells it.
//!
//! Each part of a process reports its own condition by name. A change is logged once, however
//! often it is reported, so a server that is away for an hour costs two lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

/// The conditions a process depends on, each good or with the reason why not.
#[derive(Clone, Debug, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Health {
    /// Nothing expected yet, so ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a condition that must become good before the process is ready.
    pub fn expect(&self, name: &'static str) {
        self.with(|conditions| {
            conditions
                .entry(name)
                .or_insert_with(|| Err("starting".to_owned()));
        });
    }

    /// Reports that `name` is good.
    pub fn good(&self, name: &'static str) {
        if self
            .replace(name, Ok(()))
            .is_some_and(|before| before.is_err())
        {
            tracing::info!("{name}: ready");
        }
    }

    /// Reports that `name` is not good, and why.
    pub fn bad(&self, name: &'static str, why: impl std::fmt::Display) {
        let why = why.to_string();
        if self.replace(name, Err(why.clone())) != Some(Err(why.clone())) {
            tracing::warn!("{name}: {why}");
        }
    }

    /// The conditions that are not good.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.with(|conditions| {
            let bad = |(name, state): (&&'static str, &Result<(), String>)| {
                state.as_ref().err().map(|why| (*name, why.clone()))
            };
            conditions.iter().filter_map(bad).collect()
        })
    }

    fn replace(&self, name: &'static str, state: Result<(), String>) -> Option<Result<(), String>> {
        self.with(|conditions| conditions.insert(name, state))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<&'static str, Result<(), String>>) -> T) -> T {
        act(&mut self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

/// Histograms keep every sample, 24 bytes, until they are taken into their buckets: in five seconds of a
/// drain that is ten megabytes.
const UPKEEP: Duration = Duration::from_millis(250);

/// The admin page of a process: `/healthz`, `/readyz` and `/metrics`.
pub struct AdminPage {
    listener: TcpListener,
    metrics: PrometheusHandle,
}

impl AdminPage {
    /// Binds the page and installs the metrics recorder. Port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminPageError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AdminPageError::Bind { address, source })?;
        let metrics = PrometheusBuilder::new()
            .set_buckets(&SECONDS_BUCKETS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| AdminPageError::Metrics(error.to_string()))?;
        metrics::describe_gauge!(BUILD_INFO, "always 1; the version that runs");
        metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        if let Ok(address) = listener.local_addr() {
            tracing::info!("admin page on http://{address}");
        }
        Ok(Self { listener, metrics })
    }

    /// Serves until the process ends.
    pub fn serve(self, health: Health) {
        let Self { listener, metrics } = self;
        let upkeep = metrics.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                upkeep.run_upkeep();
            }
        });
        let page = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(health)
            .route("/metrics", get(async move || metrics.render()));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, page).await {
                tracing::error!("admin page ended: {error}");
            }
        });
    }
}

/// Which version runs, for whoever looks at many processes at once.
const BUILD_INFO: &str = "postroad_build_info";

/// Histogram buckets for everything measured in seconds: 1 ms to 5 min.
const SECONDS_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
];

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let reasons = health.reasons();
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({ "ready": ready, "reasons": reasons })),
    )
}

/// Why the admin page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminPageError {
    /// The address is taken or not ours.
    #[error("listening on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A recorder was installed before.
    #[error("installing the metrics recorder: {0}")]
    Metrics(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_expected_condition_is_good() {
        let health = Health::new();
        health.expect("postgres");
        health.expect("rabbitmq");
        health.good("postgres");
        assert_eq!(
            health.reasons().into_keys().collect::<Vec<_>>(),
            ["rabbitmq"]
        );
        health.good("rabbitmq");
        assert!(health.reasons().is_empty());
        health.bad("postgres", "connection refused");
        assert_eq!(health.reasons()["postgres"], "connection refused");
    }
}
