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

/// A worker that does not take a message for this long hangs; the message is lost, the warden does not hang with it.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The warden's view of a running worker.
pub struct Worker {
    pub pid: Pid,
    pub started: Instant,
    pub channel: UnixStream,
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
    ours.set_write_timeout(Some(SEND_TIMEOUT))?;
    let warden = getpid();
    // SAFETY: the warden has one thread, so no lock is held by another one and the child may go on as any process.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Role::Warden(Worker {
            pid: child,
            started: Instant::now(),
            channel: ours,
            frames: Frames::new(TO_WARDEN_BYTES_MAX),
        })),
        ForkResult::Child => {
            drop(ours);
            worker_signals()?;
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
    /// Waits until the worker has taken it, at most [`SEND_TIMEOUT`] per part.
    pub fn send(&mut self, message: &ToWorker) -> io::Result<()> {
        self.channel.write_all(&message.encode())
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
}
