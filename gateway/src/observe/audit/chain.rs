//! The chain on disk: appends batches, rotates with a sealed hand-over, continues after a restart.

use super::event::AuditEvent;
use super::key::AuditKey;
use super::seal::{Head, Link, parse_head, write_head, write_record};
use super::verify::{VerifyFailure, verify};
use crate::clock::Now;
use crate::observe::file::{beside, is_at, open_private, replace, shift};
use crate::observe::json::Object;
use crate::observe::stamp::Stamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

/// Where the audit log goes: its head stands beside as `FILE.head`.
pub use crate::observe::file::LogPlace as AuditPlace;

pub(super) struct Chain {
    place: AuditPlace,
    key: AuditKey,
    file: File,
    size: u64,
    last: Option<Link>,
    stamp: Stamp,
    buffer: Vec<u8>,
}

impl Chain {
    /// Continues what is at `place`.
    pub(super) fn open(place: AuditPlace, key: AuditKey, now: Now) -> io::Result<Chain> {
        let found = find(&place, &key, now)?;
        let file = open_private(&place.path)?;
        let size = file.metadata()?.len();
        let mut chain = Chain {
            place,
            key,
            file,
            size,
            last: found.last(),
            stamp: Stamp::default(),
            buffer: Vec::new(),
        };
        match found {
            Found::Whole(_) => {}
            Found::Nothing => chain.write_opener("chain-start", now, |_| {})?,
            Found::HandedOver(_) => chain.write_opener("continued", now, |_| {})?,
            Found::Broken {
                reason, moved_to, ..
            } => {
                tracing::error!(%reason, %moved_to, "audit.chain_broken: the audit log was changed or cut while the gateway was down");
                chain.write_opener("chain-broken", now, |record| {
                    record.text("reason", &reason, 512);
                    record.text("moved_to", &moved_to, 512);
                })?;
            }
        }
        Ok(chain)
    }

    /// Appends a batch under one signature.
    pub(super) fn record(&mut self, batch: &[(Now, AuditEvent)]) -> io::Result<()> {
        let Some((last_time, _)) = batch.last() else {
            return Ok(());
        };
        let last_time = *last_time;
        // Two stats per batch: a file taken away is noticed at once, not at the next signal.
        self.reopen(last_time)?;
        let before = self.last;
        self.buffer.clear();
        for (now, event) in batch {
            self.add(event.name(), *now, |record| event.write(record), false);
        }
        self.add("checkpoint", last_time, |_| {}, true);
        self.commit(before, false)?;
        if self.size > self.place.bytes_max {
            self.rotate(last_time, true)?;
        }
        Ok(())
    }

    /// If somebody moved the file away: seals it and goes on in a new one at the old place.
    pub(super) fn reopen(&mut self, now: Now) -> io::Result<()> {
        if is_at(&self.file, &self.place.path) {
            return Ok(());
        }
        if self.file.metadata()?.nlink() > 0 {
            return self.rotate(now, false);
        }
        tracing::error!("audit.chain_broken: the audit log was deleted while in use");
        self.file = open_private(&self.place.path)?;
        self.size = self.file.metadata()?.len();
        self.write_opener("chain-broken", now, |record| {
            record.text("reason", "the log was deleted while in use", 512);
        })
    }

    pub(super) fn stop(&mut self, now: Now) -> io::Result<()> {
        let before = self.last;
        self.buffer.clear();
        self.add("stopped", now, |_| {}, true);
        self.commit(before, false)
    }

    fn rotate(&mut self, now: Now, shift_files: bool) -> io::Result<()> {
        let before = self.last;
        self.buffer.clear();
        let next = self.file_name();
        self.add(
            "rotated",
            now,
            |record| record.text("next", &next, 512),
            true,
        );
        // The head says "rotated" before the file moves: a crash in between is told from a deleted file.
        self.commit(before, true)?;
        if shift_files {
            shift(&self.place.path, self.place.keep)?;
        }
        self.file = open_private(&self.place.path)?;
        self.size = self.file.metadata()?.len();
        self.write_opener("continued", now, |_| {})
    }

    /// The first record of a file, and a checkpoint that signs it.
    fn write_opener(
        &mut self,
        event: &str,
        now: Now,
        members: impl FnOnce(&mut Object<'_>),
    ) -> io::Result<()> {
        let before = self.last;
        self.buffer.clear();
        self.add(event, now, members, false);
        self.add("checkpoint", now, |_| {}, true);
        self.commit(before, false)
    }

    fn add(&mut self, event: &str, now: Now, members: impl FnOnce(&mut Object<'_>), signed: bool) {
        let key = signed.then_some(&self.key);
        let link = write_record(
            &mut self.buffer,
            &mut self.stamp,
            now.wall_ns,
            self.last,
            event,
            members,
            key,
        );
        self.last = Some(link);
    }

    /// Writes the buffer and then the head. A failed write is taken back as a whole, so the chain stays whole.
    fn commit(&mut self, before: Option<Link>, rotated: bool) -> io::Result<()> {
        let written = self
            .file
            .write_all(&self.buffer)
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            self.last = before;
            self.file.set_len(self.size)?;
            return Err(e);
        }
        self.size += self.buffer.len() as u64;
        let Some(link) = self.last else {
            return Ok(());
        };
        replace(
            &beside(&self.place.path, ".head"),
            &write_head(Head { link, rotated }, &self.key),
        )
    }

    fn file_name(&self) -> String {
        let name = self.place.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// What stands at the log's place on start.
enum Found {
    Nothing,
    Whole(Link),
    /// The last file was sealed as rotated, and the crash came before the next one began.
    HandedOver(Link),
    Broken {
        last: Option<Link>,
        reason: String,
        moved_to: String,
    },
}

impl Found {
    fn last(&self) -> Option<Link> {
        match self {
            Found::Nothing => None,
            Found::Whole(link) | Found::HandedOver(link) => Some(*link),
            Found::Broken { last, .. } => *last,
        }
    }
}

fn find(place: &AuditPlace, key: &AuditKey, now: Now) -> io::Result<Found> {
    let head_path = beside(&place.path, ".head");
    let head = match fs::read(&head_path) {
        Ok(bytes) => Some(parse_head(&bytes, &key.public())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let size = match fs::symlink_metadata(&place.path) {
        Ok(meta) => Some(meta.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let sealed = head.as_ref().and_then(|h| h.as_ref().ok()).copied();
    let reason = match (size, head) {
        (None | Some(0), None) => return Ok(Found::Nothing),
        (None | Some(0), Some(Ok(head))) if head.rotated => {
            return Ok(Found::HandedOver(head.link));
        }
        (None | Some(0), Some(_)) => "the log is gone, its head file is not".to_owned(),
        (Some(_), _) => match verify(&place.path, &key.public()) {
            // Sealed by a head, not by `rotated`: a live log. A rotated one here never got its successor.
            Ok(summary) if summary.sealed_by_head && !summary.ends_rotated => {
                return Ok(Found::Whole(summary.last));
            }
            Ok(summary) if summary.sealed_by_head => {
                shift(&place.path, place.keep)?;
                return Ok(Found::HandedOver(summary.last));
            }
            Ok(_) => "the head file is gone".to_owned(),
            Err(VerifyFailure { line, reason }) => format!("line {line}: {reason}"),
        },
    };
    let moved_to = beside(&place.path, &format!(".broken-{}", now.wall_secs()));
    if size.is_some() {
        fs::rename(&place.path, &moved_to)?;
    }
    Ok(Found::Broken {
        last: sealed.map(|h| h.link),
        reason,
        moved_to: moved_to.to_string_lossy().into_owned(),
    })
}
