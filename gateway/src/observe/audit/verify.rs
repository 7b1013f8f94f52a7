//! The offline check of an audit log: finds edited, removed, reordered, inserted and cut records.

use super::key::PublicKey;
use super::seal::{Hash, Head, Link, NOTHING, Parsed, parse_head, parse_record};
use crate::observe::file::beside;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// No record of ours is longer.
pub(super) const LINE_BYTES_MAX: u64 = 64 << 10;

/// A log that is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifySummary {
    pub records: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// The tail is proven by `FILE.head`; otherwise by the file's own signed `rotated` record.
    pub sealed_by_head: bool,
    /// The file is complete and has a successor.
    pub ends_rotated: bool,
    /// It starts with a `chain-broken` record: an earlier log was found changed, and moved aside.
    pub begins_after_break: bool,
    pub(super) first_prev: Hash,
    pub(super) last: Link,
}

/// The first line that is not as it was written; 0 for the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyFailure {
    pub line: u64,
    pub reason: String,
}

impl fmt::Display for VerifyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.reason),
            line => write!(f, "line {line}: {}", self.reason),
        }
    }
}

impl std::error::Error for VerifyFailure {}

pub(super) fn failure(line: u64, reason: impl Into<String>) -> VerifyFailure {
    VerifyFailure {
        line,
        reason: reason.into(),
    }
}

/// Checks the log at `path` and the head file beside it. Reads line by line, in bounded memory.
pub fn verify(path: &Path, public: &PublicKey) -> Result<VerifySummary, VerifyFailure> {
    // The hashes chain every record to the last one, so its signature proves them all. Only a log that fails is worth
    // the price of each signature in it: they tell the first line that is wrong.
    walk(path, public, Signatures::Last).or_else(|_| walk(path, public, Signatures::Every))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signatures {
    Every,
    Last,
}

fn walk(
    path: &Path,
    public: &PublicKey,
    signatures: Signatures,
) -> Result<VerifySummary, VerifyFailure> {
    let head = match fs::read(beside(path, ".head")) {
        Ok(bytes) => Some(parse_head(&bytes, public).map_err(|e| failure(0, e))?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failure(0, format!("cannot read the head file: {e}"))),
    };
    let file = File::open(path).map_err(|e| failure(0, format!("cannot read the log: {e}")))?;
    let mut lines = BufReader::with_capacity(256 << 10, file);
    let mut walk = Walk {
        public,
        signatures,
        head,
        state: None,
        line: 0,
    };
    let (mut line, mut last) = (Vec::new(), Vec::new());
    loop {
        std::mem::swap(&mut line, &mut last);
        line.clear();
        let read = (&mut lines)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|e| failure(walk.line + 1, format!("cannot read: {e}")))?;
        if read == 0 {
            return walk.finish(last.trim_ascii_end());
        }
        walk.step(&line)?;
    }
}

/// What is known after each line.
struct Walk<'k> {
    public: &'k PublicKey,
    signatures: Signatures,
    head: Option<Head>,
    state: Option<Seen>,
    line: u64,
}

struct Seen {
    first: Link,
    first_prev: Hash,
    last: Parsed,
    begins_after_break: bool,
    /// The record the head names was met (or the head seals the file before this one).
    met_head: bool,
}

impl Walk<'_> {
    fn step(&mut self, line: &[u8]) -> Result<(), VerifyFailure> {
        self.line += 1;
        let line = line
            .strip_suffix(b"\n")
            .ok_or_else(|| failure(self.line, "the line is cut off"))?;
        let public = (self.signatures == Signatures::Every).then_some(self.public);
        let record = parse_record(line, public).map_err(|e| failure(self.line, e))?;
        match &self.state {
            None => opens(&record),
            Some(seen) => follows(&seen.last, &record),
        }
        .map_err(|e| failure(self.line, e))?;
        let met_head = self.meets_head(&record)?;
        match &mut self.state {
            None => {
                self.state = Some(Seen {
                    first: record.link,
                    first_prev: record.prev,
                    begins_after_break: record.event == "chain-broken",
                    last: record,
                    met_head,
                });
            }
            Some(seen) => {
                seen.met_head |= met_head;
                seen.last = record;
            }
        }
        Ok(())
    }

    fn meets_head(&self, record: &Parsed) -> Result<bool, VerifyFailure> {
        let Some(head) = self.head else {
            return Ok(false);
        };
        if head.link.seq == record.link.seq {
            return if head.link.hash == record.link.hash {
                Ok(true)
            } else {
                Err(failure(
                    self.line,
                    "the record is not the one that the head file seals",
                ))
            };
        }
        // The crash came after a rotation and before the new file's first head.
        let opens_behind = self.state.is_none()
            && head.rotated
            && record.event == "continued"
            && record.link.seq == head.link.seq + 1
            && record.prev == head.link.hash;
        Ok(opens_behind)
    }

    fn finish(self, last_line: &[u8]) -> Result<VerifySummary, VerifyFailure> {
        let Some(seen) = self.state else {
            return Err(failure(0, "the log is empty"));
        };
        let sealed = seen.last.signed
            && matches!(
                seen.last.event.as_str(),
                "checkpoint" | "rotated" | "stopped"
            );
        if !sealed {
            return Err(failure(
                self.line,
                "the last records carry no signature: they were added, or the log was cut",
            ));
        }
        parse_record(last_line, Some(self.public)).map_err(|e| failure(self.line, e))?;
        let ends_rotated = seen.last.event == "rotated";
        match self.head {
            Some(head) if !seen.met_head => {
                let reason = format!(
                    "the log ends at record {}, the head file seals record {}: the end was cut off",
                    seen.last.link.seq, head.link.seq
                );
                return Err(failure(self.line, reason));
            }
            None if !ends_rotated => {
                return Err(failure(
                    self.line,
                    "no head file stands beside the log, so its end cannot be proven",
                ));
            }
            _ => {}
        }
        Ok(VerifySummary {
            records: self.line,
            first_seq: seen.first.seq,
            first_prev: seen.first_prev,
            last_seq: seen.last.link.seq,
            sealed_by_head: self.head.is_some(),
            ends_rotated,
            begins_after_break: seen.begins_after_break,
            last: seen.last.link,
        })
    }
}

/// Whether a file may begin with the record.
pub(super) fn opens(record: &Parsed) -> Result<(), String> {
    let plausible = match record.event.as_str() {
        "chain-start" => record.link.seq == 0 && record.prev == NOTHING,
        "continued" | "chain-broken" => true,
        _ => false,
    };
    if plausible {
        return Ok(());
    }
    Err("the file does not begin with an opening record: its beginning was removed".into())
}

/// Whether the record may stand behind `last` in one file.
pub(super) fn follows(last: &Parsed, record: &Parsed) -> Result<(), String> {
    if record.link.seq != last.link.seq + 1 {
        return Err(format!(
            "record {} follows record {}: records were removed, inserted or reordered",
            record.link.seq, last.link.seq
        ));
    }
    if record.prev != last.link.hash {
        return Err("the record does not follow the one before it".into());
    }
    if last.event == "rotated" {
        return Err("records follow the one that closed the file".into());
    }
    if matches!(
        record.event.as_str(),
        "chain-start" | "continued" | "chain-broken"
    ) {
        return Err("an opening record stands inside the file".into());
    }
    Ok(())
}
