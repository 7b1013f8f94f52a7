//! The check of a log with its rotated files: that each is whole, and that each follows the one before it. A file that
//! is missing as a whole shows only here. Where the gateway itself has recorded a break, the files cannot join: the
//! number of records that are missing there is told.

use super::key::PublicKey;
use super::seal::parse_head;
use super::verify::{VerifyFailure, VerifySummary, failure, verify};
use crate::observe::file::beside;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A gateway that rotates meanwhile must not look like a broken log.
const ATTEMPTS: u32 = 3;

/// A log whose files are as they were written and follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetSummary {
    /// Oldest first.
    pub files: Vec<(PathBuf, VerifySummary)>,
    /// Records before the first are not here: `keep` has removed them, or somebody has.
    pub older_missing: bool,
    /// Files that begin after an earlier log was found changed and moved aside, and how many records that log held.
    pub breaks: Vec<(PathBuf, u64)>,
}

impl SetSummary {
    pub fn records(&self) -> u64 {
        self.files.iter().map(|(_, summary)| summary.records).sum()
    }
}

/// What is wrong, and in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFailure {
    pub file: PathBuf,
    pub failure: VerifyFailure,
}

impl fmt::Display for SetFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.failure)
    }
}

impl std::error::Error for SetFailure {}

/// Checks `FILE.N` to `FILE.1` and `FILE`, those that are there.
pub fn verify_set(path: &Path, public: &PublicKey) -> Result<SetSummary, SetFailure> {
    let head = || fs::read(beside(path, ".head")).ok();
    for _ in 1..ATTEMPTS {
        let before = head();
        let result = walk(path, public);
        if result.is_ok() || head() == before {
            return result;
        }
    }
    walk(path, public)
}

fn walk(path: &Path, public: &PublicKey) -> Result<SetSummary, SetFailure> {
    let at = |file: &Path| {
        let file = file.to_owned();
        move |failure| SetFailure { file, failure }
    };
    let rotated = rotated_files(path)
        .map_err(|e| at(path)(failure(0, format!("cannot list its folder: {e}"))))?;
    let mut set = SetSummary::default();
    for file in &rotated {
        let summary = verify(file, public).map_err(at(file))?;
        // Only a head can prove the end of a file that does not hand over, and rotated files have none.
        set.join(file, summary).map_err(at(file))?;
    }
    if path.exists() || !ends_by_head(path, public, &set) {
        let summary = verify(path, public).map_err(at(path))?;
        set.join(path, summary).map_err(at(path))?;
        if summary.ends_rotated && !summary.sealed_by_head {
            let reason =
                "it hands over to a newer file, which is not here: the end of the log was removed";
            return Err(at(path)(failure(summary.records, reason)));
        }
    }
    Ok(set)
}

/// Whether the newest rotated file is the end of the log: the gateway stopped before it began the next.
fn ends_by_head(path: &Path, public: &PublicKey, set: &SetSummary) -> bool {
    let head = fs::read(beside(path, ".head")).unwrap_or_default();
    let newest = set.files.last().map(|(_, summary)| summary.last);
    parse_head(&head, public).is_ok_and(|head| head.rotated && Some(head.link) == newest)
}

impl SetSummary {
    fn join(&mut self, file: &Path, next: VerifySummary) -> Result<(), VerifyFailure> {
        let last = self.files.last().map(|(_, summary)| summary.last);
        let due_seq = last.map_or(0, |link| link.seq + 1);
        if next.begins_after_break {
            let lost = next.first_seq.saturating_sub(due_seq);
            self.breaks.push((file.to_owned(), lost));
        } else if last.is_none() {
            self.older_missing = next.first_seq > 0;
        } else if next.first_seq > due_seq {
            let reason = format!(
                "it begins with record {}, and the file before it ends with record {}: the files between were removed",
                next.first_seq,
                due_seq - 1
            );
            return Err(failure(1, reason));
        } else if next.first_seq < due_seq || last.map(|link| link.hash) != Some(next.first_prev) {
            return Err(failure(1, "it does not follow the file before it"));
        }
        self.files.push((file.to_owned(), next));
        Ok(())
    }
}

/// Oldest first.
fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let other = entry?.file_name();
        let other = other.to_string_lossy();
        let number = other
            .strip_prefix(&*name)
            .and_then(|rest| rest.strip_prefix('.'))
            .filter(|digits| !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u64>().ok());
        found.extend(number);
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found
        .into_iter()
        .map(|n| beside(path, &format!(".{n}")))
        .collect())
}
