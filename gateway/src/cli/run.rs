//! `gateway run`

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The TOML config. Files it names are relative to its folder.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    crate::warden::run(&args.config)
}
