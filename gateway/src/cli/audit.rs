//! `gateway audit verify`

use crate::observe::audit::key::PublicKey;
use crate::observe::audit::{SetSummary, verify, verify_set};
use crate::observe::file::beside;
use anyhow::Context;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Finds edited, removed, reordered and cut records in an audit log and its rotated files.
    Verify {
        /// The log; `FILE.head` and the rotated `FILE.1`, `FILE.2` … are read from beside it.
        file: PathBuf,
        /// Public key, 64 hex digits. Default: FILE.pub, which whoever can change the log can change too:
        /// keep a copy elsewhere.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// FILE is one rotated file, away from those before and after it: only it is checked.
        #[arg(long)]
        archived: bool,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<u8> {
    let Command::Verify {
        file,
        public_key,
        archived,
    } = command;
    let key_path = public_key.clone().unwrap_or_else(|| beside(file, ".pub"));
    let key =
        PublicKey::load(&key_path).with_context(|| format!("public key {}", key_path.display()))?;
    if *archived {
        return Ok(match verify(file, &key) {
            Ok(summary) => {
                println!(
                    "{} is intact: {} records, {} to {}; the files before and after it were not checked",
                    file.display(),
                    summary.records,
                    summary.first_seq,
                    summary.last_seq,
                );
                0
            }
            Err(failure) => {
                eprintln!("{} is NOT intact: {failure}", file.display());
                1
            }
        });
    }
    Ok(match verify_set(file, &key) {
        Ok(set) => {
            tell(file, &set);
            0
        }
        Err(failure) if failure.file == *file => {
            eprintln!("{} is NOT intact: {}", file.display(), failure.failure);
            1
        }
        Err(failure) => {
            eprintln!("{} is NOT intact: {failure}", file.display());
            1
        }
    })
}

fn tell(file: &Path, set: &SetSummary) {
    let (Some((_, first)), Some((_, last))) = (set.files.first(), set.files.last()) else {
        return;
    };
    println!(
        "{} is intact: {} records, {} to {}, in {} {}",
        file.display(),
        set.records(),
        first.first_seq,
        last.last_seq,
        set.files.len(),
        if set.files.len() == 1 {
            "file"
        } else {
            "files"
        },
    );
    if set.older_missing {
        println!(
            "note: records before {} are not here; `keep` limits how many rotated files stay",
            first.first_seq
        );
    }
    for (file, lost) in &set.breaks {
        println!(
            "note: {} begins after an earlier log was found changed and moved aside{}",
            file.display(),
            match lost {
                0 => String::new(),
                n => format!("; {n} records before it are not in these files"),
            }
        );
    }
}
