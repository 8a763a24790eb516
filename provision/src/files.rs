//! Files and directories that only their owner may read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use crate::error::{Doing, Error};
use crate::user::User;

/// Makes sure of a directory that belongs to `user`, or to us, and is closed to everybody else.
///
/// One that someone else made first, easily done under `/var/tmp`, is refused.
pub(crate) fn private_dir(dir: &Path, user: Option<User>) -> Result<(), Error> {
    let make = || {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(dir)?;
        let ours = rustix::process::geteuid().as_raw();
        let owner_expected = [Some(ours), user.map(|user| user.uid)].contains(&Some(found.uid()));
        if !found.is_dir() || !owner_expected {
            return Err(io::Error::other("it belongs to another user"));
        }
        give_to(dir, user)
    };
    make().doing(|| format!("prepare the directory {}", dir.display()))
}

/// Writes a file that `user`, or we, and nobody else can read.
pub(crate) fn write_private(path: &Path, text: &str, user: Option<User>) -> Result<(), Error> {
    let write = || {
        remove_if_present(fs::remove_file(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        give_to(path, user)
    };
    write().doing(|| format!("write {}", path.display()))
}

/// Removes a directory with everything in it, if it is there.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    remove_if_present(fs::remove_dir_all(dir)).doing(|| format!("remove {}", dir.display()))
}

/// A password that is safe in URLs, SQL and configuration files.
pub(crate) fn new_password() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn give_to(path: &Path, user: Option<User>) -> io::Result<()> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

fn remove_if_present(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
