//! The servers' programs: where they are, and how they get there.
//!
//! Debian's packages are installed when this user may do that. Nothing is started by it: the
//! servers that run afterwards are the ones that this crate starts.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::error::{Doing, Error};
use crate::process::tail;
use crate::user::is_root;

/// The oldest Postgres that Postroad's SQL runs on.
const POSTGRES_MAJOR_MIN: u32 = 15;
const POSTGRES: &str = "postgresql";
const RABBITMQ: &str = "rabbitmq-server";
/// Units that the packages start on a machine with systemd.
const UNITS: [&str; 6] = [
    "pgbouncer.service",
    "postgresql.service",
    "rabbitmq-server.service",
    "redis-server.service",
    "epmd.service",
    "epmd.socket",
];

/// Programs that can be started.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) postgres: PostgresBinaries,
    pub(crate) rabbitmq: RabbitMqBinaries,
}

/// One installed version of Postgres.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PostgresBinaries {
    /// Where `postgres` and `initdb` are.
    pub(crate) dir: PathBuf,
    pub(crate) major: u32,
}

/// RabbitMQ and the part of Erlang that is started by itself.
#[derive(Debug)]
pub(crate) struct RabbitMqBinaries {
    pub(crate) server: PathBuf,
    pub(crate) epmd: PathBuf,
}

/// Something that not everybody needs.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// What Debian calls it.
    pub name: &'static str,
    /// The files, in the order of preference, one of which is what is wanted of it.
    pub files: &'static [&'static str],
}

impl Package {
    fn find(self) -> Option<PathBuf> {
        let mut files = self.files.iter().map(PathBuf::from);
        files.find(|file| file.is_file())
    }
}

/// The file that is wanted of a package, which is installed if need be.
pub async fn install(package: Package, log_dir: &Path) -> Result<PathBuf, Error> {
    if let Some(file) = package.find() {
        return Ok(file);
    }
    let apt = Apt {
        packages: vec![package.name],
        log: log_dir.join("install.log"),
    };
    apt.install(&|_| {}).await?;
    package.find().ok_or_else(|| {
        let Package { name, files } = package;
        Error::Machine(format!(
            "{name} is installed, and there is none of {files:?}"
        ))
    })
}

/// Finds the servers' programs, after installing those that are missing.
pub(crate) async fn servers(
    log_dir: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Binaries, Error> {
    let missing = match find().await {
        Ok(binaries) => return Ok(binaries),
        Err(missing) => missing,
    };
    let apt = Apt {
        packages: missing,
        log: log_dir.join("install.log"),
    };
    apt.install(progress).await?;
    find().await.map_err(|missing| {
        Error::Machine(format!(
            "no usable {} even after `{}`; Postgres has to be {POSTGRES_MAJOR_MIN} or newer",
            missing.join(" and "),
            apt.command()
        ))
    })
}

/// The programs, or the packages that would bring them.
async fn find() -> Result<Binaries, Vec<&'static str>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres = find_postgres(Path::new("/usr/lib/postgresql"), &path).await;
    let rabbitmq = find_rabbitmq(Path::new("/usr/lib/rabbitmq"), &path);
    match (postgres, rabbitmq) {
        (Some(postgres), Some(rabbitmq)) => Ok(Binaries { postgres, rabbitmq }),
        (Some(_), None) => Err(vec![RABBITMQ]),
        (None, Some(_)) => Err(vec![POSTGRES]),
        (None, None) => Err(vec![POSTGRES, RABBITMQ]),
    }
}

/// The newest of Debian's versions, which are not on the path, else the one on the path.
async fn find_postgres(versions: &Path, path: &OsStr) -> Option<PostgresBinaries> {
    let packaged = entries(versions).into_iter().filter_map(|version| {
        let major = version.file_name()?.to_str()?.parse().ok()?;
        let dir = version.join("bin");
        dir.join("initdb")
            .is_file()
            .then_some(PostgresBinaries { dir, major })
    });
    let newest = packaged.max_by_key(|found| found.major);
    let found = match newest {
        Some(found) => found,
        None => postgres_on(path).await?,
    };
    (found.major >= POSTGRES_MAJOR_MIN).then_some(found)
}

async fn postgres_on(path: &OsStr) -> Option<PostgresBinaries> {
    let postgres = on_path(path, "postgres")?.canonicalize().ok()?;
    let dir = postgres
        .parent()
        .filter(|dir| dir.join("initdb").is_file())?
        .to_owned();
    let version = Command::new(&postgres)
        .arg("--version")
        .output()
        .await
        .ok()?;
    let major = major_of(&String::from_utf8_lossy(&version.stdout))?;
    Some(PostgresBinaries { dir, major })
}

/// From a line like `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` or `… 18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits].parse().ok()
}

/// Debian's own script in preference to the one on the path, which changes the user.
fn find_rabbitmq(packaged: &Path, path: &OsStr) -> Option<RabbitMqBinaries> {
    let versions = entries(&packaged.join("lib")).into_iter().rev();
    let server = std::iter::once(packaged.join("bin"))
        .chain(versions.map(|version| version.join("sbin")))
        .map(|dir| dir.join(RABBITMQ))
        .find(|server| server.is_file())
        .or_else(|| on_path(path, RABBITMQ))?;
    let epmd = on_path(path, "epmd").or_else(|| on_path(OsStr::new("/usr/bin"), "epmd"))?;
    Some(RabbitMqBinaries { server, epmd })
}

pub(crate) fn on_path(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
}

/// An installation of packages.
struct Apt {
    packages: Vec<&'static str>,
    log: PathBuf,
}

impl Apt {
    /// What a person runs to the same effect.
    fn command(&self) -> String {
        let sudo = if is_root() { "" } else { "sudo " };
        format!(
            "{sudo}apt-get install --no-install-recommends {}",
            self.packages.join(" ")
        )
    }

    async fn install(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<(), Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let names = self.packages.join(" and ");
        if on_path(&path, "apt-get").is_none() {
            return Err(Error::Machine(format!(
                "{names} not found, and this is not Debian; install Postgres \
                 {POSTGRES_MAJOR_MIN} or newer and RabbitMQ, or where there is apt: {}",
                self.command()
            )));
        }
        if !is_root() && !sudo_asks_nothing().await {
            return Err(Error::Machine(format!(
                "{names} not found; run: {}",
                self.command()
            )));
        }
        progress(&format!("installing {names}: {}", self.command()));
        let running_before = active_units().await;
        // A stale list may still do, for instance without a network but with a warm cache.
        let _ = self.apt(&["update"]).await;
        let install = ["install", "-y", "--no-install-recommends"];
        self.apt(&[&install[..], &self.packages[..]].concat())
            .await?;
        stop_units_started_since(&running_before).await;
        Ok(())
    }

    /// `RUNLEVEL=1` makes `invoke-rc.d` leave the new servers stopped where there is no systemd.
    async fn apt(&self, args: &[&str]) -> Result<(), Error> {
        let log = || {
            fs::create_dir_all(self.log.parent().unwrap_or(Path::new(".")))?;
            let log = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.log)?;
            Ok::<_, std::io::Error>((log.try_clone()?, log))
        };
        let (stdout, stderr) = log().doing(|| format!("open {}", self.log.display()))?;
        let status = as_root("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"])
            .args(["apt-get", "-o", "DPkg::Lock::Timeout=120"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .status()
            .await
            .doing(|| "run apt-get".to_owned())?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Machine(format!(
            "{} could not be installed; run: {}\nThe last lines of {} were:\n{}",
            self.packages.join(" and "),
            self.command(),
            self.log.display(),
            tail(&self.log)
        )))
    }
}

async fn sudo_asks_nothing() -> bool {
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    sudo.await.is_ok_and(|status| status.success())
}

fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Which of the servers' units run; none on a machine that systemd does not run.
async fn active_units() -> Vec<&'static str> {
    let mut active = Vec::new();
    if !Path::new("/run/systemd/system").is_dir() {
        return active;
    }
    for unit in UNITS {
        let ask = Command::new("systemctl")
            .args(["is-active", "--quiet", unit])
            .status()
            .await;
        if ask.is_ok_and(|status| status.success()) {
            active.push(unit);
        }
    }
    active
}

/// Systemd starts what a package brings; the user asked for the programs only.
async fn stop_units_started_since(running_before: &[&str]) {
    let after = active_units().await;
    for unit in after
        .into_iter()
        .filter(|unit| !running_before.contains(unit))
    {
        // A unit that keeps running is a nuisance, not a reason to fail.
        let _ = as_root("systemctl")
            .args(["disable", "--now", unit])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
    }
}

/// The path that servers get: the owner's, and what an ordinary user's may lack.
pub(crate) fn server_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(file: PathBuf) {
        fs::create_dir_all(file.parent().expect("a file in a directory")).expect("a directory");
        fs::write(file, "").expect("a file");
    }

    #[tokio::test]
    async fn the_newest_postgres_is_taken_by_number_not_by_text() {
        let root = tempfile::tempdir().expect("a directory");
        for version in ["9", "15", "100"] {
            touch(root.path().join(version).join("bin/initdb"));
        }
        let found = find_postgres(root.path(), OsStr::new(""))
            .await
            .expect("three versions");
        assert_eq!(found.major, 100);
    }

    #[tokio::test]
    async fn a_postgres_that_is_too_old_is_no_postgres() {
        let root = tempfile::tempdir().expect("a directory");
        touch(root.path().join("14/bin/initdb"));
        assert_eq!(find_postgres(root.path(), OsStr::new("")).await, None);
    }

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
    }

    #[test]
    fn the_command_names_only_what_is_missing() {
        let apt = Apt {
            packages: vec![RABBITMQ],
            log: PathBuf::new(),
        };
        let command = apt.command();
        assert!(command.ends_with("apt-get install --no-install-recommends rabbitmq-server"));
    }
}
