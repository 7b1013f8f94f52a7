//! `cargo xtask run`: the gateway in front of its demo upstream, from nothing, in one command.

use crate::{build, setup, workspace};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the kernel filter out
    #[arg(long)]
    without_filter: bool,
    /// Passed on to `gateway demo`
    #[arg(last = true)]
    demo: Vec<String>,
}

/// Replaces this process, so that signals reach the gateway itself.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::Need::RUN)?;
    let binary = build::build(&build::Arguments {
        release: true,
        without_filter: arguments.without_filter,
    })?;
    let error = Command::new(&binary)
        .arg("demo")
        .args(&arguments.demo)
        .current_dir(workspace::root())
        .exec();
    Err(error).with_context(|| format!("could not start {}", binary.display()))
}
