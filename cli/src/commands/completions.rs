//! `postroad completions` and `postroad man`: what shells and manuals know of this program.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use crate::output::{note, print};

/// Prints what a shell needs to complete the names of commands and options.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  postroad completions bash > /etc/bash_completion.d/postroad
  postroad completions zsh > ~/.zfunc/_postroad
  postroad completions fish > ~/.config/fish/completions/postroad.fish
  postroad completions powershell >> $PROFILE")]
pub(crate) struct Args {
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

pub(crate) fn run(args: Args, mut command: clap::Command) -> anyhow::Result<()> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "postroad", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes manual pages, one per command.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  postroad man --dir /usr/local/share/man/man1
  postroad man --dir man && man -l man/postroad-jobs-list.1")]
pub(crate) struct ManArgs {
    /// Where they go; created if need be.
    #[arg(long)]
    dir: PathBuf,
}

pub(crate) fn man(args: ManArgs, command: clap::Command) -> anyhow::Result<()> {
    let dir = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("making {dir}"))?;
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("writing manual pages to {dir}"))?;
    note(format_args!("manual pages are in {dir}"));
    Ok(())
}
