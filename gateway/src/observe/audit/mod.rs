//! The audit log: what was refused, banned, changed and by whom, in a file that shows when somebody edits it.
//!
//! Each line is a JSON record that carries the hash of the one before; each batch ends in a checkpoint signed with
//! Ed25519, and `FILE.head` seals how far the log has come, so a cut tail shows too. What this cannot show: somebody
//! who holds the key, or who restores an old `FILE.head` together with the old log. Ship the log elsewhere for that.
//!
//! Every refusal is accounted for exactly once: by a record of its own; in the count of a `refusals-suppressed` (when
//! there are more in one second than `flood` lets through singly, with source and rule); or in the count of an
//! `events-dropped` (when the queue was full or the disk failed).

mod chain;
pub mod event;
mod flood;
pub mod key;
mod resume;
mod seal;
mod set;
pub mod verify;

pub use chain::AuditPlace;
pub use event::AuditEvent;
pub use key::{AuditKey, ensure_key, ensure_public};
pub use set::{SetFailure, SetSummary, verify_set};
pub use verify::{VerifyFailure, VerifySummary, verify};

use crate::clock::Now;
use chain::Chain;
use flood::Flood;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Events that may wait for the disk.
const QUEUE_EVENTS: usize = 8192;
/// Of those, at most so many of the kinds that a client can cause at will: a flood of refusals must not crowd out the
/// record of what an administrator did meanwhile.
const QUEUE_BULK: u64 = QUEUE_EVENTS as u64 * 3 / 4;
/// Events under one signature.
const BATCH_EVENTS: usize = 4096;
/// How long a batch gathers: a flood costs some 20 signatures a second, however large it is.
const GATHER: Duration = Duration::from_millis(50);
const IDLE_WAKE: Duration = Duration::from_millis(250);

enum Message {
    /// When it happened, and what.
    Event(Now, AuditEvent),
    Wake,
}

#[derive(Default, Debug)]
struct Shared {
    dropped: AtomicU64,
    /// Of those, not yet recorded in the log itself.
    dropped_unrecorded: AtomicU64,
    records: AtomicU64,
    /// Events of the kinds bounded by [`QUEUE_BULK`] that are queued now.
    bulk: AtomicU64,
    reopen: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn drop_events(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.dropped_unrecorded.fetch_add(count, Ordering::Relaxed);
    }
}

/// Where events go in. Any thread may hold one; never blocks.
#[derive(Clone)]
pub struct AuditSink {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl AuditSink {
    pub fn emit(&self, event: AuditEvent) {
        self.emit_at(Now::read(), event);
    }

    /// For callers that have read the clock already.
    pub fn emit_at(&self, now: Now, event: AuditEvent) {
        let bulk = event.is_bulk();
        if bulk && self.shared.bulk.fetch_add(1, Ordering::Relaxed) >= QUEUE_BULK {
            self.shared.bulk.fetch_sub(1, Ordering::Relaxed);
            return self.shared.drop_events(1);
        }
        if self.queue.try_send(Message::Event(now, event)).is_err() {
            if bulk {
                self.shared.bulk.fetch_sub(1, Ordering::Relaxed);
            }
            self.shared.drop_events(1);
        }
    }

    /// Events lost because the queue was full or the disk failed. The log itself records them as `events-dropped`.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    pub fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }
}

/// The running thread, held by the control side.
pub struct AuditLog {
    sink: AuditSink,
    thread: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Continues the log at `place` (a broken one is moved aside and the break recorded) and starts the thread.
    /// Call after the process has become what it stays.
    /// `refusals_per_second`: of one source by one rule, beyond which they are counted; 0 records every one.
    pub fn start(
        place: AuditPlace,
        key: AuditKey,
        refusals_per_second: u64,
    ) -> io::Result<AuditLog> {
        let chain = Chain::open(place, key, Now::read())?;
        let (queue, events) = sync_channel(QUEUE_EVENTS);
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("audit-log".into())
            .spawn({
                let shared = shared.clone();
                move || {
                    Recorder {
                        chain,
                        flood: Flood::new(refusals_per_second),
                        shared,
                        failing: false,
                    }
                    .run(&events)
                }
            })?;
        Ok(AuditLog {
            sink: AuditSink { queue, shared },
            thread: Some(thread),
        })
    }

    pub fn sink(&self) -> AuditSink {
        self.sink.clone()
    }

    /// Looks whether the file was moved away (SIGHUP); if so, seals the old one and goes on in a new one.
    pub fn reopen(&self) {
        self.sink.shared.reopen.store(true, Ordering::Release);
        let _ = self.sink.queue.try_send(Message::Wake);
    }

    /// Writes what is queued, seals the log with `stopped` and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.sink.shared.stop.store(true, Ordering::Release);
        let _ = self.sink.queue.try_send(Message::Wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread's own state.
struct Recorder {
    chain: Chain,
    flood: Flood,
    shared: Arc<Shared>,
    failing: bool,
}

impl Recorder {
    fn run(mut self, events: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(64);
        loop {
            match events.recv_timeout(IDLE_WAKE) {
                Ok(Message::Event(now, event)) => {
                    self.take(now, event, &mut batch);
                    self.gather(events, &mut batch);
                }
                Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.flood.end_second(Now::read(), &mut batch);
            self.record(&mut batch);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                let result = self.chain.settle(Now::read());
                self.note(result);
            }
            if self.shared.stop.load(Ordering::Acquire) {
                break;
            }
        }
        while let Ok(message) = events.try_recv() {
            if let Message::Event(now, event) = message {
                self.take(now, event, &mut batch);
            }
        }
        self.flood.end(Now::read(), &mut batch);
        self.record(&mut batch);
        let result = self.chain.stop(Now::read());
        self.note(result);
    }

    fn take(&mut self, now: Now, event: AuditEvent, batch: &mut Vec<(Now, AuditEvent)>) {
        if event.is_bulk() {
            self.shared.bulk.fetch_sub(1, Ordering::Relaxed);
        }
        // By the time it arrives here: an exchange's own time is when it began.
        let arrived = Now::read();
        self.flood.end_second(arrived, batch);
        if self.flood.admits(&event, arrived) {
            batch.push((now, event));
        }
    }

    /// Fills the batch for a moment, so that a flood shares one signature.
    fn gather(&mut self, events: &Receiver<Message>, batch: &mut Vec<(Now, AuditEvent)>) {
        let end = Instant::now() + GATHER;
        while batch.len() < BATCH_EVENTS && !self.shared.stop.load(Ordering::Acquire) {
            let left = end.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(Message::Event(now, event)) => self.take(now, event, batch),
                Ok(Message::Wake) | Err(_) => return,
            }
        }
    }

    fn record(&mut self, batch: &mut Vec<(Now, AuditEvent)>) {
        let lost = self.shared.dropped_unrecorded.swap(0, Ordering::Relaxed);
        if lost > 0 {
            batch.push((Now::read(), AuditEvent::EventsDropped { count: lost }));
        }
        if batch.is_empty() {
            return;
        }
        let result = self.chain.record(batch);
        if result.is_ok() {
            let records = batch.len() as u64;
            self.shared.records.fetch_add(records, Ordering::Relaxed);
        } else {
            // What was lost before is lost still, and not recorded.
            self.shared
                .dropped_unrecorded
                .fetch_add(lost, Ordering::Relaxed);
            let count = batch.iter().map(|(_, event)| event.stands_for()).sum();
            self.shared.drop_events(count);
        }
        self.note(result);
        batch.clear();
    }

    /// Once per outage.
    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failing = false,
            Err(e) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(error = %e, "audit.write: audit records are being lost");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
