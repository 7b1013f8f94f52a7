//! The warden's life: answer signals, the worker's end and its requests, until told to stop.

use super::allowance::Allowance;
use super::backoff::Backoff;
use super::channel::{ToWarden, ToWorker};
use super::load::{Loaded, load, render};
use super::notify::Notify;
use super::prepare::prepare_logs;
use super::publish::Sent;
use super::sockets::Sockets;
use super::spawn::Worker;
use crate::kernel::Filter;
use crate::privilege::Account;
use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Beyond the drain timeout, for logs to be written and threads to end.
const DRAIN_EXTRA: Duration = Duration::from_secs(5);
/// A supervisor may signal the process and its group at once: only a later signal means impatience.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);
/// For a worker that has closed its channel to write its logs out and end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// A worker that asks too often is not listened to for this long.
const DEAF: Duration = Duration::from_millis(100);

pub(super) struct Warden {
    pub config: PathBuf,
    /// What the worker runs, and what its successor would start with.
    pub good: Loaded,
    /// While no worker has run `good` yet: the one before.
    pub fallback: Option<Loaded>,
    /// Sent to the worker and not answered, oldest first.
    pub sent: VecDeque<Sent>,
    pub sent_count: u64,
    pub account: Option<Account>,
    pub audit_key: Vec<u8>,
    pub filter: Option<Filter>,
    /// Taken when draining starts: whoever holds a listening socket promises to accept.
    pub sockets: Option<Sockets>,
    /// `None` in the worker's process only.
    pub signals: Option<SignalFd>,
    pub notify: Notify,
    pub backoff: Backoff,
    pub reloads: Allowance,
    pub worker: Option<Worker>,
    pub restart_at: Option<Instant>,
    /// Some worker has served; until then a death is a failed start, which trying again does not mend.
    pub served: bool,
    /// Set when told to stop: when patience ends.
    pub stop_at: Option<Instant>,
    pub stop_since: Option<Instant>,
    pub exit: Option<u8>,
}

/// Runs the gateway until it is told to stop; the result is the exit code. Returns in the warden's process only.
pub fn run(config: &Path) -> anyhow::Result<u8> {
    let good = match load(config) {
        Ok(good) => good,
        Err(errors) => bail!(
            "the config does not compile:\n{}",
            render(&errors).trim_end()
        ),
    };
    for warning in &good.warnings {
        tracing::warn!(config.path = %warning.path, hint = %warning.hint, "{}", warning.reason);
    }
    let mut warden = Warden::prepare(config, good)?;
    warden.start_worker()?;
    loop {
        if let Some(code) = warden.exit {
            warden.clean_up();
            return Ok(code);
        }
        warden.turn()?;
    }
}

impl Warden {
    /// Waits for the next thing to happen, and answers it.
    fn turn(&mut self) -> anyhow::Result<()> {
        let (signalled, spoken) = self.wait()?;
        while signalled && let Some(info) = self.signals()?.read_signal()? {
            self.on_signal(Signal::try_from(info.ssi_signo as i32).ok());
        }
        if spoken {
            self.hear();
        }
        let now = Instant::now();
        if self.stop_at.is_some_and(|at| now >= at) {
            tracing::error!("the worker did not drain in time: killed");
            self.kill_worker();
            self.exit = Some(1);
        }
        let over = |worker: &Worker| worker.kill_at.is_some_and(|at| now >= at);
        if self.worker.as_ref().is_some_and(over) {
            tracing::error!("the worker closed its channel and lives: killed");
            self.kill_worker();
        }
        if self.restart_at.is_some_and(|at| now >= at) && self.stop_at.is_none() {
            return self.start_worker();
        }
        Ok(())
    }

    fn signals(&self) -> anyhow::Result<&SignalFd> {
        self.signals.as_ref().context("no signals")
    }

    fn wait(&self) -> anyhow::Result<(bool, bool)> {
        let now = Instant::now();
        let worker = self.worker.as_ref();
        let until = [
            self.restart_at,
            self.stop_at,
            worker.and_then(|w| w.kill_at),
            worker.and_then(|w| w.deaf_until),
        ];
        let until = until.into_iter().flatten().filter(|at| *at > now).min();
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(at) => {
                // Rounded up: a wait of less than a millisecond must not become a busy loop.
                let wait = at.saturating_duration_since(now) + Duration::from_millis(1);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.signals()?.as_fd(), PollFlags::POLLIN)];
        if let Some(worker) = worker.filter(|worker| worker.is_heard(now)) {
            fds.push(PollFd::new(worker.channel.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        let any = |i: usize| {
            fds.get(i)
                .and_then(|fd| fd.revents())
                .is_some_and(|events| !events.is_empty())
        };
        Ok((any(0), any(1)))
    }

    fn on_signal(&mut self, signal: Option<Signal>) {
        match signal {
            Some(Signal::SIGHUP) => {
                if let Err(error) = prepare_logs(&self.good.snapshot, self.account.as_ref()) {
                    tracing::error!("log files cannot be prepared: {error:#}");
                }
                self.tell(&ToWorker::ReopenLogs);
                self.reload(0);
            }
            Some(Signal::SIGCHLD) => self.reap(),
            Some(_)
                if self
                    .stop_since
                    .is_some_and(|at| at.elapsed() < SECOND_SIGNAL_AFTER) => {}
            Some(signal) if self.stop_at.is_some() => {
                tracing::warn!(%signal, "second signal: not waiting any longer");
                self.kill_worker();
                self.exit = Some(1);
            }
            Some(signal) => self.stop(signal),
            None => {}
        }
    }

    fn stop(&mut self, signal: Signal) {
        tracing::info!(%signal, "draining");
        self.notify.stopping();
        self.stop_since = Some(Instant::now());
        self.stop_at =
            Some(Instant::now() + self.good.snapshot.server.drain_timeout.0 + DRAIN_EXTRA);
        // While a copy of a listening socket is open here, the kernel completes connections that nobody will serve.
        self.sockets = None;
        if self.worker.is_none() {
            self.exit = Some(0);
        }
        self.tell(&ToWorker::Drain);
    }

    /// A worker that cannot be told anything is as good as dead; its end is reported by SIGCHLD.
    pub(super) fn tell(&mut self, message: &ToWorker) {
        if let Some(worker) = &mut self.worker
            && !worker.closed
            && let Err(error) = worker.send(message)
        {
            tracing::error!(%error, "the worker does not listen: killed");
            self.kill_worker();
        }
    }

    fn hear(&mut self) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        match worker.receive() {
            Ok(Some(messages)) => {
                for message in messages {
                    // Once it is given up, nothing it still says counts.
                    if self.worker.as_ref().is_some_and(|worker| !worker.closed) {
                        self.on_message(message);
                    }
                }
            }
            Ok(None) => {
                // It is ending, most likely. While draining, `stop_at` bounds that.
                worker.closed = true;
                worker.kill_at = Some(Instant::now() + LAST_WORDS);
                if self.stop_at.is_some() {
                    worker.kill_at = None;
                }
                self.reap();
            }
            Err(error) => {
                tracing::error!(%error, "the worker is not understood: killed");
                self.kill_worker();
            }
        }
    }

    fn on_message(&mut self, message: ToWarden) {
        match message {
            ToWarden::Ready if self.worker.as_ref().is_some_and(|worker| worker.ready) => {
                tracing::error!("the worker says twice that it is ready: killed");
                self.kill_worker();
            }
            ToWarden::Ready => {
                tracing::info!("ready");
                self.served = true;
                self.fallback = None;
                if let Some(worker) = &mut self.worker {
                    worker.ready = true;
                }
                self.notify.ready();
            }
            ToWarden::Reload { ticket } => {
                let now = Instant::now();
                if self.reloads.take(now) {
                    self.reload(ticket);
                } else {
                    self.refuse_reload(ticket);
                    if let Some(worker) = &mut self.worker {
                        worker.deaf_until = Some(now + DEAF);
                    }
                }
            }
            ToWarden::Published { number, errors } => self.published(number, &errors),
        }
    }

    pub(super) fn kill_worker(&mut self) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        // An end that takes its time must not keep the warden busy.
        worker.closed = true;
        worker.kill_at = None;
        if let Err(error) = kill(worker.pid, Signal::SIGKILL) {
            tracing::error!(%error, "kill");
        }
    }

    fn clean_up(&mut self) {
        self.sockets = None;
        let socket = &self.good.snapshot.admin.socket;
        if let Err(error) = std::fs::remove_file(socket) {
            tracing::debug!(%error, "admin socket not removed");
        }
    }
}
