//! The fork: a process with one thread becomes two, joined by a socket pair.
#![allow(
    unsafe_code,
    reason = "std can start programs but not fork, and the worker needs the filter's and sockets' descriptors as they are"
)]

use super::channel::{FrameError, Frames, TO_WARDEN_BYTES_MAX, ToWarden, ToWorker};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A worker that has not taken a whole message by then hangs; the message is lost, the warden does not hang with it.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
const SEND_PART_BYTES: usize = 32 << 10;

/// The warden's view of a running worker.
pub struct Worker {
    pub pid: Pid,
    pub started: Instant,
    pub channel: UnixStream,
    /// It has said that it serves.
    pub ready: bool,
    /// Nothing more is read from it or told to it.
    pub closed: bool,
    /// When to end it, if it has not ended by itself.
    pub kill_at: Option<Instant>,
    /// It asks too much: until then its channel is not looked at.
    pub deaf_until: Option<Instant>,
    frames: Frames,
}

/// Which of the two processes this is, after the fork.
pub enum Role {
    Warden(Worker),
    Worker { channel: UnixStream, warden: Pid },
}

/// Must be called while the process has one thread.
pub fn split() -> io::Result<Role> {
    let (ours, theirs) = UnixStream::pair()?;
    let warden = getpid();
    // SAFETY: the warden has one thread, so no lock is held by another one and the child may go on as any process.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Role::Warden(Worker {
            pid: child,
            started: Instant::now(),
            channel: ours,
            ready: false,
            closed: false,
            kill_at: None,
            deaf_until: None,
            frames: Frames::new(TO_WARDEN_BYTES_MAX),
        })),
        ForkResult::Child => {
            drop(ours);
            if let Err(error) = worker_signals() {
                tracing::error!(%error, "worker: signals");
                // An error given back would make this process a second warden.
                std::process::exit(1);
            }
            Ok(Role::Worker {
                channel: theirs,
                warden,
            })
        }
    }
}

/// A terminal sends ctrl-C and hang-up to both processes: the warden answers them for both.
fn worker_signals() -> io::Result<()> {
    for ignored in [Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: ignoring a signal runs no code of ours in a handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

impl Worker {
    /// Whether its channel belongs into the poll set.
    pub fn is_heard(&self, now: Instant) -> bool {
        !self.closed && self.deaf_until.is_none_or(|until| until <= now)
    }

    /// Waits until the worker has taken all of it, at most [`SEND_TIMEOUT`].
    pub fn send(&mut self, message: &ToWorker) -> io::Result<()> {
        self.send_by(&message.encode(), Instant::now() + SEND_TIMEOUT)
    }

    fn send_by(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Of the whole message's time, what is left: a worker that takes it byte by byte gains nothing.
            self.channel.set_write_timeout(Some(left))?;
            // In parts: within one call the kernel would start the time anew for each buffer.
            match self
                .channel
                .write(&bytes[..bytes.len().min(SEND_PART_BYTES)])
            {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// One read's worth of messages; call when the channel is readable. `Ok(None)`: the worker closed it.
    pub fn receive(&mut self) -> io::Result<Option<Vec<ToWarden>>> {
        let mut part = [0; 16 << 10];
        let n = self.channel.read(&mut part)?;
        if n == 0 {
            return Ok(None);
        }
        self.frames.feed(&part[..n]);
        let mut messages = Vec::new();
        let next = |frames: &mut Frames| -> Result<Option<ToWarden>, FrameError> {
            frames.next(ToWarden::decode)
        };
        while let Some(message) = next(&mut self.frames).map_err(io::Error::other)? {
            messages.push(message);
        }
        Ok(Some(messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};

    #[test]
    fn the_two_processes_talk() {
        match split().unwrap() {
            Role::Worker { mut channel, .. } => {
                let sent = channel.write_all(&ToWarden::Ready.encode()).is_ok();
                let mut part = [0; 5];
                let got = channel.read_exact(&mut part).is_ok();
                let code = i32::from(!(sent && got && part == ToWorker::Drain.encode()[..]));
                // SAFETY: `_exit` has no precondition; the test harness of the parent must not run on here.
                unsafe { libc::_exit(code) }
            }
            Role::Warden(mut worker) => {
                worker.send(&ToWorker::Drain).unwrap();
                let messages = worker.receive().unwrap();
                assert_eq!(messages, Some(vec![ToWarden::Ready]));
                assert_eq!(worker.receive().unwrap(), None);
                let status = waitpid(worker.pid, None).unwrap();
                assert_eq!(status, WaitStatus::Exited(worker.pid, 0));
            }
        }
    }

    #[test]
    fn a_message_has_one_deadline_however_slowly_it_is_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut worker = Worker {
            pid: getpid(),
            started: Instant::now(),
            channel: ours,
            ready: false,
            closed: false,
            kill_at: None,
            deaf_until: None,
            frames: Frames::new(TO_WARDEN_BYTES_MAX),
        };
        let dripping = std::thread::spawn(move || {
            // A little at a time, until the other end gives up and closes.
            let mut part = [0; 1024];
            while theirs.read(&mut part).is_ok_and(|n| n > 0) {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let begun = Instant::now();
        let result = worker.send_by(&vec![0; 64 << 20], begun + Duration::from_millis(200));
        assert!(result.is_err());
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        worker.channel.shutdown(std::net::Shutdown::Both).unwrap();
        dripping.join().unwrap();
    }
}
