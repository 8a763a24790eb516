//! What signs a tenant's webhooks.

use super::{Error, Store};

/// The secrets of one tenant.
#[derive(Clone)]
pub struct WebhookSecrets {
    /// `whsec_…`.
    pub current: String,
    /// The one before, as long as receivers may still expect it.
    pub previous: Option<String>,
}

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecrets")
    }
}

const SECRETS: &str = "
    select s.webhook_secret,
           case when s.previous_until > now() then s.previous_secret end
    from postroad.tenant_secret s join postroad.tenant t on t.id = s.tenant_id
    where t.name = $1";

impl Store {
    /// The secrets of the tenant of this name; none if it has none of its own.
    pub async fn webhook_secrets(&self, tenant: &str) -> Result<Option<WebhookSecrets>, Error> {
        let rows = self
            .query("reading a webhook secret", SECRETS, &[&tenant])
            .await?;
        Ok(rows.first().map(|row| WebhookSecrets {
            current: row.get(0),
            previous: row.get(1),
        }))
    }
}
