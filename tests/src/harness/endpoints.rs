//! Where the servers of a test are.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use postroad_common::config::Env;
use postroad_provision::Servers;
use reqwest::Url;
use tokio_postgres::{Client, NoTls};

/// Where the servers are, as `postroad dev` tells the tests.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// The database, as its superuser.
    pub database_url: String,
    /// A virtual host, as an administrator.
    pub amqp_url: String,
    /// The management API, as that administrator.
    pub management_url: String,
}

impl Endpoints {
    /// Those of the servers that all tests share.
    pub fn shared() -> anyhow::Result<Self> {
        let env = Env::of_process();
        let read = |name| {
            let text = env.text(name).map(str::to_owned);
            text.with_context(|| format!("{name} is not set: run `make test`"))
        };
        Ok(Self {
            database_url: read("DATABASE_URL")?,
            amqp_url: read("AMQP_URL")?,
            management_url: read("POSTROAD_MANAGEMENT_URL")?,
        })
    }

    /// Those of a test's own servers.
    pub fn of(servers: &Servers) -> Self {
        Self {
            database_url: servers.database_url().to_owned(),
            amqp_url: servers.amqp_url().to_owned(),
            management_url: servers.management_url().to_owned(),
        }
    }
}

/// The address in a URL.
pub(super) fn addr(url: &str, default_port: u16) -> anyhow::Result<SocketAddr> {
    let url: Url = url.parse().context("parsing a URL")?;
    let host = url.host_str().context("a URL has a host")?;
    let ip = host
        .parse()
        .context("the servers of tests have IP addresses")?;
    Ok(SocketAddr::new(ip, url.port().unwrap_or(default_port)))
}

/// The same URL with another path: a database, or a virtual host.
pub(super) fn with_path(url: &str, path: &str) -> anyhow::Result<String> {
    let mut url: Url = url.parse().context("parsing a URL")?;
    url.set_path(path);
    Ok(url.into())
}

/// The same URL at another address.
pub(super) fn at(url: &str, addr: SocketAddr) -> anyhow::Result<String> {
    let mut url: Url = url.parse().context("parsing a URL")?;
    let is_set = url.set_ip_host(addr.ip()).is_ok() && url.set_port(Some(addr.port())).is_ok();
    ensure!(is_set, "{url} cannot have the address {addr}");
    Ok(url.into())
}

/// A session of its own.
pub(super) async fn connect(database_url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(database_url, NoTls)
        .await
        .context("connecting to Postgres")?;
    tokio::spawn(connection);
    Ok(client)
}
