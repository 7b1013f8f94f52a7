//! `gateway check`

use crate::warden::load::{load, render};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The TOML config to compile.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    match load(&args.config) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                print!("warnings:\n{}", render(&loaded.warnings));
            }
            let snapshot = &loaded.snapshot;
            println!(
                "{} is good: {} listeners, {} routes, {} files read",
                args.config.display(),
                snapshot.listeners.len(),
                snapshot.routes.len(),
                loaded.bundle.files.0.len(),
            );
            Ok(0)
        }
        Err(errors) => {
            eprint!(
                "{} has {} error{}:\n{}",
                args.config.display(),
                errors.len(),
                if errors.len() == 1 { "" } else { "s" },
                render(&errors)
            );
            Ok(1)
        }
    }
}
