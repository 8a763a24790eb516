//! A test's own corner of RabbitMQ, and what only a stranger to Postroad would do there.
//!
//! Counts come from a passive declare, which asks the queue itself: what the management API says
//! of them is seconds old.

use anyhow::{Context as _, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use postroad_common::broker::topology::{
    DEAD_EXCHANGE, DEAD_QUEUE, JOBS_EXCHANGE, PARKED_QUEUE, work_queue,
};
use postroad_common::job::JobId;
use postroad_common::store::{Claim, Fenced};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};

/// A virtual host, as its administrator and as a stranger with a client sees it.
#[derive(Clone, Debug)]
pub struct Vhost {
    name: String,
    amqp_url: String,
    management_url: Url,
    http: reqwest::Client,
}

/// What a queue holds at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody has in hand.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
}

impl Vhost {
    /// The one that `amqp_url` names, which has to exist.
    pub fn of(amqp_url: &str, management_url: &str) -> anyhow::Result<Self> {
        // Fails when a provider is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let url: Url = amqp_url.parse().context("parsing the AMQP URL")?;
        Ok(Self {
            name: url.path().trim_start_matches('/').to_owned(),
            amqp_url: amqp_url.to_owned(),
            management_url: management_url
                .parse()
                .context("parsing the management URL")?,
            http: reqwest::Client::new(),
        })
    }

    /// A new one beside that of `amqp_url`, which the same user may use.
    pub async fn create(amqp_url: &str, management_url: &str, name: &str) -> anyhow::Result<Self> {
        let mut url: Url = amqp_url.parse().context("parsing the AMQP URL")?;
        url.set_path(name);
        let vhost = Self::of(url.as_str(), management_url)?;
        let user = vhost.management_url.username();
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        vhost
            .call(Method::PUT, &["vhosts", name], &json!({}))
            .await?;
        vhost.permit(user, &all).await?;
        Ok(vhost)
    }

    /// Deletes it with everything in it.
    pub async fn delete(&self) -> anyhow::Result<()> {
        self.call(Method::DELETE, &["vhosts", &self.name], &Value::Null)
            .await?;
        Ok(())
    }

    /// What the broker calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How a program connects to it.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// The names of the client connections whose own name contains `text`.
    ///
    /// The management API learns of a connection some time after it was opened.
    pub async fn connections(&self, text: &str) -> anyhow::Result<Vec<String>> {
        let found = self
            .call(
                Method::GET,
                &["vhosts", &self.name, "connections"],
                &Value::Null,
            )
            .await?;
        let found = found.as_array().context("connections are a list")?;
        let named = |connection: &&Value| {
            connection["client_properties"]["connection_name"]
                .as_str()
                .is_some_and(|name| name.contains(text))
        };
        let name = |connection: &Value| connection["name"].as_str().map(str::to_owned);
        Ok(found.iter().filter(named).filter_map(name).collect())
    }

    /// Has the broker close a connection.
    pub async fn close_connection(&self, name: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, &["connections", name], &Value::Null)
            .await?;
        Ok(())
    }

    /// Deletes the broker's side of a queue with all messages in it.
    pub async fn delete_queue(&self, queue: &str) -> anyhow::Result<()> {
        let name = work_queue(queue);
        self.call(Method::DELETE, &["queues", &self.name, &name], &Value::Null)
            .await?;
        Ok(())
    }

    /// Deletes all queues with what is in them.
    pub async fn delete_all_queues(&self) -> anyhow::Result<()> {
        let found = self
            .call(Method::GET, &["queues", &self.name], &Value::Null)
            .await?;
        let queues = found.as_array().context("queues are a list")?;
        for name in queues.iter().filter_map(|queue| queue["name"].as_str()) {
            self.call(Method::DELETE, &["queues", &self.name, name], &Value::Null)
                .await?;
        }
        Ok(())
    }

    /// What a queue holds, as of some seconds ago: ready, and in somebody's hands.
    pub async fn messages(&self, queue: &str) -> anyhow::Result<(u64, u64)> {
        let found = self
            .call(Method::GET, &["queues", &self.name, queue], &Value::Null)
            .await?;
        let count = |name: &str| found[name].as_u64().unwrap_or(0);
        Ok((count("messages_ready"), count("messages_unacknowledged")))
    }

    /// Lets queues of jobs hold so many messages, and refuse more.
    pub async fn limit_queues(&self, messages: u32) -> anyhow::Result<()> {
        let policy = json!({
            "pattern": "^postroad\\.jobs\\.",
            "apply-to": "queues",
            "definition": {"max-length": messages},
        });
        self.call(Method::PUT, &["policies", &self.name, "short"], &policy)
            .await?;
        Ok(())
    }

    /// A user who may not declare anything, and publish only to these exchanges.
    pub async fn create_user(&self, name: &str, write: &str) -> anyhow::Result<String> {
        self.make_user(name, "secret").await?;
        let permissions = json!({"configure": "^$", "write": write, "read": ".*"});
        self.permit(name, &permissions).await?;
        let mut url: Url = self.amqp_url.parse().context("parsing the AMQP URL")?;
        let is_set = url.set_username(name).is_ok() && url.set_password(Some("secret")).is_ok();
        ensure!(is_set, "{url} cannot have a user");
        Ok(url.into())
    }

    /// A user of the whole server, who may enter nothing yet.
    pub async fn make_user(&self, name: &str, password: &str) -> anyhow::Result<()> {
        let user = json!({"password": password, "tags": ""});
        match self.call(Method::PUT, &["users", name], &user).await {
            // Of two that make one at the same moment RabbitMQ refuses one.
            Err(error) if error.to_string().contains("user_already_exists") => Ok(()),
            made => made.map(drop),
        }
    }

    /// Sets what a user may do here.
    pub async fn permit(&self, user: &str, permissions: &Value) -> anyhow::Result<()> {
        let path = ["permissions", &self.name, user];
        self.call(Method::PUT, &path, permissions).await?;
        Ok(())
    }

    /// What a user may do here: `configure`, `write` and `read`.
    pub async fn permissions(&self, user: &str) -> anyhow::Result<Value> {
        let path = ["permissions", &self.name, user];
        let found = self.call(Method::GET, &path, &Value::Null).await?;
        let patterns =
            ["configure", "write", "read"].map(|name| (name.to_owned(), found[name].clone()));
        Ok(Value::Object(patterns.into_iter().collect()))
    }

    /// Deletes a user.
    pub async fn delete_user(&self, name: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, &["users", name], &Value::Null)
            .await?;
        Ok(())
    }

    /// How many messages of a queue of jobs are in somebody's hands, as of some seconds ago.
    pub async fn unacked(&self, queue: &str) -> anyhow::Result<u64> {
        let name = work_queue(queue);
        let found = self
            .call(Method::GET, &["queues", &self.name, &name], &Value::Null)
            .await?;
        let count = found["messages_unacknowledged"].as_u64();
        count.context("the management API has no count yet")
    }

    async fn call(&self, method: Method, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        let mut url = self.management_url.clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .push("api")
            .extend(path);
        let what = format!("{method} {}", url.path());
        let request = self
            .http
            .request(method, url)
            .header("content-type", "application/json")
            .body(body.to_string());
        let response = request.send().await.with_context(|| what.clone())?;
        let status: StatusCode = response.status();
        let body = response.bytes().await.with_context(|| what.clone())?;
        ensure!(
            status.is_success(),
            "{what}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// A connection that knows nothing of Postroad.
    pub async fn stranger(&self) -> anyhow::Result<Stranger> {
        let properties = ConnectionProperties::default().with_connection_name("stranger".into());
        let connection = Connection::connect(&self.amqp_url, properties)
            .await
            .context("connecting to RabbitMQ")?;
        Ok(Stranger { connection })
    }
}

/// Who publishes what they like.
pub struct Stranger {
    connection: Connection,
}

/// A message, by default of the shape that the scheduler gives to one.
#[derive(Clone, Debug)]
pub struct Forged {
    /// As the properties say.
    pub message_id: Option<String>,
    /// The kind, as the properties say.
    pub kind: String,
    /// All of them.
    pub headers: Vec<(String, AMQPValue)>,
    /// The bytes.
    pub body: Vec<u8>,
    /// Milliseconds.
    pub expiration: Option<u64>,
}

impl Forged {
    /// A message for this job and fence.
    pub fn of(job: Fenced, kind: &str) -> Self {
        let headers = [
            ("x-version", AMQPValue::LongInt(1)),
            ("x-tenant", AMQPValue::LongString("default".into())),
            ("x-dispatch", AMQPValue::LongLongInt(job.dispatch)),
            ("x-attempt", AMQPValue::LongInt(1)),
        ];
        Self {
            message_id: Some(job.id.to_string()),
            kind: kind.to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: b"{}".to_vec(),
            expiration: None,
        }
    }

    /// A bundle of these jobs.
    pub fn bundle(jobs: &[Claim]) -> Self {
        let job = |claim: &Claim| {
            let args: Value = serde_json::from_str(&claim.args).expect("Postgres keeps JSON");
            json!({
                "id": claim.id,
                "dispatch": claim.dispatch,
                "kind": &*claim.kind,
                "tenant": &*claim.tenant,
                "attempt": claim.attempts_before + 1,
                "args": args,
            })
        };
        Self::bundle_of(&jobs.iter().map(job).collect::<Vec<_>>().into())
    }

    /// A bundle that says this.
    pub fn bundle_of(body: &Value) -> Self {
        Self {
            message_id: Some(JobId::new().to_string()),
            kind: "bundle".to_owned(),
            headers: vec![("x-version".to_owned(), AMQPValue::LongInt(2))],
            body: body.to_string().into_bytes(),
            expiration: None,
        }
    }

    /// With one header more, or another value of it.
    #[must_use]
    pub fn header(mut self, name: &str, value: AMQPValue) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value));
        self
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            headers.insert(short(name), value.clone());
        }
        let mut properties = BasicProperties::default()
            .with_type(short(&self.kind))
            .with_delivery_mode(2)
            .with_headers(headers);
        if let Some(id) = &self.message_id {
            properties = properties.with_message_id(short(id));
        }
        if let Some(expiration) = self.expiration {
            properties = properties.with_expiration(short(&expiration.to_string()));
        }
        properties
    }
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).expect("a test's names are short")
}

impl Stranger {
    async fn channel(&self) -> anyhow::Result<Channel> {
        let channel = self.connection.create_channel().await;
        channel.context("opening a channel")
    }

    /// Opens a channel and goes.
    pub async fn leave(self) -> anyhow::Result<()> {
        // Kept until the end: a channel that is dropped closes itself at the same time.
        let _channel = self.channel().await?;
        let close = self.connection.close(200, "bye".into()).await;
        close.context("closing a connection")
    }

    /// Puts messages into a queue of jobs; they are in it when this returns.
    pub async fn publish(&self, queue: &str, messages: &[Forged]) -> anyhow::Result<()> {
        self.publish_to(JOBS_EXCHANGE, queue, messages).await
    }

    /// Puts messages among the dead letters, as if the broker had.
    pub async fn publish_letters(&self, messages: &[Forged]) -> anyhow::Result<()> {
        self.publish_to(DEAD_EXCHANGE, "", messages).await
    }

    async fn publish_to(
        &self,
        exchange: &str,
        key: &str,
        messages: &[Forged],
    ) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let options = ConfirmSelectOptions::default();
        channel
            .confirm_select(options)
            .await
            .context("asking for confirms")?;
        for message in messages {
            let options = BasicPublishOptions::default();
            let properties = message.properties();
            let (exchange, key) = (exchange.into(), key.into());
            let publish = channel.basic_publish(exchange, key, options, &message.body, properties);
            let confirmed = publish
                .await
                .context("publishing")?
                .await
                .context("confirming")?;
            ensure!(confirmed.is_ack(), "the broker refused {message:?}");
        }
        Ok(())
    }

    /// What the broker's queue of this name holds; nothing at all when it does not exist.
    pub async fn depth(&self, name: &str) -> anyhow::Result<Depth> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        // A queue that does not exist closes the channel, so each question has one of its own.
        let channel = self.channel().await?;
        match channel
            .queue_declare(name.into(), passive, FieldTable::default())
            .await
        {
            Ok(queue) => Ok(Depth {
                ready: queue.message_count(),
                consumers: queue.consumer_count(),
            }),
            Err(error) if error.to_string().contains("NOT_FOUND") => Ok(Depth {
                ready: 0,
                consumers: 0,
            }),
            Err(error) => Err(error).with_context(|| format!("asking for the depth of {name}")),
        }
    }

    /// Everything that is parked, as headers; takes it out.
    pub async fn take_parked(&self) -> anyhow::Result<Vec<FieldTable>> {
        let channel = self.channel().await?;
        let mut parked = Vec::new();
        let options = lapin::options::BasicGetOptions { no_ack: true };
        while let Some(message) = channel
            .basic_get(PARKED_QUEUE.into(), options)
            .await
            .context("getting a parked message")?
        {
            let headers = message.delivery.properties.headers().clone();
            parked.push(headers.unwrap_or_default());
        }
        Ok(parked)
    }

    /// Deletes the dead-letter queue with what is in it; only the owner may make a new one.
    pub async fn delete_dead(&self) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let delete = channel.queue_delete(DEAD_QUEUE.into(), Default::default());
        delete.await.context("deleting the dead-letter queue")?;
        Ok(())
    }

    /// What waits to be looked at by people.
    pub async fn parked(&self) -> anyhow::Result<Depth> {
        self.depth(PARKED_QUEUE).await
    }
}
