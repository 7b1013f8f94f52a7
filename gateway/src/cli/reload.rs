//! `gateway reload`

use crate::admin::{client::Client, reload::ReloadReport};
use crate::warden::load::render;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> anyhow::Result<u8> {
    let report: ReloadReport = Client::new(socket).post("/reload", &())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if report.errors.is_empty() {
        println!("reloaded");
    } else {
        eprint!("refused, the old config stays:\n{}", render(&report.errors));
    }
    Ok(u8::from(!report.errors.is_empty()))
}
