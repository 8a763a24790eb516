//! The system users that matter: ours, and the one that Postgres runs as when we are root.

use std::fs;
use std::path::Path;

use crate::error::{Doing, Error};

/// A user and its primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user that Postgres has to run as, if not ours: as root it refuses to run at all.
    pub(crate) fn for_postgres() -> Result<Option<Self>, Error> {
        if !is_root() {
            return Ok(None);
        }
        let passwd = Path::new("/etc/passwd");
        let text = fs::read_to_string(passwd).doing(|| format!("read {}", passwd.display()))?;
        let user = text.lines().find_map(|line| Self::parse(line, "postgres"));
        user.map(Some).ok_or_else(|| {
            Error::Machine(
                "Postgres does not run as root and there is no user `postgres`; run: \
                 useradd --system postgres"
                    .to_owned(),
            )
        })
    }

    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some(Self {
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let line = "postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash";
        assert_eq!(
            User::parse(line, "postgres"),
            Some(User { uid: 101, gid: 104 })
        );
        assert_eq!(User::parse(line, "post"), None);
    }
}
