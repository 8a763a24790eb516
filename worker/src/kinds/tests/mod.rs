//! The kinds against a real HTTP server, which misbehaves as told.

mod echo;
mod fuzz;
mod hostile;
mod provider;
mod sms;
mod timeline;
mod webhook;

use std::time::Duration;

use ipnet::IpNet;
use postroad_common::settings::TenantSettings;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::http::Limits;
use super::parse_allow;
use crate::{Handler, JobContext, JobError, JobId};

/// Short enough that a test may wait for them.
const LIMITS: Limits = Limits {
    connect: Duration::from_millis(700),
    total: Duration::from_millis(1500),
    body: Duration::from_millis(200),
};

/// For calls that are expected to succeed, however busy the machine.
const PATIENT: Limits = Limits {
    connect: Duration::from_secs(20),
    total: Duration::from_secs(25),
    body: Duration::from_secs(5),
};

fn loopback() -> Vec<IpNet> {
    parse_allow("127.0.0.0/8,::1").expect("networks")
}

fn job<H: Handler>(_handler: &H) -> JobContext {
    JobContext {
        id: JobId::new(),
        dispatch: 1,
        tenant: "acme".to_owned(),
        kind: H::KIND.to_owned(),
        attempt: 3,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        stop: CancellationToken::new(),
        settings: TenantSettings::default(),
    }
}

fn args<A: DeserializeOwned>(json: &str) -> A {
    serde_json::from_str(json).expect("args")
}

fn refusal<A: DeserializeOwned>(json: &str) -> String {
    match serde_json::from_str::<A>(json) {
        Ok(_) => panic!("accepted: {json}"),
        Err(error) => error.to_string(),
    }
}

/// How an attempt ended, in a form that a table of cases can hold.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Done,
    Retry,
    RetryAfter(u64),
    Fatal,
    Unknown,
}

impl From<&JobError> for Ending {
    fn from(error: &JobError) -> Self {
        match error {
            JobError::Retry { after: None, .. } => Self::Retry,
            JobError::Retry {
                after: Some(after), ..
            } => Self::RetryAfter(after.as_secs()),
            JobError::Fatal { .. } => Self::Fatal,
            JobError::Unknown { .. } => Self::Unknown,
            JobError::Snooze { .. } => panic!("no kind here snoozes"),
        }
    }
}

fn ending<T>(outcome: &Result<T, JobError>) -> Ending {
    outcome.as_ref().map_or_else(Ending::from, |_| Ending::Done)
}
