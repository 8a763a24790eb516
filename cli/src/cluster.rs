//! Postroad on this machine: servers, given or private, and the real programs.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use postroad_common::config::Env;
use postroad_provision::{Child, ChildSpec, Options, Processes, Servers};

use crate::output::Line;
use crate::setup::Setup;

/// Programs become ready within this, or something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// After this a program that was told to stop is killed.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// Where the servers are.
pub(crate) struct Urls {
    pub(crate) database: String,
    pub(crate) amqp: String,
    /// RabbitMQ's own pages, where we know them.
    pub(crate) management: Option<String>,
    /// The API, once it was started.
    pub(crate) api: Option<String>,
}

/// Servers and programs with one end.
pub(crate) struct Cluster {
    pub(crate) urls: Urls,
    programs: Vec<Program>,
    processes: Processes,
    servers: Option<Servers>,
}

/// A program that was started, and how to start it again.
pub(crate) struct Program {
    child: Child,
    spec: ChildSpec,
    pub(crate) admin: Option<SocketAddr>,
}

impl Cluster {
    /// Uses the servers that the environment names; starts private ones under `dir` otherwise.
    pub(crate) async fn start(dir: &Path, fresh: bool, line: &Arc<Line>) -> anyhow::Result<Self> {
        let env = Env::of_process();
        match (env.text("DATABASE_URL"), env.text("AMQP_URL")) {
            (Some(database), Some(amqp)) => {
                line.say("using the servers of DATABASE_URL and AMQP_URL");
                let urls = Urls {
                    database: database.to_owned(),
                    amqp: amqp.to_owned(),
                    management: None,
                    api: None,
                };
                let processes = Processes::open(dir).await?;
                Ok(Self {
                    urls,
                    programs: Vec::new(),
                    processes,
                    servers: None,
                })
            }
            (None, None) => {
                let progress = line.clone();
                let mut options = Options::new(dir);
                options.fresh = fresh;
                options.progress = Arc::new(move |step: &str| {
                    progress.say(step);
                    progress.show("waiting for the servers".to_owned());
                });
                let servers = Servers::start(options).await.map_err(configuration)?;
                let urls = Urls {
                    database: servers.database_url().to_owned(),
                    amqp: servers.amqp_url().to_owned(),
                    management: Some(servers.management_url().to_owned()),
                    api: None,
                };
                let processes = servers.processes().clone();
                Ok(Self {
                    urls,
                    programs: Vec::new(),
                    processes,
                    servers: Some(servers),
                })
            }
            _ => bail!(
                "set both DATABASE_URL and AMQP_URL to use your servers, or neither to have private ones"
            ),
        }
    }

    /// A way to the servers for this process.
    pub(crate) fn setup(&self) -> anyhow::Result<Setup> {
        Setup::of_urls(&self.urls.database, &self.urls.amqp)
    }

    /// The directory of logs and data.
    pub(crate) fn dir(&self) -> PathBuf {
        self.processes.dir().to_owned()
    }

    /// Starts one of the programs, with an admin page on a free port.
    pub(crate) fn start_program(
        &mut self,
        name: &str,
        program: &str,
        env: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let admin = free_address()?;
        let mut variables = vec![
            ("DATABASE_URL".into(), self.urls.database.clone().into()),
            ("AMQP_URL".into(), self.urls.amqp.clone().into()),
            ("POSTROAD_ADMIN_LISTEN".into(), admin.to_string().into()),
        ];
        variables.extend(
            env.iter()
                .map(|(name, value)| ((*name).into(), value.into())),
        );
        let spec = self.spec(name, program, Vec::new(), variables)?;
        let child = self.processes.spawn(spec.clone())?;
        self.programs.push(Program {
            child,
            spec,
            admin: Some(admin),
        });
        Ok(())
    }

    /// Starts an api on a free port.
    pub(crate) fn start_api(&mut self, env: &[(&str, String)]) -> anyhow::Result<()> {
        let listen = free_address()?;
        let mut env = env.to_vec();
        env.push(("POSTROAD_LISTEN", listen.to_string()));
        self.start_program("api", "postroad-api", &env)?;
        self.urls.api = Some(format!("http://{listen}"));
        Ok(())
    }

    /// Starts any other program beside this one, with its output in a log file of its own.
    pub(crate) fn start_tool(
        &mut self,
        program: &str,
        args: Vec<OsString>,
    ) -> anyhow::Result<PathBuf> {
        let spec = self.spec(program, program, args, Vec::new())?;
        let log = spec.log.clone();
        let child = self.processes.spawn(spec.clone())?;
        self.programs.push(Program {
            child,
            spec,
            admin: None,
        });
        Ok(log)
    }

    fn spec(
        &self,
        name: &str,
        program: &str,
        args: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
    ) -> anyhow::Result<ChildSpec> {
        let log = self.processes.dir().join("log").join(format!("{name}.log"));
        if let Some(dir) = log.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        Ok(ChildSpec {
            name: name.to_owned(),
            program: beside_us(program)?,
            args,
            env,
            log,
        })
    }

    /// Waits until every program says it is ready.
    pub(crate) async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let client = http_client()?;
        let until = Instant::now() + READY_WITHIN;
        for program in &mut self.programs {
            let Some(admin) = program.admin else { continue };
            loop {
                if let Some(status) = program.child.try_wait()? {
                    return Err(program.child.exited(status).into());
                }
                let answer = client.get(format!("http://{admin}/readyz")).send().await;
                if answer
                    .as_ref()
                    .is_ok_and(|answer| answer.status().is_success())
                {
                    break;
                }
                if Instant::now() >= until {
                    bail!(
                        "{} is not ready; see {}",
                        program.child.name(),
                        program.spec.log.display()
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Kills one of the programs, and starts it again.
    pub(crate) async fn kill_one(&mut self) -> anyhow::Result<String> {
        let killable: Vec<_> = (0..self.programs.len())
            .filter(|n| self.programs[*n].admin.is_some())
            .collect();
        let victim = killable[rand::random_range(0..killable.len())];
        let program = &mut self.programs[victim];
        let name = format!("{} (pid {})", program.child.name(), program.child.pid());
        program.child.kill().await?;
        program.child = self.processes.spawn(program.spec.clone())?;
        Ok(name)
    }

    /// Waits until a server or a program ends by itself, and says which.
    pub(crate) async fn exited(&mut self) -> anyhow::Error {
        let servers = async {
            match &mut self.servers {
                Some(servers) => servers.exited().await,
                None => std::future::pending().await,
            }
        };
        let programs = async {
            if self.programs.is_empty() {
                std::future::pending::<()>().await;
            }
            let ends = self.programs.iter_mut().map(|program| {
                Box::pin(async move {
                    match program.child.wait().await {
                        Ok(status) => program.child.exited(status),
                        Err(error) => error,
                    }
                })
            });
            futures_util::future::select_all(ends).await.0
        };
        tokio::select! {
            error = servers => error.into(),
            error = programs => error.into(),
        }
    }

    /// Stops the programs, then the servers that were started for them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let stops = self.programs.into_iter().map(|mut program| async move {
            if program.child.try_wait()?.is_none() {
                program.child.stop(STOP_WITHIN).await?;
            }
            anyhow::Ok(())
        });
        let stopped = join_all(stops).await;
        if let Some(servers) = self.servers {
            servers.stop().await?;
        }
        stopped.into_iter().collect()
    }
}

/// What the machine lacks is a matter of configuration: exit code 78.
fn configuration(error: postroad_provision::Error) -> anyhow::Error {
    if error.is_config() {
        postroad_common::config::ConfigError::of("this machine", &error).into()
    } else {
        error.into()
    }
}

/// A program of this build.
fn beside_us(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let path = own.with_file_name(program);
    if !path.exists() {
        bail!(
            "{} is missing: build it with `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr()?)
}

/// An HTTP client for pages of programs on this machine.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    // Fails when a provider is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .context("building an HTTP client")
}
