//! Settings of tenants, kept in memory and thrown away when somebody changes one.
//!
//! A change is called out by Postgres, and then nothing that was read before it is used again. While
//! nothing can be heard, what was read is used for a second: so a change is in force within a second
//! or so whatever happens, and at ten thousand jobs a second there is hardly a query.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;

use crate::store::{self, Listener, Store, WebhookSecrets};

/// Entries that are kept; more than that, and the ones used least are read again.
const ENTRIES_MAX: u64 = 10_000;
/// How long an entry is used while changes can be heard.
const TRUSTED: Duration = Duration::from_secs(60);
/// And while they cannot.
const TRUSTED_WHILE_DEAF: Duration = Duration::from_secs(1);

/// Values by key, read when they are first asked for.
#[derive(Clone)]
pub struct Kept<K, V> {
    cache: Cache<K, Entry<V>>,
    listener: Listener,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    heard: u64,
    read_at: Instant,
}

impl<K, V> Kept<K, V>
where
    K: Hash + Eq + Send + Sync + Clone + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing yet.
    pub fn new(listener: Listener) -> Self {
        let cache = Cache::builder()
            .max_capacity(ENTRIES_MAX)
            .time_to_live(TRUSTED)
            .build();
        Self { cache, listener }
    }

    /// The value of `key`, read by `read` if it is not known, or may have changed. Any number of
    /// callers at once make one read.
    pub async fn get<E>(
        &self,
        key: K,
        read: impl Future<Output = Result<V, E>>,
    ) -> Result<V, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        let is_current = |entry: &Entry<V>| {
            let since_deaf = match self.listener.deaf_since() {
                None => true,
                Some(_) => entry.read_at.elapsed() < TRUSTED_WHILE_DEAF,
            };
            since_deaf && entry.heard == self.listener.count()
        };
        if let Some(entry) = self.cache.get(&key).await {
            if is_current(&entry) {
                return Ok(entry.value);
            }
            self.cache.invalidate(&key).await;
        }
        // Before the read: a change that is called out meanwhile makes the entry old at once.
        let heard = self.listener.count();
        let read = async {
            let value = read.await?;
            Ok(Entry {
                value,
                heard,
                read_at: Instant::now(),
            })
        };
        Ok(self.cache.try_get_with(key, read).await?.value)
    }
}

/// What workers know of tenants.
#[derive(Clone, Default)]
pub struct TenantSettings {
    of: Option<Of>,
}

#[derive(Clone)]
struct Of {
    store: Store,
    secrets: Kept<String, Option<WebhookSecrets>>,
}

impl std::fmt::Debug for TenantSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantSettings")
    }
}

impl TenantSettings {
    /// Reads from `store`, and hears of changes by `listener`.
    pub fn new(store: &Store, listener: &Listener) -> Self {
        Self {
            of: Some(Of {
                store: store.clone(),
                secrets: Kept::new(listener.clone()),
            }),
        }
    }

    /// What signs a tenant's webhooks; none if it has no secret of its own.
    pub async fn webhook_secrets(
        &self,
        tenant: &str,
    ) -> Result<Option<WebhookSecrets>, Arc<store::Error>> {
        let Some(Of { store, secrets }) = &self.of else {
            return Ok(None);
        };
        secrets
            .get(tenant.to_owned(), store.webhook_secrets(tenant))
            .await
    }
}
