//! Names of kinds and tenants by their ids. A name never changes, so it is read once per process.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use deadpool_postgres::GenericClient;

#[derive(Clone, Default)]
pub(super) struct Names {
    kinds: Cache,
    tenants: Cache,
    /// Names that are known to have their row, by what they name.
    there: Arc<RwLock<HashSet<NameOf>>>,
}

/// What a name is of, and the name.
type NameOf = (&'static str, Arc<str>);

type Cache = Arc<RwLock<HashMap<i32, Arc<str>>>>;

/// Which names, and how to read them.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Kinds,
    Tenants,
}

impl Names {
    /// Whether all of these are known to have their row.
    pub(super) fn are_there(&self, what: &'static str, names: &[&str]) -> bool {
        let there = self.there.read().unwrap_or_else(PoisonError::into_inner);
        let mut before = "";
        names.iter().all(|name| {
            // A batch is mostly one name over and over.
            let is_known = *name == before || there.contains(&(what, Arc::from(*name)));
            before = name;
            is_known
        })
    }

    /// Remembers that these have their row.
    pub(super) fn note_there(&self, what: &'static str, names: &[&str]) {
        let mut there = self.there.write().unwrap_or_else(PoisonError::into_inner);
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        there.extend(distinct.into_iter().map(|name| (what, Arc::from(name))));
    }

    /// The names of `ids`, read over `client` as far as they are not known yet.
    pub(super) async fn read(
        &self,
        client: &impl GenericClient,
        of: Of,
        ids: &[i32],
    ) -> Result<Vec<Arc<str>>, tokio_postgres::Error> {
        let (cache, sql) = match of {
            Of::Kinds => (
                &self.kinds,
                "select id, name from postroad.kind where id = any($1)",
            ),
            Of::Tenants => (
                &self.tenants,
                "select id, name from postroad.tenant where id = any($1)",
            ),
        };
        let missing: Vec<i32> = {
            let known = cache.read().unwrap_or_else(PoisonError::into_inner);
            let missing: BTreeSet<i32> = ids
                .iter()
                .copied()
                .filter(|id| !known.contains_key(id))
                .collect();
            missing.into_iter().collect()
        };
        if !missing.is_empty() {
            let rows = client.query(sql, &[&missing]).await?;
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
