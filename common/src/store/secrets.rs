//! What signs a tenant's webhooks.

use std::time::Duration;

use super::{Error, Store};

/// The secrets of one tenant.
#[derive(Clone)]
pub struct WebhookSecrets {
    /// `whsec_…`.
    pub current: String,
    /// The one before, as long as receivers may still expect it.
    pub previous: Option<String>,
    /// For how long they may.
    pub previous_for: Option<Duration>,
}

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecrets")
    }
}

const SECRETS: &str = "
    select s.webhook_secret, s.previous_secret,
           extract(epoch from s.previous_until - now())::double precision
    from postroad.tenant_secret s where s.tenant_id = $1";

impl Store {
    /// The secrets of a tenant; none if it has none of its own.
    pub(crate) async fn webhook_secrets(
        &self,
        tenant: i32,
    ) -> Result<Option<WebhookSecrets>, Error> {
        let rows = self
            .query("reading a webhook secret", SECRETS, &[&tenant])
            .await?;
        Ok(rows.first().map(|row| {
            let previous: Option<String> = row.get(1);
            // What is over is negative.
            let left: Option<f64> = row.get(2);
            let left = left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            WebhookSecrets {
                current: row.get(0),
                previous: previous.filter(|_| left.is_some()),
                previous_for: left,
            }
        }))
    }
}
