//! `cargo xtask build`: the XDP program first, then the gateway that embeds it.

use crate::{bpf_toolchain, command, setup, workspace};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Optimised
    #[arg(long)]
    pub(crate) release: bool,
    /// Leave the kernel filter out: the gateway then runs without XDP
    #[arg(long)]
    pub(crate) without_filter: bool,
}

/// What the gateway embeds.
pub(crate) enum Filter {
    Object(PathBuf),
    LeftOut,
}

impl Filter {
    /// The same variable in every cargo command: a change would rebuild the gateway.
    pub(crate) fn pass_to(&self, command: &mut Command) {
        match self {
            Filter::Object(object) => command.env("GATEWAY_BPF_OBJECT", object),
            Filter::LeftOut => command.env_remove("GATEWAY_BPF_OBJECT"),
        };
    }
}

/// Builds both halves and returns the gateway's path.
pub(crate) fn build(arguments: &Arguments) -> Result<PathBuf> {
    let filter = filter(arguments.without_filter)?;
    gateway(&filter, arguments.release)
}

/// The XDP program; cargo rebuilds it only when its sources changed.
pub(crate) fn filter(left_out: bool) -> Result<Filter> {
    if left_out {
        eprintln!("build: without the kernel filter, as asked");
        return Ok(Filter::LeftOut);
    }
    let crate_dir = workspace::ebpf_crate();
    if !crate_dir.join("Cargo.toml").is_file() {
        bail!(
            "{} is missing; `--without-filter` builds without it",
            crate_dir.display()
        );
    }
    setup::ensure(setup::Need::FILTER)?;
    let compiler = bpf_toolchain::find().context("no toolchain for the kernel filter")?;
    let object = bpf_toolchain::build(compiler, &crate_dir)?;
    Ok(Filter::Object(object))
}

pub(crate) fn gateway(filter: &Filter, release: bool) -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "-p", "gateway", "--bin", "gateway"]);
    if release {
        cargo.arg("--release");
    }
    filter.pass_to(&mut cargo);
    command::run(&mut cargo)?;
    Ok(workspace::gateway_binary(release))
}
