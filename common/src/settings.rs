//! What is set for tenants, for whoever acts for one: the only way to it at work.
//!
//! It is kept in memory until it changes ([`crate::cached`]), so that at ten thousand jobs a second
//! there is hardly a query, and a change is in force everywhere within a second. Two things do not
//! come by here: what people are shown and change is the row itself ([`Store::tenants`]), and what a
//! statement joins anyway, as an insert does for the defaults of jobs, is read there.

use std::sync::Arc;
use std::time::Duration;

use crate::cached::{Cached, Loaded, Unknown};
use crate::changes::Changes;
use crate::job::TenantName;
use crate::language::Language;
use crate::sender::SmsSender;
use crate::store::{Error, Store, Topic, WebhookSecrets};

/// Tenants whose settings are kept. Of more than that, those that were asked for least lately are
/// read again.
const ENTRIES_MAX: usize = 10_000;
/// Without Postgres, settings are used for so long: an old one is better than none. A secret that was
/// taken away must not sign for longer than any change takes, and is read again.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

/// What is set for a tenant. What cannot be read (somebody wrote it by SQL) is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// The tenant.
    pub id: i32,
    /// The language of its campaigns that name none.
    pub language: Option<Language>,
    /// The time zone of its campaigns and schedules that name none, by its IANA name.
    pub timezone: Option<String>,
    /// Who its text messages are from.
    pub sms_sender: Option<SmsSender>,
    /// How many jobs a second each API process takes from it.
    pub submit_rate: Option<u32>,
    /// How many unfinished jobs it may have.
    pub unfinished_max: Option<u64>,
}

/// What is known of tenants. Clones know the same; the default knows none.
#[derive(Clone, Default)]
pub struct Tenants {
    kept: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    store: Store,
    settings: Cached<String, Option<Arc<TenantSettings>>>,
    secrets: Cached<i32, Option<Arc<WebhookSecrets>>>,
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tenants")
    }
}

impl Tenants {
    /// Reads from `store`, which must see all tenants.
    pub fn new(store: Store, changes: &Changes) -> Self {
        let keep = Unknown::KeepFor(KEPT_FOR);
        Self {
            kept: Some(Kept {
                store,
                settings: Cached::new(changes, Topic::Tenant, keep, ENTRIES_MAX),
                secrets: Cached::new(changes, Topic::Secret, Unknown::Reread, ENTRIES_MAX),
            }),
        }
    }

    /// What is set for the tenant of this name; none if there is no such tenant.
    pub async fn of(&self, tenant: &str) -> Result<Option<Arc<TenantSettings>>, Arc<Error>> {
        let Some(Kept {
            store, settings, ..
        }) = &self.kept
        else {
            return Ok(None);
        };
        // What cannot be a name is not remembered either: it may be of any length.
        if tenant.parse::<TenantName>().is_err() {
            return Ok(None);
        }
        let read = || {
            let (store, tenant) = (store.clone(), tenant.to_owned());
            async move {
                Ok(match store.tenant_settings(&tenant).await?.map(Arc::new) {
                    Some(found) => Loaded::of_tenant(found.id, Some(found)),
                    // It may be created any moment, and used in the next.
                    None => Loaded::of_topic(None).valid_for(Some(Duration::ZERO)),
                })
            }
        };
        settings.get(tenant, read).await
    }

    /// What signs a tenant's webhooks; none if it has no secret of its own.
    pub async fn webhook_secrets(
        &self,
        tenant: &str,
    ) -> Result<Option<Arc<WebhookSecrets>>, Arc<Error>> {
        let (Some(kept), Some(tenant)) = (&self.kept, self.of(tenant).await?) else {
            return Ok(None);
        };
        let id = tenant.id;
        let read = || {
            let store = kept.store.clone();
            async move {
                let found = store.webhook_secrets(id).await?;
                let changes_in = found.as_ref().and_then(|secrets| secrets.previous_for);
                Ok(Loaded::of_tenant(id, found.map(Arc::new)).valid_for(changes_in))
            }
        };
        kept.secrets.get(&id, read).await
    }
}
