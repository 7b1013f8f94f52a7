//! The chain on disk: appends batches, rotates with a sealed hand-over, continues after a restart.

use super::event::AuditEvent;
use super::key::AuditKey;
use super::resume::{find, move_aside};
use super::seal::{Head, Link, write_head, write_record};
use crate::clock::Now;
use crate::observe::file::{Rotation, beside, is_at, make_room, open_private, replace, shift};
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
    /// Of whole batches. What a failed write has left behind it goes before the next one.
    size: u64,
    is_torn: bool,
    rotation: Rotation,
    /// The head says how far the log has come. If it cannot be written the log goes on, and a cut would not show.
    head_failing: bool,
    last: Option<Link>,
    /// The file begins with this, and it is not written yet.
    opening: Option<Opening>,
    stamp: Stamp,
    buffer: Vec<u8>,
}

/// How a file begins.
pub(super) enum Opening {
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
        let found = find(&place, &key, now)?;
        let file = open_private(&place.path)?;
        let size = file.metadata()?.len();
        let mut chain = Chain {
            rotation: Rotation::at(place.bytes_max),
            place,
            key,
            file,
            size,
            is_torn: false,
            head_failing: false,
            last: found.last,
            opening: found.opening,
            stamp: Stamp::default(),
            buffer: Vec::new(),
        };
        chain.settle(now)?;
        if found.torn_bytes > 0 {
            chain.recover(found.torn_bytes, now)?;
        }
        Ok(chain)
    }

    /// Puts on record that a crash tore the last write.
    fn recover(&mut self, torn_bytes: u64, now: Now) -> io::Result<()> {
        tracing::warn!(torn_bytes, "audit.recovered: a crash tore the last write");
        let before = self.last;
        self.buffer.clear();
        let members = |record: &mut Object<'_>| record.number("torn_bytes", torn_bytes);
        self.add("recovered", now, members, false);
        self.add("checkpoint", now, |_| {}, true);
        self.commit(before, false)
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
        if self.rotation.is_due(self.size) {
            self.rotate(last_time);
        }
        Ok(())
    }

    /// The batch is safe already. Once the file is sealed nothing may follow in it, so whatever can fail is tried
    /// before; if it does, the log goes on in this file.
    fn rotate(&mut self, now: Now) {
        let ready = if self.head_failing {
            Err(io::Error::other("its head file cannot be written"))
        } else {
            make_room(&self.place.path, self.place.keep)
        };
        if let Err(e) = ready {
            return self.rotation.failed(self.size, &self.place.path, &e);
        }
        // The next batch finishes a hand-over that fails midway, or fails by it.
        let handed_over = self.seal_file(now).and_then(|()| self.begin_file(now));
        if let Err(e) = handed_over {
            tracing::error!(error = %e, "audit.rotate");
        }
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
            self.is_torn = false;
            self.rotation.done();
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
        let written = self.write();
        if written.is_err() {
            self.last = before;
            return written;
        }
        let Some(link) = self.last else {
            return Ok(());
        };
        let head = Head {
            link,
            rotated,
            log_bytes: self.size,
        };
        let head = write_head(head, &self.key);
        let sealed = replace(&beside(&self.place.path, ".head"), &head);
        let failing = std::mem::replace(&mut self.head_failing, sealed.is_err());
        match sealed {
            Err(e) if rotated => Err(e),
            Err(e) => {
                if !failing {
                    tracing::error!(error = %e, "audit.head: records are written, but a cut would not show");
                }
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.size)?;
            self.is_torn = false;
        }
        let written = self
            .file
            .write_all(&self.buffer)
            .and_then(|()| self.file.sync_data());
        match &written {
            Ok(()) => self.size += self.buffer.len() as u64,
            Err(_) => self.is_torn = self.file.set_len(self.size).is_err(),
        }
        written
    }
}
