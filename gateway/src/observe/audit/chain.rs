//! The chain on disk: appends batches, rotates with a sealed hand-over, continues after a restart.

use super::event::AuditEvent;
use super::key::AuditKey;
use super::seal::{Head, Link, parse_head, write_head, write_record};
use super::verify::verify;
use crate::clock::Now;
use crate::observe::file::{beside, is_at, open_private, replace, shift};
use crate::observe::json::Object;
use crate::observe::stamp::Stamp;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the audit log goes: its head stands beside as `FILE.head`.
pub use crate::observe::file::LogPlace as AuditPlace;

pub(super) struct Chain {
    place: AuditPlace,
    key: AuditKey,
    file: File,
    size: u64,
    last: Option<Link>,
    /// The file begins with this, and it is not written yet.
    opening: Option<Opening>,
    stamp: Stamp,
    buffer: Vec<u8>,
}

/// How a file begins.
enum Opening {
    /// The first file of all.
    Start,
    /// The file before was sealed as rotated.
    Continued,
    /// The file before was found changed.
    Broken { reason: String, moved_to: String },
}

impl Opening {
    fn broken(reason: &str) -> Opening {
        Opening::Broken {
            reason: reason.to_owned(),
            moved_to: String::new(),
        }
    }
}

impl Chain {
    /// Continues what is at `place`.
    pub(super) fn open(place: AuditPlace, key: AuditKey, now: Now) -> io::Result<Chain> {
        let (last, opening) = find(&place, &key, now)?;
        let file = open_private(&place.path)?;
        let size = file.metadata()?.len();
        let mut chain = Chain {
            place,
            key,
            file,
            size,
            last,
            opening,
            stamp: Stamp::default(),
            buffer: Vec::new(),
        };
        chain.settle(now)?;
        Ok(chain)
    }

    /// Appends a batch under one signature.
    pub(super) fn record(&mut self, batch: &[(Now, AuditEvent)]) -> io::Result<()> {
        let Some((last_time, _)) = batch.last() else {
            return Ok(());
        };
        let last_time = *last_time;
        // Two stats per batch: a file taken away is noticed at once, not at the next signal.
        self.settle(last_time)?;
        let before = self.last;
        self.buffer.clear();
        for (now, event) in batch {
            self.add(event.name(), *now, |record| event.write(record), false);
        }
        self.add("checkpoint", last_time, |_| {}, true);
        self.commit(before, false)?;
        if self.size > self.place.bytes_max {
            let handed_over = self
                .seal_file(last_time)
                .and_then(|()| self.begin_file(last_time));
            // The batch is safe. The next one finishes the hand-over, or fails by it.
            if let Err(e) = handed_over {
                tracing::error!(error = %e, "audit.rotate");
            }
        }
        Ok(())
    }

    /// Brings the file to where a record may follow: finishes a hand-over that failed midway, and notices a file that
    /// was moved (sealed, and continued in a new one) or deleted (a break).
    pub(super) fn settle(&mut self, now: Now) -> io::Result<()> {
        if self.opening.is_none() && !is_at(&self.file, &self.place.path) {
            if self.file.metadata()?.nlink() > 0 {
                self.seal_file(now)?;
            } else {
                self.opening = Some(Opening::broken("the log was deleted while in use"));
            }
        }
        if self.opening.is_some() {
            self.begin_file(now)?;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, now: Now) -> io::Result<()> {
        self.settle(now)?;
        let before = self.last;
        self.buffer.clear();
        self.add("stopped", now, |_| {}, true);
        self.commit(before, false)
    }

    /// Closes the present file. The head says "rotated" before the file moves: a crash in between is told from a
    /// deleted file.
    fn seal_file(&mut self, now: Now) -> io::Result<()> {
        let before = self.last;
        self.buffer.clear();
        let next = self.place.path.file_name().unwrap_or_default();
        let next = next.to_string_lossy().into_owned();
        self.add(
            "rotated",
            now,
            |record| record.text("next", &next, 512),
            true,
        );
        let result = self.commit(before, true);
        if self.last != before {
            self.opening = Some(Opening::Continued);
        }
        result
    }

    /// Begins the next file at the log's place, by the record that `opening` asks for and a checkpoint that signs it.
    /// May be called again after a failure at any point of it.
    fn begin_file(&mut self, now: Now) -> io::Result<()> {
        if self.size > 0 && is_at(&self.file, &self.place.path) {
            shift(&self.place.path, self.place.keep)?;
        }
        if !is_at(&self.file, &self.place.path) {
            if fs::symlink_metadata(&self.place.path).is_ok_and(|m| m.len() > 0 || !m.is_file()) {
                let moved_to = move_aside(&self.place.path, now)?;
                let reason = "another file stood at the log's place".to_owned();
                self.opening = Some(Opening::Broken { reason, moved_to });
            }
            self.file = open_private(&self.place.path)?;
            self.size = self.file.metadata()?.len();
        }
        let before = self.last;
        self.buffer.clear();
        let opening = self.opening.take();
        match &opening {
            None => return Ok(()),
            Some(Opening::Start) => self.add("chain-start", now, |_| {}, false),
            Some(Opening::Continued) => self.add("continued", now, |_| {}, false),
            Some(Opening::Broken { reason, moved_to }) => {
                tracing::error!(%reason, %moved_to, "audit.chain_broken");
                let members = |record: &mut Object<'_>| {
                    record.text("reason", reason, 512);
                    record.text("moved_to", moved_to, 512);
                };
                self.add("chain-broken", now, members, false);
            }
        }
        self.add("checkpoint", now, |_| {}, true);
        let result = self.commit(before, false);
        if self.last == before {
            self.opening = opening;
        }
        result
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
}

/// What stands at the log's place on start: the record to follow, and how to begin if a new file is due.
fn find(
    place: &AuditPlace,
    key: &AuditKey,
    now: Now,
) -> io::Result<(Option<Link>, Option<Opening>)> {
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
        None if size == 0 => return Ok((None, Some(Opening::Start))),
        // The crash came after the last file was sealed and before the next one began.
        Some(Ok(head)) if size == 0 && head.rotated => {
            return Ok((Some(head.link), Some(Opening::Continued)));
        }
        Some(_) if size == 0 => "the log is gone, its head file is not".to_owned(),
        _ => match verify(&place.path, &key.public()) {
            Ok(summary) if summary.sealed_by_head => {
                let opening = summary.ends_rotated.then_some(Opening::Continued);
                return Ok((Some(summary.last), opening));
            }
            Ok(_) => "the head file is gone".to_owned(),
            Err(failure) => failure.to_string(),
        },
    };
    let moved_to = if size > 0 {
        move_aside(&place.path, now)?
    } else {
        String::new()
    };
    Ok((
        sealed.map(|h| h.link),
        Some(Opening::Broken { reason, moved_to }),
    ))
}

/// Renames what stands at the log's place and gives its new name. It is evidence, so it is never removed.
fn move_aside(path: &Path, now: Now) -> io::Result<String> {
    let free = (0..1000)
        .map(|n| beside(path, &format!(".broken-{}.{n}", now.wall_secs())))
        .find(|aside| !aside.exists())
        .ok_or_else(|| io::Error::other("too many broken logs stand beside this one"))?;
    fs::rename(path, &free)?;
    Ok(free.to_string_lossy().into_owned())
}
