//! Asking before something is done that cannot be undone.

use std::io::Write;

use anyhow::{Context, bail};

use crate::exit;
use crate::output::is_attended;

/// What a command takes that cannot be undone.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Sure {
    /// Do not ask. Needed where nobody can be asked.
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Sure {
    /// Goes on only if somebody is sure of `what`.
    pub(crate) fn of(self, what: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !is_attended() {
            return Err(exit::usage(format_args!(
                "{what}: give --yes, nobody can be asked here"
            )));
        }
        let mut err = std::io::stderr();
        write!(err, "{what}? [y/N] ")
            .and_then(|()| err.flush())
            .context("asking")?;
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .context("reading the answer")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("nothing was changed"),
        }
    }
}
