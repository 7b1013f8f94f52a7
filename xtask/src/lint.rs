//! `cargo xtask fmt` and `cargo xtask lint`, also steps of `test`.

use crate::{build, command, workspace};
use anyhow::Result;
use std::process::Command;

pub(crate) fn format() -> Result<()> {
    for mut command in format_commands() {
        command::run(&mut command)?;
    }
    Ok(())
}

pub(crate) fn check_format() -> Result<()> {
    for mut command in format_commands() {
        command::run(command.args(["--", "--check"]))?;
    }
    Ok(())
}

/// Clippy with warnings as errors. Builds the filter first, so that the gateway's build script variables
/// are the same in every command and nothing is compiled twice.
pub(crate) fn lint() -> Result<()> {
    let object = build::filter(false)?;
    clippy(&object)
}

pub(crate) fn clippy(object: &build::Filter) -> Result<()> {
    let mut command = command::cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    object.pass_to(&mut command);
    command::run(command.args(["--", "-D", "warnings"]))
}

/// The filter's crate is outside the workspace, so `--all` does not reach it.
fn format_commands() -> Vec<Command> {
    let mut all = command::cargo();
    all.args(["fmt", "--all"]);
    let mut commands = vec![all];
    if workspace::ebpf_crate().is_dir() {
        let mut ebpf = command::cargo();
        ebpf.args(["fmt", "--manifest-path", "gateway-ebpf/Cargo.toml"]);
        commands.push(ebpf);
    }
    commands
}
