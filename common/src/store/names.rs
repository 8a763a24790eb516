//! Names of kinds and tenants by their ids. A name never changes, so it is read once per process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Error, Store};

#[derive(Clone, Default)]
pub(super) struct Names {
    kinds: Cache,
    tenants: Cache,
}

type Cache = Arc<RwLock<HashMap<i32, Arc<str>>>>;

impl Store {
    pub(super) async fn kind_names(&self, ids: &[i32]) -> Result<Vec<Arc<str>>, Error> {
        const SQL: &str = "select id, name from postroad.kind where id = any($1)";
        self.read_names(&self.names.kinds, ids, SQL).await
    }

    pub(super) async fn tenant_names(&self, ids: &[i32]) -> Result<Vec<Arc<str>>, Error> {
        const SQL: &str = "select id, name from postroad.tenant where id = any($1)";
        self.read_names(&self.names.tenants, ids, SQL).await
    }

    async fn read_names(
        &self,
        cache: &Cache,
        ids: &[i32],
        sql: &'static str,
    ) -> Result<Vec<Arc<str>>, Error> {
        let mut missing: Vec<i32> = {
            let known = cache.read().unwrap_or_else(PoisonError::into_inner);
            ids.iter()
                .copied()
                .filter(|id| !known.contains_key(id))
                .collect()
        };
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            let rows = self.query("reading names", sql, &[&missing]).await?;
            let mut known = cache.write().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                known.insert(row.get(0), Arc::from(row.get::<_, &str>(1)));
            }
        }
        let known = cache.read().unwrap_or_else(PoisonError::into_inner);
        // An id without a name would be a row without its parent, which nothing here deletes.
        Ok(ids
            .iter()
            .map(|id| known.get(id).cloned().unwrap_or_else(|| Arc::from("?")))
            .collect())
    }
}
