//! Private servers, a database and a virtual host for each measurement, and the release programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use postroad_common::token::Permission;
use postroad_provision::{Options, Processes, Servers};
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster, Id, Program};
use postroad_tests::harness::endpoints::Endpoints;

use crate::usage::Watched;

/// Where everything is measured.
pub(crate) struct Ground {
    servers: Servers,
    /// The processes of both servers.
    watched: Vec<Watched>,
    programs: PathBuf,
}

/// A cluster with an api, and a client of it.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) api: Id,
    pub(crate) operator: Api,
}

impl Ground {
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut options = Options::new(dir.join("servers"));
        options.fresh = true;
        // Which statements there were, and how many.
        let loaded = "pg_stat_statements".to_owned();
        options.postgres = vec![
            ("shared_preload_libraries".to_owned(), loaded),
            (
                "pg_stat_statements.track_planning".to_owned(),
                "on".to_owned(),
            ),
        ];
        options.progress = Arc::new(|step: &str| eprintln!("{step}"));
        let mut servers = Servers::start(options).await?;
        let postgres = Watched {
            name: "postgres",
            pid: servers.postgres().pid(),
            with_children: true,
        };
        let rabbitmq = Watched {
            name: "rabbitmq",
            pid: servers.rabbitmq().pid(),
            with_children: true,
        };
        Ok(Self {
            programs: programs()?,
            watched: vec![postgres, rabbitmq],
            servers,
        })
    }

    /// The processes of both servers.
    pub(crate) fn servers(&self) -> &[Watched] {
        &self.watched
    }

    /// Where both are.
    pub(crate) fn endpoints(&self) -> Endpoints {
        Endpoints::of(&self.servers)
    }

    /// For more programs with the same end.
    pub(crate) fn processes(&self) -> &Processes {
        self.servers.processes()
    }

    /// Those, and the programs of a cluster.
    pub(crate) fn watched(&self, cluster: &Cluster) -> Vec<Watched> {
        let programs = cluster.pids().into_iter().map(|(name, pid)| Watched {
            name: name.trim_start_matches("postroad-"),
            pid,
            with_children: false,
        });
        self.watched.iter().cloned().chain(programs).collect()
    }

    /// One scheduler, two workers and an api on a new database.
    pub(crate) async fn site(&self) -> anyhow::Result<Site> {
        self.site_of(|builder| builder.workers(2).prefetch(200))
            .await
    }

    /// Without an api.
    pub(crate) async fn cluster(
        &self,
        setup: impl FnOnce(Builder) -> Builder,
    ) -> anyhow::Result<Cluster> {
        let builder = Cluster::builder()
            .beside(self.endpoints())
            .programs_of(&self.programs)
            .lease("30s")
            .env("POSTROAD_LOG", "warn,postroad=info");
        setup(builder).start().await
    }

    /// A database and a virtual host, and no program.
    pub(crate) async fn bare(&self) -> anyhow::Result<Cluster> {
        let nobody = |builder: Builder| builder.workers(0).schedulers(0);
        self.cluster(nobody).await
    }

    pub(crate) async fn site_of(
        &self,
        setup: impl FnOnce(Builder) -> Builder,
    ) -> anyhow::Result<Site> {
        let mut cluster = self.cluster(setup).await?;
        let api = cluster.start(Program::api()).await?;
        let all = [
            Permission::JobsRead,
            Permission::JobsWrite,
            Permission::QueuesWrite,
        ];
        let operator = cluster.client(api, None, &all).await?;
        Ok(Site {
            cluster,
            api,
            operator,
        })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        Ok(self.servers.stop().await?)
    }
}

/// Those that were built with this one.
fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let dir = own.parent().context("this program lies in a directory")?;
    if !dir.join("postroad-api").exists() {
        bail!(
            "{} has no programs: run `make bench`, which builds them",
            dir.display()
        );
    }
    Ok(dir.to_owned())
}
