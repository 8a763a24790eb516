//! Who asks, and what they may.
//!
//! A token stands for one tenant or for an operator. Whoever holds a tenant's token is shown nothing
//! of others: every handler gets a store that is scoped to the caller, and there is no other way to
//! one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use postroad_common::cached::{Cached, Loaded, Unknown};
use postroad_common::changes::Changes;
use postroad_common::service::{Progress, Service};
use postroad_common::settings::TenantSettings;
use postroad_common::store::{self, Actor, FoundToken, Scope, Store, Topic};
use postroad_common::token::{Permission, Token};

use crate::App;
use crate::frame::RequestId;
use crate::metrics;
use crate::problem::Problem;
use crate::trace;

/// Tokens that are kept. Of more than that, those that were used least lately are looked up again.
const TOKENS_MAX: usize = 10_000;
/// No token is longer.
const HEADER_BYTES_MAX: usize = 200;

/// The tokens that are known.
#[derive(Clone)]
pub(crate) struct Tokens {
    store: Store,
    known: Cached<(String, [u8; 32]), Option<Arc<FoundToken>>>,
    used: Arc<Mutex<HashSet<String>>>,
}

impl Tokens {
    pub(crate) fn new(store: Store, changes: &Changes) -> Self {
        Self {
            store,
            known: Cached::new(changes, Topic::Token, Unknown::Reread, TOKENS_MAX),
            used: Arc::default(),
        }
    }

    async fn find(&self, token: &Token) -> Result<Option<Arc<FoundToken>>, Arc<store::Error>> {
        let key = (token.id().to_owned(), token.secret_hash());
        let read = || {
            let (store, token) = (self.store.clone(), token.clone());
            async move {
                let Some(found) = store.find_token(&token).await? else {
                    return Ok(Loaded::of_topic(None));
                };
                // One without a tenant is an operator's, and of no tenant's changes.
                let tenant = found.tenant.as_ref().map_or(0, |(id, _)| *id);
                let good_for = found.good_for;
                Ok(Loaded::of_tenant(tenant, Some(Arc::new(found))).valid_for(good_for))
            }
        };
        let found = self.known.get(&key, read).await?;
        if found.is_some() {
            self.lock().insert(token.id().to_owned());
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes once a minute which tokens are in use.
pub(crate) struct TokenUse(pub(crate) Tokens);

impl Service for TokenUse {
    const NAME: &'static str = "token_use";
    type Error = store::Error;

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let used: Vec<String> = std::mem::take(&mut *self.0.lock()).into_iter().collect();
        if !used.is_empty() {
            self.0.store.touch_tokens(&used).await?;
        }
        Ok(Progress::Idle)
    }
}

/// Whoever holds the token of a request.
pub(crate) struct Caller {
    app: App,
    token_id: String,
    found: Arc<FoundToken>,
    request_id: String,
    traceparent: Option<String>,
}

impl Caller {
    /// Whether the token may be used for this; called first by every handler.
    pub(crate) fn may(&self, permission: Permission) -> Result<(), Problem> {
        let has = self.found.permissions.contains(&permission);
        // A tenant's token that says so all the same was made by hand.
        let is_operators = permission.is_for_operators() && self.found.tenant.is_some();
        if has && !is_operators {
            Ok(())
        } else {
            Err(Problem::forbidden(permission.as_str()))
        }
    }

    /// On whose behalf the database is asked.
    pub(crate) fn scope(&self) -> Scope {
        match &self.found.tenant {
            Some((id, _)) => Scope::Tenant(*id),
            None => Scope::Operator,
        }
    }

    /// The database, as the caller may see it; what it changes there is written down as its doing.
    pub(crate) fn store(&self) -> Store {
        let actor = Actor {
            name: format!("token:{}", self.token_id),
            request_id: Some(self.request_id.clone()),
        };
        self.app.store.scoped(self.scope()).acting(actor)
    }

    /// What the request says that it is part of.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// The name of the tenant; none for an operator.
    pub(crate) fn tenant_name(&self) -> Option<&str> {
        self.found.tenant.as_ref().map(|(_, name)| name.as_str())
    }

    /// What is set for the tenant; nothing for an operator.
    pub(crate) async fn settings(&self) -> Result<Option<Arc<TenantSettings>>, Problem> {
        match self.tenant_name() {
            Some(own) => self.settings_of(own).await,
            None => Ok(None),
        }
    }

    /// What is set for the tenant of this name, if there is one. Whether the caller may name it is
    /// for [`Self::tenant`] to say.
    pub(crate) async fn settings_of(
        &self,
        tenant: &str,
    ) -> Result<Option<Arc<TenantSettings>>, Problem> {
        let found = self.app.tenants.of(tenant).await;
        found.map_err(|error| Problem::from(&*error))
    }

    /// The tenant that an operator has named, if any. Whoever holds a tenant's token may only name
    /// its own: the store is scoped to it anyway.
    pub(crate) async fn tenant(&self, named: Option<&str>) -> Result<Option<i32>, Problem> {
        match (&self.found.tenant, named) {
            (Some(_), None) => Ok(None),
            (Some((_, own)), Some(named)) if own == named => Ok(None),
            // Whether there is a tenant of that name is not this one's to know.
            (Some(_), Some(_)) => Err(Problem::parameter("tenant", "must be the token's own")),
            (None, None) => Ok(None),
            (None, Some(named)) => match self.settings_of(named).await? {
                Some(found) => Ok(Some(found.id)),
                None => Err(Problem::parameter("tenant", "there is no such tenant")),
            },
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let refused = |reason| {
            metrics::bad_token(reason);
            tracing::info!(reason, "a request without a good token");
            Problem::unauthorized()
        };
        let mut sent = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (sent.next(), sent.next()) else {
            return Err(refused("missing"));
        };
        let text = header.to_str().unwrap_or_default();
        if text.len() > HEADER_BYTES_MAX {
            return Err(refused("malformed"));
        }
        // The scheme is written as one likes: RFC 9110, section 11.1.
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Token::parse(token.trim())
            }
            _ => None,
        };
        let Some(token) = token else {
            return Err(refused("malformed"));
        };
        let found = app.tokens.find(&token).await;
        let found = found.map_err(|error| Problem::from(&*error))?;
        let Some(found) = found else {
            return Err(refused("refused"));
        };
        let request_id = parts.extensions.get::<RequestId>();
        Ok(Self {
            app: app.clone(),
            token_id: token.id().to_owned(),
            found,
            request_id: request_id.map(|id| id.0.clone()).unwrap_or_default(),
            traceparent: trace::parent_of(&parts.headers).map(str::to_owned),
        })
    }
}
