//! A private RabbitMQ: one node with the management plugin, one user and one virtual host, both
//! called `postroad`.
//!
//! Nodes on one machine find each other through epmd, a daemon that the first of them starts and
//! that all of them share. This node gets an epmd of its own, in the foreground and on its own
//! port: the system's is not touched, none is left behind, and two clones cannot meet.
//!
//! Nothing of `/etc/rabbitmq` is read, and none of the owner's `RABBITMQ_*` variables is passed
//! on, so that the node is the same on every machine.

mod control;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use self::control::Control;
use crate::Options;
use crate::error::{Doing, Error};
use crate::files::{new_password, private_dir, remove_dir, write_private};
use crate::install::{RabbitMqBinaries, server_path};
use crate::port::{Reserved, with_free_ports};
use crate::postgres::instance;
use crate::process::{Child, ChildSpec, Launch, Processes};
use crate::ready::wait_until_ready;

/// For a restart, which is to find everything as a clean stop leaves it.
const RESTART_GRACE: Duration = Duration::from_secs(30);

/// For the end. A node that is told to stop by a signal closes its stores within a second, and
/// then waits five more for the management plugin, whose last act waits for the node. A kill in
/// that time costs nothing, and even an earlier one no confirmed message.
const STOP_GRACE: Duration = Duration::from_secs(2);

const PROBE_LIMIT: Duration = Duration::from_secs(2);
const GREETING_BYTES_MAX: u32 = 64 * 1024;

/// A running RabbitMQ.
pub struct RabbitMq {
    node: Node,
    processes: Processes,
    amqp_url: String,
    management_url: String,
    child: Child,
    epmd: Child,
    /// For restarts.
    _reserved: Reserved,
}

impl RabbitMq {
    pub(crate) async fn start(
        processes: &Processes,
        binaries: &RabbitMqBinaries,
        options: &Options,
    ) -> Result<Self, Error> {
        let files = Files::open(processes.dir(), options.fresh)?;
        let progress = options.progress.as_ref();
        let ((node, epmd, child), reserved) =
            with_free_ports(async |[amqp, management, dist, epmd]| {
                progress(&format!("starting RabbitMQ on 127.0.0.1:{amqp}"));
                let ports = Ports {
                    amqp,
                    management,
                    dist,
                    epmd,
                };
                let node = Node {
                    server: binaries.server.clone(),
                    files: files.clone(),
                    ports,
                    settings: options.rabbitmq.clone(),
                };
                let mut epmd = node.serve_epmd(processes, &binaries.epmd).await?;
                match node.serve(processes).await {
                    Ok(child) => Ok((node, epmd, child)),
                    Err(error) => {
                        epmd.kill().await?;
                        Err(error)
                    }
                }
            })
            .await?;
        let Ports {
            amqp, management, ..
        } = node.ports;
        let login = format!("postroad:{}@127.0.0.1", node.files.password);
        Ok(Self {
            amqp_url: format!("amqp://{login}:{amqp}/postroad"),
            management_url: format!("http://{login}:{management}"),
            processes: processes.clone(),
            node,
            child,
            epmd,
            _reserved: reserved,
        })
    }

    /// `amqp://postroad:<password>@127.0.0.1:<port>/postroad`, the same after every restart.
    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// `http://postroad:<password>@127.0.0.1:<port>`: the management pages and HTTP API.
    pub fn management_url(&self) -> &str {
        &self.management_url
    }

    /// The pid of the node.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// For what only the node itself can do or knows.
    pub fn control(&self) -> Control {
        Control {
            home: self.node.files.home.clone(),
            dist: self.node.ports.dist,
        }
    }

    /// Stops it cleanly and starts it again, on the same ports and data.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.child.stop(RESTART_GRACE).await?;
        self.start_again().await
    }

    /// Kills the node.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().await?;
        Ok(())
    }

    /// Starts it after [`kill`](Self::kill) or a crash, on the same ports and data.
    pub async fn start_again(&mut self) -> Result<(), Error> {
        self.child = self.node.serve(&self.processes).await?;
        Ok(())
    }

    /// Stops the node in the middle of whatever it does: connections stay open, and nobody answers.
    pub async fn pause(&self) -> Result<(), Error> {
        self.child.pause().await
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<(), Error> {
        self.child.resume().await
    }

    /// Kills the node, deletes its data, and starts an empty one with the same URLs.
    pub async fn wipe(&mut self) -> Result<(), Error> {
        self.kill().await?;
        remove_dir(&self.node.files.data())?;
        self.start_again().await
    }

    /// Waits until it ends by itself, and says how.
    pub async fn exited(&mut self) -> Error {
        self.child.ended().await
    }

    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let stopped = self.child.stop(STOP_GRACE).await;
        self.epmd.kill().await?;
        stopped.map(drop)
    }
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    management: u16,
    /// For other nodes and `rabbitmqctl`.
    dist: u16,
    epmd: u16,
}

/// What the node has on disk.
#[derive(Clone)]
struct Files {
    /// Closed to others: the password and the Erlang cookie are in it.
    home: PathBuf,
    log_dir: PathBuf,
    /// Tells this node from those of other directories.
    name: String,
    password: String,
}

impl Files {
    fn open(dir: &Path, fresh: bool) -> Result<Self, Error> {
        let home = dir.join("rabbitmq");
        private_dir(&home, None)?;
        let name = format!("postroad-{}", instance(dir));
        let mut files = Self {
            home,
            log_dir: dir.join("log"),
            name,
            password: String::new(),
        };
        let password_file = files.home.join("password");
        match fs::read_to_string(&password_file) {
            Ok(password) if !fresh => files.password = password,
            _ => {
                // The user in the data has the old password.
                remove_dir(&files.data())?;
                files.password = new_password();
                write_private(&password_file, &files.password, None)?;
            }
        }
        files
            .write_fixed()
            .doing(|| format!("write to {}", files.home.display()))?;
        Ok(files)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn config(&self) -> PathBuf {
        self.home.join("rabbitmq.conf")
    }

    /// The empty ones stand in for files of the same role in `/etc/rabbitmq`.
    fn write_fixed(&self) -> io::Result<()> {
        fs::create_dir_all(self.home.join("conf.d"))?;
        fs::write(self.home.join("env.conf"), "")?;
        fs::write(self.home.join("advanced.config"), "[].\n")?;
        fs::write(
            self.home.join("enabled_plugins"),
            "[rabbitmq_management].\n",
        )
    }

    fn write_config(&self, ports: Ports) -> Result<(), Error> {
        let Ports {
            amqp, management, ..
        } = ports;
        let password = &self.password;
        let config = format!(
            "listeners.tcp.default = 127.0.0.1:{amqp}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n\
             management.rates_mode = basic\n\
             default_vhost = postroad\n\
             default_user = postroad\n\
             default_pass = {password}\n\
             default_user_tags.administrator = true\n\
             default_permissions.configure = .*\n\
             default_permissions.read = .*\n\
             default_permissions.write = .*\n\
             log.console = true\n\
             log.console.level = warning\n\
             log.file = false\n"
        );
        write_private(&self.config(), &config, None)
    }
}

struct Node {
    server: PathBuf,
    files: Files,
    ports: Ports,
    /// See [`Options::rabbitmq`].
    settings: Vec<(String, String)>,
}

impl Node {
    async fn serve_epmd(&self, processes: &Processes, program: &Path) -> Result<Child, Error> {
        let port = self.ports.epmd;
        let spec = ChildSpec {
            name: "epmd".to_owned(),
            program: program.to_owned(),
            args: vec![
                "-address".into(),
                "127.0.0.1".into(),
                "-port".into(),
                port.to_string().into(),
            ],
            env: Vec::new(),
            log: self.files.log_dir.join("epmd.log"),
        };
        let mut epmd = processes.launch(
            spec,
            Launch {
                env_clear: true,
                ..Launch::default()
            },
        )?;
        wait_until_ready(&mut epmd, async || connect(port).await.is_ok()).await?;
        Ok(epmd)
    }

    async fn serve(&self, processes: &Processes) -> Result<Child, Error> {
        self.files.write_config(self.ports)?;
        let spec = ChildSpec {
            name: "RabbitMQ".to_owned(),
            program: self.server.clone(),
            args: Vec::new(),
            env: self.env(),
            log: self.files.log_dir.join("rabbitmq.log"),
        };
        let mut node = processes.launch(
            spec,
            Launch {
                env_clear: true,
                ..Launch::default()
            },
        )?;
        wait_until_ready(&mut node, async || self.is_ready().await).await?;
        Ok(node)
    }

    fn env(&self) -> Vec<(OsString, OsString)> {
        let Files {
            home,
            log_dir,
            name,
            ..
        } = &self.files;
        let Ports { dist, epmd, .. } = self.ports;
        let settings: String = self
            .settings
            .iter()
            .map(|(name, term)| format!(" -rabbit {name} {term}"))
            .collect();
        let texts = [
            ("LANG", "C.UTF-8".to_owned()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("RABBITMQ_DIST_PORT", dist.to_string()),
            ("RABBITMQ_NODENAME", format!("{name}@localhost")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            // Idle schedulers spin by default, at the cost of everybody else on a small machine.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!(
                    "+sbwt none +sbwtdcpu none +sbwtdio none \
                     -kernel inet_dist_use_interface {{127,0,0,1}}{settings}"
                ),
            ),
            // The start script then becomes the node instead of waiting for it as its parent.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ];
        let paths = [
            ("HOME", home.clone()),
            ("ERL_CRASH_DUMP", log_dir.join("erl_crash.dump")),
            ("RABBITMQ_CONFIG_FILE", self.files.config()),
            ("RABBITMQ_CONFIG_FILES", home.join("conf.d")),
            (
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                home.join("advanced.config"),
            ),
            ("RABBITMQ_CONF_ENV_FILE", home.join("env.conf")),
            (
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                home.join("enabled_plugins"),
            ),
            ("RABBITMQ_MNESIA_BASE", self.files.data()),
            ("RABBITMQ_LOG_BASE", log_dir.clone()),
        ];
        let texts = texts
            .into_iter()
            .map(|(name, text)| (name.into(), text.into()));
        let paths = paths
            .into_iter()
            .map(|(name, path)| (name.into(), path.into()));
        texts
            .chain(paths)
            .chain([("PATH".into(), server_path())])
            .collect()
    }

    async fn is_ready(&self) -> bool {
        let probe = async {
            let greeting = amqp_greeting(self.ports.amqp).await?;
            connect(self.ports.management).await?;
            io::Result::Ok(greeting)
        };
        match tokio::time::timeout(PROBE_LIMIT, probe).await {
            Ok(Ok(greeting)) => self.is_ours(&greeting),
            _ => false,
        }
    }

    /// A node says its cluster's name, by default the node's, in its first frame. Without this
    /// look a stranger that took the port would pass for a node that is about to fail.
    fn is_ours(&self, greeting: &[u8]) -> bool {
        let name = self.files.name.as_bytes();
        greeting.windows(name.len()).any(|window| window == name)
    }
}

/// The payload of `Connection.Start`, which a broker sends once it takes clients.
async fn amqp_greeting(port: u16) -> io::Result<Vec<u8>> {
    const METHOD_FRAME: u8 = 1;
    let mut broker = connect(port).await?;
    broker.write_all(b"AMQP\0\0\x09\x01").await?;
    let kind = broker.read_u8().await?;
    let _channel = broker.read_u16().await?;
    let bytes = broker.read_u32().await?;
    if kind != METHOD_FRAME || bytes > GREETING_BYTES_MAX {
        return Err(io::Error::other("not a Connection.Start"));
    }
    let mut payload = vec![0; bytes as usize];
    broker.read_exact(&mut payload).await?;
    Ok(payload)
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}
