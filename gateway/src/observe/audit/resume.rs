//! What a start finds at the log's place, and whether it can be continued. Bounded in time: the end of a large log is
//! checked against the signed head, the whole of it by `gateway audit verify`.
//!
//! A crash tears at most the batch that was being written. So what stands behind the last signature is cut off only if
//! it is that and nothing else: whole records that continue the chain and carry no signature, then at most one piece
//! that begins as the next record would. All else was put there by somebody, and is moved aside as evidence.

use super::chain::{AuditPlace, Opening};
use super::key::{AuditKey, PublicKey};
use super::seal::{Head, Link, Parsed, parse_head, parse_record};
use super::verify::{LINE_BYTES_MAX, VerifyFailure, failure, follows, opens};
use crate::clock::Now;
use crate::observe::file::beside;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Checked of the part that the head seals: all of a small log, the end of a large one.
pub(super) const CHECKED_BYTES_MAX: u64 = 16 << 20;

/// How to go on.
#[derive(Default)]
pub(super) struct Found {
    /// The record to follow.
    pub(super) last: Option<Link>,
    /// If a new file is due.
    pub(super) opening: Option<Opening>,
    /// Cut off behind the last signature.
    pub(super) torn_bytes: u64,
}

pub(super) fn find(place: &AuditPlace, key: &AuditKey, now: Now) -> io::Result<Found> {
    let head = match fs::read(beside(&place.path, ".head")) {
        Ok(bytes) => Some(parse_head(&bytes, &key.public())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let size = match fs::symlink_metadata(&place.path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    let sealed = head.as_ref().and_then(|h| h.as_ref().ok()).copied();
    let reason = match head {
        None if size == 0 => {
            return Ok(Found {
                opening: Some(Opening::Start),
                ..Found::default()
            });
        }
        // The crash came after the last file was sealed and before the next one began.
        Some(Ok(head)) if size == 0 && head.rotated => {
            return Ok(Found {
                last: Some(head.link),
                opening: Some(Opening::Continued),
                torn_bytes: 0,
            });
        }
        Some(_) if size == 0 => "the log is gone, its head file is not".to_owned(),
        None => "the head file is gone".to_owned(),
        Some(Err(reason)) => reason.to_owned(),
        Some(Ok(head)) => match check_end(&place.path, &key.public(), head, CHECKED_BYTES_MAX) {
            Ok(end) => return take_up(&place.path, end),
            Err(failure) => failure.to_string(),
        },
    };
    let moved_to = if size > 0 {
        move_aside(&place.path, now)?
    } else {
        String::new()
    };
    Ok(Found {
        last: sealed.map(|h| h.link),
        opening: Some(Opening::Broken { reason, moved_to }),
        torn_bytes: 0,
    })
}

fn take_up(path: &Path, end: End) -> io::Result<Found> {
    if end.torn_bytes > 0 {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(end.good_bytes)?;
        file.sync_all()?;
    }
    Ok(Found {
        last: Some(end.last),
        opening: end.rotated.then_some(Opening::Continued),
        torn_bytes: end.torn_bytes,
    })
}

/// Renames what stands at the log's place and gives its new name. It is evidence, so it is never removed.
pub(super) fn move_aside(path: &Path, now: Now) -> io::Result<String> {
    let free = (0..1000)
        .map(|n| beside(path, &format!(".broken-{}.{n}", now.wall_secs())))
        .find(|aside| !aside.exists())
        .ok_or_else(|| io::Error::other("too many broken logs stand beside this one"))?;
    fs::rename(path, &free)?;
    Ok(free.to_string_lossy().into_owned())
}

/// How a log ends.
#[derive(Debug)]
pub(super) struct End {
    /// The last record under a signature.
    pub(super) last: Link,
    /// It hands over to the next file.
    pub(super) rotated: bool,
    /// Up to and with it.
    pub(super) good_bytes: u64,
    pub(super) torn_bytes: u64,
}

/// Checks that the record which `head` names stands where it says, the records before it back to `checked_max` bytes,
/// and everything behind it.
pub(super) fn check_end(
    path: &Path,
    public: &PublicKey,
    head: Head,
    checked_max: u64,
) -> Result<End, VerifyFailure> {
    let io_failure = |e: io::Error| failure(0, format!("cannot read the log: {e}"));
    let mut file = File::open(path).map_err(io_failure)?;
    // A rotated head may seal the file before this one: then nothing here is sealed yet.
    let sealed_bytes = if head.rotated && !ends_with(&mut file, head).map_err(io_failure)? {
        0
    } else {
        head.log_bytes
    };
    let start = sealed_bytes.saturating_sub(checked_max);
    file.seek(SeekFrom::Start(start.saturating_sub(1)))
        .map_err(io_failure)?;
    let mut check = Check {
        public,
        head,
        sealed_bytes,
        at: start.saturating_sub(1),
        last: None,
        end: End {
            last: head.link,
            rotated: head.rotated,
            good_bytes: 0,
            torn_bytes: 0,
        },
    };
    let mut lines = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    if start > 0 {
        // To the beginning of a line: with the byte before `start` this skips nothing more if one begins there.
        check.at += read_line(&mut lines, &mut line).map_err(io_failure)?;
    }
    while read_line(&mut lines, &mut line).map_err(io_failure)? > 0 {
        check.step(&line)?;
    }
    // Nothing good before a sealed end: that record was not among those read.
    if check.at < sealed_bytes || check.end.good_bytes < sealed_bytes {
        return Err(failure(0, "the end was cut off"));
    }
    check.end.torn_bytes = check.at - check.end.good_bytes;
    Ok(check.end)
}

fn read_line(lines: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let read = lines.take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    Ok(read as u64)
}

/// Whether the file's first `head.log_bytes` end with the record that `head` names.
fn ends_with(file: &mut File, head: Head) -> io::Result<bool> {
    if file.metadata()?.len() < head.log_bytes {
        return Ok(false);
    }
    let start = head.log_bytes.saturating_sub(LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(head.log_bytes - start).read_to_end(&mut bytes)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or_default();
    let line = line.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    Ok(parse_record(line, None).is_ok_and(|record| record.link == head.link))
}

struct Check<'k> {
    public: &'k PublicKey,
    head: Head,
    sealed_bytes: u64,
    /// Read so far.
    at: u64,
    last: Option<Parsed>,
    end: End,
}

impl Check<'_> {
    fn step(&mut self, line: &[u8]) -> Result<(), VerifyFailure> {
        let before = self.at;
        self.at += line.len() as u64;
        let is_sealed = before < self.sealed_bytes;
        let Some(line) = line.strip_suffix(b"\n") else {
            if !is_sealed && self.begins_like_the_next(line) {
                return Ok(());
            }
            return Err(failure(0, "the last line is cut off, and not by a crash"));
        };
        // The head's signature proves what it seals; behind it each record that claims one is asked for it.
        let public = (!is_sealed).then_some(self.public);
        let record = parse_record(line, public).map_err(|e| failure(0, e))?;
        match &self.last {
            Some(last) => follows(last, &record).map_err(|e| failure(0, e))?,
            None if before == 0 => self.check_first(&record)?,
            None => {}
        }
        if self.at == self.sealed_bytes && record.link != self.head.link {
            return Err(failure(
                0,
                "the record is not the one that the head file seals",
            ));
        }
        if self.at > self.sealed_bytes && is_sealed {
            return Err(failure(0, "no record ends where the head file says"));
        }
        if self.at == self.sealed_bytes || (!is_sealed && record.signed) {
            self.end = End {
                last: record.link,
                rotated: record.event == "rotated",
                good_bytes: self.at,
                torn_bytes: 0,
            };
        }
        self.last = Some(record);
        Ok(())
    }

    fn check_first(&self, record: &Parsed) -> Result<(), VerifyFailure> {
        opens(record).map_err(|e| failure(1, e))?;
        let link = self.head.link;
        let joins = record.prev == link.hash && record.link.seq == link.seq + 1;
        if self.sealed_bytes == 0 && !joins {
            return Err(failure(1, "the file does not follow the one before it"));
        }
        Ok(())
    }

    /// A page that was never written reads as zeros after a crash.
    fn begins_like_the_next(&self, piece: &[u8]) -> bool {
        let zeros = piece.iter().rev().take_while(|b| **b == 0).count();
        let piece = &piece[..piece.len() - zeros];
        let last = self.last.as_ref().map_or(self.head.link, |r| r.link);
        let expected = format!("{{\"seq\":{},\"time\":\"", last.seq + 1);
        let compared = piece.len().min(expected.len());
        piece[..compared] == expected.as_bytes()[..compared]
    }
}
