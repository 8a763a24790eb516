//! RabbitMQ's management API, as the user whom `POSTROAD_MANAGEMENT_URL` names.
//!
//! That URL holds a password: no error repeats it.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use postroad_common::config::ConfigError;
use reqwest::{Client, Method, StatusCode, Url, header};
use serde_json::Value;

use crate::cluster::http_client;

/// Where the API is.
pub(crate) const VARIABLE: &str = "POSTROAD_MANAGEMENT_URL";

/// The longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The API, and who asks.
pub(crate) struct Management {
    url: Url,
    http: Client,
}

impl Management {
    /// The one at `url`.
    pub(crate) fn of_url(url: &str) -> anyhow::Result<Self> {
        let wrong = |what: &str| {
            let example = "one looks like http://user:password@host:15672";
            ConfigError::of(VARIABLE, format_args!("is wrong: {what}; {example}"))
        };
        let url: Url = url.parse().map_err(|_| wrong("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it begins neither with http:// nor with https://").into());
        }
        let http = http_client()?;
        Ok(Self { url, http })
    }

    /// What is at this path; none if there is nothing.
    pub(crate) async fn get(&self, path: &[&str]) -> anyhow::Result<Option<Value>> {
        let (status, answer) = self.call(Method::GET, path, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        // Not all that may listen there is RabbitMQ.
        let answer = serde_json::from_slice(&answer).map_err(|_| {
            let path = path.join("/");
            anyhow!("what should be RabbitMQ's management API has no JSON at /{path}")
        })?;
        Ok(Some(answer))
    }

    /// Makes or replaces what is at this path.
    pub(crate) async fn put(&self, path: &[&str], body: &Value) -> anyhow::Result<()> {
        let (status, _) = self.call(Method::PUT, path, Some(body)).await?;
        if status == StatusCode::NOT_FOUND {
            bail!("RabbitMQ's management API has no /{}", path.join("/"));
        }
        Ok(())
    }

    /// The same API for somebody else, as `VARIABLE` names it.
    pub(crate) fn url_for(&self, user: &str, password: &str) -> anyhow::Result<String> {
        url_for(&self.url, user, password)
    }

    /// The status is one of success, or says that there is no such thing.
    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .push("api")
            .extend(path);
        let what = format!("{method} {}", url.path());
        let mut request = self.http.request(method, url).timeout(ANSWER_LIMIT);
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json");
            request = request.body(body.to_string());
        }
        let unanswered = || format!("RabbitMQ's management API did not answer {what}");
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(unanswered)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(reqwest::Error::without_url);
        let body = body.with_context(unanswered)?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(ConfigError::of(
                VARIABLE,
                "was refused by RabbitMQ: check user and password, and that the user has a tag",
            )
            .into());
        }
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let why = body["reason"].as_str().unwrap_or("no reason given");
            bail!("RabbitMQ's management API answered {what} with {status}: {why}");
        }
        Ok((status, body.into()))
    }
}

/// A URL for somebody else.
pub(crate) fn url_for(url: &Url, user: &str, password: &str) -> anyhow::Result<String> {
    let mut url = url.clone();
    if url.set_username(user).is_err() || url.set_password(Some(password)).is_err() {
        bail!("a URL without a host has no user");
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_it_is_refused_without_its_password() {
        for bad in [
            "",
            "hunter2",
            "amqp://someone:hunter2@host:5672/vhost",
            "http://someone:hunter2@:15672",
            "someone:hunter2@host:15672",
        ] {
            let Err(error) = Management::of_url(bad) else {
                panic!("{bad} is taken");
            };
            assert!(error.is::<ConfigError>(), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn somebody_elses_url_is_that_of_the_same_api() {
        let api = Management::of_url("http://admin:hunter2@host:15672/rabbit").unwrap();
        let url = api.url_for("a/b", "secret").unwrap();
        assert_eq!(url, "http://a%2Fb:secret@host:15672/rabbit");
    }
}
