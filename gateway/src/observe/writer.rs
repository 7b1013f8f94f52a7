//! The log thread: cores hand over batches of whole lines through a bounded queue and never wait; only this thread
//! touches the file.

use super::file::{LogFile, LogPlace};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A core hands its lines over when it holds more than this, or at its tick.
pub const BATCH_BYTES: usize = 32 * 1024;
/// Batches that may wait for the disk, over all cores: at most about 8 MiB.
const QUEUE_BATCHES: usize = 256;
/// Empty buffers on their way back to one core.
const RETURNED_BATCHES: usize = 8;
/// How long a request to reopen or stop may go unnoticed when the queue is too full to take a wake-up.
const IDLE_WAKE: Duration = Duration::from_millis(250);

enum Message {
    Batch {
        lines: Vec<u8>,
        home: SyncSender<Vec<u8>>,
    },
    /// Look at the flags.
    Wake,
}

#[derive(Default, Debug)]
struct Shared {
    dropped_lines: AtomicU64,
    written_bytes: AtomicU64,
    reopen: AtomicBool,
    stop: AtomicBool,
}

/// The running thread, held by the control side.
pub struct LogWriter {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Opens the file and starts the thread. Call after the process has become what it stays: threads do not
    /// survive a fork.
    pub fn start(place: LogPlace) -> io::Result<LogWriter> {
        let file = LogFile::open(place)?;
        let (queue, batches) = sync_channel(QUEUE_BATCHES);
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let shared = shared.clone();
                move || run(file, &batches, &shared)
            })?;
        Ok(LogWriter {
            queue,
            shared,
            thread: Some(thread),
        })
    }

    /// The side of one core.
    pub fn core(&self) -> CoreLog {
        let (home, returned) = sync_channel(RETURNED_BATCHES);
        CoreLog {
            batch: Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8),
            lines: 0,
            queue: self.queue.clone(),
            home,
            returned,
            shared: self.shared.clone(),
        }
    }

    /// Closes and opens the file again (SIGHUP), after what is queued now.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Lines lost because the queue was full or the disk failed.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.dropped_lines.load(Ordering::Relaxed)
    }

    pub fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the thread. Cores flush before this.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.queue.try_send(Message::Wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end();
    }
}

/// One core's batch. Belongs to one thread; never blocks, never touches a file.
pub struct CoreLog {
    batch: Vec<u8>,
    lines: u64,
    queue: SyncSender<Message>,
    home: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
}

impl CoreLog {
    /// Lets `write` append exactly one line.
    pub fn line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.batch);
        self.lines += 1;
        if self.batch.len() > BATCH_BYTES {
            self.flush();
        }
    }

    /// To be called about every 100 ms, so that quiet cores are seen too.
    pub fn tick(&mut self) {
        if !self.batch.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let next = self.returned.try_recv().unwrap_or_default();
        let lines = std::mem::replace(&mut self.batch, next);
        let message = Message::Batch {
            lines,
            home: self.home.clone(),
        };
        match self.queue.try_send(message) {
            Ok(()) => {}
            Err(refused) => {
                self.shared
                    .dropped_lines
                    .fetch_add(self.lines, Ordering::Relaxed);
                if let TrySendError::Full(Message::Batch { lines, .. })
                | TrySendError::Disconnected(Message::Batch { lines, .. }) = refused
                {
                    self.batch = lines;
                    self.batch.clear();
                }
            }
        }
        self.lines = 0;
    }
}

impl Drop for CoreLog {
    fn drop(&mut self) {
        self.tick();
    }
}

fn run(mut file: LogFile, queue: &Receiver<Message>, shared: &Shared) {
    let mut failing = false;
    loop {
        match queue.recv_timeout(IDLE_WAKE) {
            Ok(Message::Batch { mut lines, home }) => {
                write(&mut file, &lines, shared, &mut failing);
                lines.clear();
                let _ = home.try_send(lines);
            }
            Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {
                if shared.stop.load(Ordering::Acquire) {
                    drain(&mut file, queue, shared, &mut failing);
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        reopen_if_asked(&mut file, shared);
    }
}

fn drain(file: &mut LogFile, queue: &Receiver<Message>, shared: &Shared, failing: &mut bool) {
    while let Ok(message) = queue.try_recv() {
        if let Message::Batch { lines, .. } = message {
            write(file, &lines, shared, failing);
        }
    }
}

fn reopen_if_asked(file: &mut LogFile, shared: &Shared) {
    if shared.reopen.swap(false, Ordering::AcqRel)
        && let Err(e) = file.reopen()
    {
        tracing::error!(error = %e, "log.reopen: the access log stays in its old file");
    }
}

fn write(file: &mut LogFile, lines: &[u8], shared: &Shared, failing: &mut bool) {
    match file.append(lines) {
        Ok(()) => {
            shared
                .written_bytes
                .fetch_add(lines.len() as u64, Ordering::Relaxed);
            *failing = false;
        }
        Err(e) => {
            let lost = memchr::memchr_iter(b'\n', lines).count() as u64;
            shared.dropped_lines.fetch_add(lost, Ordering::Relaxed);
            // Once per outage: a full disk would otherwise fill the journal as well.
            if !std::mem::replace(failing, true) {
                tracing::error!(error = %e, "log.write: access records are being lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    fn start(dir: &std::path::Path) -> LogWriter {
        LogWriter::start(LogPlace {
            path: dir.join("access.jsonl"),
            bytes_max: 1 << 20,
            keep: 2,
        })
        .unwrap()
    }

    fn until(what: &str, mut ready: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !ready() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn lines_of_all_cores_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let writer = start(dir.path());
        let threads: Vec<_> = (0..3)
            .map(|core| {
                let mut log = writer.core();
                std::thread::spawn(move || {
                    for n in 0..1000 {
                        log.line(|out| out.extend_from_slice(format!("{core} {n}\n").as_bytes()));
                        if n % 100 == 0 {
                            log.tick();
                        }
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        writer.stop();
        let text = fs::read_to_string(dir.path().join("access.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 3000);
        for core in 0..3 {
            let own: Vec<_> = text
                .lines()
                .filter(|l| l.starts_with(&format!("{core} ")))
                .collect();
            assert!(
                own.iter()
                    .enumerate()
                    .all(|(n, l)| *l == format!("{core} {n}"))
            );
        }
    }

    #[test]
    fn a_full_queue_costs_lines_not_time() {
        let (queue, kept) = sync_channel(1);
        let (home, returned) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let mut log = CoreLog {
            batch: Vec::new(),
            lines: 0,
            queue,
            home,
            returned,
            shared: shared.clone(),
        };
        for _ in 0..3 {
            log.line(|out| out.extend_from_slice(b"a\n"));
            log.line(|out| out.extend_from_slice(b"b\n"));
            log.tick();
        }
        assert_eq!(shared.dropped_lines.load(Ordering::Relaxed), 4);
        drop(kept);
    }

    #[test]
    fn reopens_after_the_file_was_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.jsonl"), dir.path().join("moved"));
        let writer = start(dir.path());
        let mut log = writer.core();
        log.line(|out| out.extend_from_slice(b"before\n"));
        log.tick();
        until("written", || writer.written_bytes() == 7);
        fs::rename(&path, &moved).unwrap();
        writer.reopen();
        until("reopened", || path.exists());
        log.line(|out| out.extend_from_slice(b"after\n"));
        drop(log);
        writer.stop();
        assert_eq!(fs::read_to_string(moved).unwrap(), "before\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "after\n");
    }
}
