//! The HTTP API as its clients use it.

use anyhow::{Context as _, ensure};
use postroad_common::token::{Permission, Token};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::cluster::{Cluster, Id};

/// A client with a token.
#[derive(Clone)]
pub struct Api {
    base: String,
    client: reqwest::Client,
    token: String,
}

/// An answer as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `content-type`.
    pub content_type: String,
    /// All headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// Reads a whole response.
    pub async fn of(response: Response) -> anyhow::Result<Self> {
        let headers = response.headers().clone();
        let content_type = headers.get(reqwest::header::CONTENT_TYPE);
        let content_type = content_type.map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        Ok(Self {
            status: response.status(),
            content_type: content_type.unwrap_or_default().into_owned(),
            headers,
            text: String::from_utf8_lossy(&response.bytes().await?).into_owned(),
        })
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines of the body as JSON.
    ///
    /// # Panics
    ///
    /// If one is not.
    pub fn lines(&self) -> Vec<Value> {
        let read = |line| serde_json::from_str(line).expect("every line of an answer is JSON");
        self.text.lines().map(read).collect()
    }

    /// Checks that this is a problem of this status, and says its pointer.
    pub fn problem(&self, status: u16) -> anyhow::Result<Option<String>> {
        ensure!(self.status.as_u16() == status, "not {status}: {self:?}");
        ensure!(
            self.content_type == "application/problem+json",
            "not a problem: {self:?}"
        );
        let problem = self.json();
        for field in ["type", "title", "detail", "request_id"] {
            ensure!(problem[field].is_string(), "no {field}: {self:?}");
        }
        ensure!(
            problem["status"] == status,
            "another status inside: {self:?}"
        );
        Ok(problem["pointer"].as_str().map(str::to_owned))
    }
}

impl Api {
    /// A client of the api that serves at this address.
    pub fn at(base: String, token: String) -> anyhow::Result<Self> {
        Ok(Self {
            base,
            client: reqwest::Client::builder().no_proxy().build()?,
            token,
        })
    }

    /// The same client with another token; an empty one is none.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where it is.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, self.url(path));
        match self.token.as_str() {
            "" => request,
            token => request.bearer_auth(token),
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await.context("asking the API")?;
        Answer::of(response).await
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends JSON.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.raw(method, path, "application/json", body.to_string())
            .await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, body).await
    }

    /// Sends any body as anything.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path);
        self.send(request.header("content-type", content_type).body(body))
            .await
    }
}

impl Cluster {
    /// A client of this api, with a new token.
    pub async fn client(
        &self,
        api: Id,
        tenant: Option<&str>,
        permissions: &[Permission],
    ) -> anyhow::Result<Api> {
        Api::at(self.api_url(api)?, self.token(tenant, permissions).await?)
    }

    /// A new token of a tenant, which is made if it is not there; or an operator's.
    pub async fn token(
        &self,
        tenant: Option<&str>,
        permissions: &[Permission],
    ) -> anyhow::Result<String> {
        let token = Token::generate();
        let scopes: Vec<_> = permissions.iter().map(|one| one.as_str()).collect();
        self.query(
            "with tenant as (select case when $3::text is not null then postroad.tenant_id($3) end as id)
             insert into postroad.token (id, secret_hash, tenant_id, name, scopes)
             select $1, $2, id, 'test', $4 from tenant",
            &[&token.id(), &token.secret_hash().to_vec(), &tenant, &scopes],
        )
        .await?;
        Ok(token.expose())
    }

    /// Makes this job a dead letter, or every job that is not finished: as if its attempts were
    /// exhausted.
    pub async fn bury(&self, id: Option<&str>) -> anyhow::Result<()> {
        let bury = "
            with gone as (
                delete from postroad.job
                where $1::text is null or id = $1::text::uuid returning *)
            insert into postroad.archive (id, state, priority, attempt, dispatch, queue_id, kind_id,
                tenant_id, run_at, created_at, args, reason)
            select id, 'dead', priority, 5, 7, queue_id, kind_id, tenant_id, run_at, created_at, args,
                'exhausted'
            from gone";
        self.query(bury, &[&id]).await.map(drop)
    }

    /// Makes this job one that is held: as if its worker had been lost in mid-effect.
    pub async fn hold(&self, id: &str) -> anyhow::Result<()> {
        let hold = "
            update postroad.job
            set stage = 3, claimed_at = now(), started_at = now(), ended_at = now(), worker_id = 1,
                dispatch = 1
            where id = $1::text::uuid";
        self.query(hold, &[&id]).await.map(drop)
    }
}
