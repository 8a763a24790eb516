//! Where a peer runs: a database, a virtual host or a Redis of its own, empty, for one run.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use postroad_provision::Redis;
use postroad_tests::harness::broker::Vhost;
use reqwest::Url;

use super::peer::Server;
use crate::ground::Ground;
use crate::raw::connect;
use crate::usage::Watched;

pub(super) struct Site<'a> {
    ground: &'a Ground,
    /// Of its database and its virtual host.
    name: String,
    database_url: Option<String>,
    vhost: Option<Vhost>,
    redis: Option<Redis>,
    /// What programs write down.
    pub(super) records: PathBuf,
    /// The servers.
    pub(super) watched: Vec<Watched>,
}

impl<'a> Site<'a> {
    pub(super) async fn open(ground: &'a Ground, servers: &[Server]) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let records = ground.processes().dir().join("records");
        match fs::remove_dir_all(&records) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("removing the records of the last run");
            }
            _ => fs::create_dir(&records).context("making a directory for records")?,
        }
        let mut site = Self {
            ground,
            name: format!("peer_{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            database_url: None,
            vhost: None,
            redis: None,
            records,
            watched: Vec::new(),
        };
        for server in servers {
            if let Err(error) = site.add(*server).await {
                // That error says more than what becomes of the rest.
                let _ = site.close().await;
                return Err(error);
            }
        }
        Ok(site)
    }

    async fn add(&mut self, server: Server) -> anyhow::Result<()> {
        match server {
            Server::Postgres => {
                self.database_url = Some(self.make_database().await?);
                self.watch("postgres");
            }
            Server::RabbitMq => {
                let endpoints = self.ground.endpoints();
                let vhost =
                    Vhost::create(&endpoints.amqp_url, &endpoints.management_url, &self.name);
                self.vhost = Some(vhost.await?);
                self.watch("rabbitmq");
            }
            Server::Redis => {
                let redis = Redis::start(self.ground.processes()).await?;
                self.watched.push(Watched {
                    name: "redis",
                    pid: redis.pid(),
                    with_children: false,
                });
                self.redis = Some(redis);
            }
        }
        Ok(())
    }

    fn watch(&mut self, name: &str) {
        let named = self.ground.servers().iter().filter(|one| one.name == name);
        self.watched.extend(named.cloned());
    }

    async fn make_database(&self) -> anyhow::Result<String> {
        let admin_url = self.ground.endpoints().database_url;
        self.administer(&format!("create database {}", self.name))
            .await?;
        let mut url: Url = admin_url.parse().context("parsing a URL")?;
        url.set_path(&self.name);
        Ok(url.into())
    }

    async fn administer(&self, statement: &str) -> anyhow::Result<()> {
        let admin = connect(&self.ground.endpoints().database_url).await?;
        let done = admin.batch_execute(statement).await;
        done.with_context(|| statement.to_owned())
    }

    /// What programs are told.
    pub(super) fn env(&self) -> Vec<(OsString, OsString)> {
        let redis_url = self.redis.as_ref().map(Redis::url);
        let amqp_url = self.vhost.as_ref().map(|vhost| vhost.amqp_url().to_owned());
        let urls = [
            ("DATABASE_URL", self.database_url.clone()),
            ("AMQP_URL", amqp_url),
            ("REDIS_URL", redis_url),
        ];
        let set = urls
            .into_iter()
            .filter_map(|(name, url)| Some((name.into(), url?.into())));
        let records = ("RECORDS".into(), self.records.clone().into());
        set.chain([records]).collect()
    }

    /// What enqueueing has left to be written is not the drain's to write, and Postgres knows what
    /// is in its tables: as before Postroad's own drain.
    pub(super) async fn rest(&self) -> anyhow::Result<()> {
        let Some(database_url) = &self.database_url else {
            return Ok(());
        };
        let client = connect(database_url).await?;
        for statement in ["vacuum analyze", "checkpoint"] {
            client.batch_execute(statement).await.context(statement)?;
        }
        Ok(())
    }

    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        if let Some(redis) = self.redis.take() {
            redis.stop().await?;
        }
        if let Some(vhost) = self.vhost.take() {
            vhost.delete().await?;
        }
        if self.database_url.take().is_some() {
            let drop = format!("drop database {} with (force)", self.name);
            self.administer(&drop).await?;
        }
        Ok(())
    }
}
