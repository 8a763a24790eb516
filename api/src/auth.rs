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
use postroad_common::service::{Progress, Service};
use postroad_common::settings::Kept;
use postroad_common::store::{self, Actor, FoundToken, Listener, Scope, Store};
use postroad_common::token::{Permission, Token};

use crate::App;
use crate::frame::RequestId;
use crate::metrics;
use crate::problem::Problem;
use crate::trace;

/// No token is longer.
const HEADER_BYTES_MAX: usize = 200;

/// The tokens that are known.
#[derive(Clone)]
pub(crate) struct Tokens {
    store: Store,
    known: Kept<(String, [u8; 32]), Option<Arc<FoundToken>>>,
    /// The tenants that operators have named, one line of a batch after the other.
    tenants: Kept<String, i32>,
    used: Arc<Mutex<HashSet<String>>>,
}

/// Why a tenant's id is not known. Not kept: it may be created any moment.
enum NoTenant {
    Missing,
    Unread(store::Error),
}

impl Tokens {
    pub(crate) fn new(store: Store, listener: Listener) -> Self {
        Self {
            store,
            known: Kept::new(listener.clone()),
            tenants: Kept::new(listener),
            used: Arc::default(),
        }
    }

    async fn find(&self, token: &Token) -> Result<Option<Arc<FoundToken>>, Arc<store::Error>> {
        let key = (token.id().to_owned(), token.secret_hash());
        let read = async { Ok(self.store.find_token(token).await?.map(Arc::new)) };
        let found = self.known.get(key, read).await?;
        if found.is_some() {
            self.lock().insert(token.id().to_owned());
        }
        Ok(found)
    }

    async fn tenant(&self, name: &str) -> Result<i32, Problem> {
        let read = async {
            let found = self
                .store
                .scoped(Scope::Operator)
                .tenant_of_name(name)
                .await;
            found.map_err(NoTenant::Unread)?.ok_or(NoTenant::Missing)
        };
        let found = self.tenants.get(name.to_owned(), read).await;
        found.map_err(|why| match &*why {
            NoTenant::Missing => Problem::parameter("tenant", "there is no such tenant"),
            NoTenant::Unread(error) => Problem::from(error),
        })
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

    /// What the tenant may submit.
    pub(crate) fn limits(&self) -> &FoundToken {
        &self.found
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
            (None, Some(named)) => self.app.tokens.tenant(named).await.map(Some),
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
