//! Webhook bodies as a real service sends them, to arrive byte for byte under a valid signature.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use postroad_common::job::{JobId, NewJob};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::audience::{queue, tenant};
use super::simulator::{Call, SimulatorClient};
use crate::output::Line;

const LARGE_SAMPLE: &str = "../shared/data/github-webhooks.ndjson";
const SAMPLE: &str = include_str!("../../../data/webhooks.sample.ndjson");

/// The bodies to be sent, and what was sent under which id.
pub(super) struct Webhooks {
    url: String,
    bodies: std::vec::IntoIter<Box<RawValue>>,
    sent: BTreeMap<JobId, Box<RawValue>>,
    key: [u8; 32],
}

#[derive(Deserialize)]
struct Event {
    payload: Box<RawValue>,
}

#[derive(Serialize)]
struct Args<'a> {
    url: &'a str,
    body: &'a RawValue,
}

impl Webhooks {
    pub(super) fn load(simulator: &SimulatorClient) -> anyhow::Result<Self> {
        let text = if Path::new(LARGE_SAMPLE).exists() {
            std::fs::read_to_string(LARGE_SAMPLE)
                .with_context(|| format!("reading {LARGE_SAMPLE}"))?
        } else {
            SAMPLE.to_owned()
        };
        let body = |line: &str| serde_json::from_str::<Event>(line).map(|event| event.payload);
        let bodies: Vec<_> = text
            .lines()
            .map(body)
            .collect::<Result<_, _>>()
            .context("reading webhook bodies")?;
        Ok(Self {
            url: simulator.url("/webhook"),
            bodies: bodies.into_iter(),
            sent: BTreeMap::new(),
            key: rand::random(),
        })
    }

    /// What the workers sign with.
    pub(super) fn secret(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.key))
    }

    pub(super) fn next_batch(&mut self) -> anyhow::Result<Vec<NewJob>> {
        let mut batch = Vec::new();
        for body in self.bodies.by_ref() {
            let args = to_raw_value(&Args {
                url: &self.url,
                body: &body,
            })?;
            let mut job = NewJob::new("webhook".parse().expect("`webhook` is a name"), args);
            job.queue = queue("webhooks");
            job.tenant = tenant();
            self.sent.insert(job.id, body);
            batch.push(job);
        }
        Ok(batch)
    }

    /// Compares what arrived with what was sent, and checks every signature.
    pub(super) async fn check(
        &self,
        simulator: &SimulatorClient,
        line: &Line,
    ) -> anyhow::Result<()> {
        let mut calls = simulator.calls().await?;
        calls.retain(|call| call.effect);
        let (mut same, mut signed) = (0, 0);
        for call in &calls {
            let body = call.id.and_then(|id| self.sent.get(&JobId::from(id)));
            let Some(body) = body else {
                bail!("a webhook arrived that was never sent")
            };
            same += u32::from(call.body_sha256 == hex(&Sha256::digest(body.get())));
            signed += u32::from(self.is_signed(call, body.get()));
        }
        line.say(&format!(
            "bodies that arrived byte for byte: {same}, with a valid signature: {signed}"
        ));
        if same as usize != calls.len() || signed as usize != calls.len() {
            bail!(
                "of {} calls {same} had the right body and {signed} a valid signature",
                calls.len()
            );
        }
        Ok(())
    }

    /// Standard Webhooks: `v1,` and the HMAC of `id.timestamp.body`.
    fn is_signed(&self, call: &Call, body: &str) -> bool {
        let (Some(id), Some(timestamp)) = (call.id, &call.webhook_timestamp) else {
            return false;
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        call.webhook_signature.as_deref() == Some(&expected)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
