//! `gateway audit verify`

use crate::observe::audit::key::PublicKey;
use crate::observe::audit::verify;
use crate::observe::file::beside;
use anyhow::Context;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Finds edited, removed, reordered and cut records in an audit log.
    Verify {
        /// The log; `FILE.head` is read from beside it.
        file: PathBuf,
        /// Public key, 64 hex digits. Default: FILE.pub, which whoever can change the log can change too:
        /// keep a copy elsewhere.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<u8> {
    let Command::Verify { file, public_key } = command;
    let key_path = public_key.clone().unwrap_or_else(|| beside(file, ".pub"));
    let key =
        PublicKey::load(&key_path).with_context(|| format!("public key {}", key_path.display()))?;
    match verify(file, &key) {
        Ok(summary) => {
            println!(
                "{} is intact: {} records, {} to {}{}",
                file.display(),
                summary.records,
                summary.first_seq,
                summary.last_seq,
                if summary.ends_rotated {
                    ", continued in a newer file"
                } else {
                    ""
                },
            );
            if summary.begins_after_break {
                println!("note: it begins after an earlier log was found changed and moved aside");
            }
            Ok(0)
        }
        Err(failure) => {
            eprintln!("{} is NOT intact: {failure}", file.display());
            Ok(1)
        }
    }
}
