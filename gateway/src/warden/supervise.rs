//! The warden's life: start what needs rights, fork, then answer signals, the worker's end and its requests.

use super::backoff::Backoff;
use super::channel::{Bundle, ToWarden, ToWorker};
use super::load::{Loaded, load, render};
use super::notify::Notify;
use super::sockets::Sockets;
use super::spawn::{Role, Worker, split};
use super::{filter, place, restart};
use crate::boot::{self, WorkerStart};
use crate::clock;
use crate::diagnose::Diagnostic;
use crate::kernel::Filter;
use crate::observe::audit::ensure_key;
use crate::privilege::{Account, drop_to, raise_open_files};
use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Beyond the drain timeout, for logs to be written and threads to end.
const DRAIN_EXTRA: Duration = Duration::from_secs(5);
/// A supervisor may signal the process and its group at once: only a later signal means impatience.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);
/// Bundles sent that the worker has not answered; more reloads are refused until it has.
const UNANSWERED_MAX: usize = 4;

struct Warden {
    config: PathBuf,
    /// What the worker runs, and what its successor would start with.
    good: Loaded,
    /// Sent to the worker and not answered, oldest first.
    sent: VecDeque<(u64, Loaded)>,
    account: Option<Account>,
    audit_key: Vec<u8>,
    filter: Option<Filter>,
    /// Taken when draining starts: whoever holds a listening socket promises to accept.
    sockets: Option<Sockets>,
    signals: SignalFd,
    notify: Notify,
    backoff: Backoff,
    worker: Option<Worker>,
    restart_at: Option<Instant>,
    /// Some worker has served; until then a death is a failed start, which trying again does not mend.
    served: bool,
    /// Set when told to stop: when patience ends.
    stop_at: Option<Instant>,
    stop_since: Option<Instant>,
    exit: Option<u8>,
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
    /// Everything that needs rights, in an order in which each failure leaves nothing behind.
    fn prepare(config: &Path, good: Loaded) -> anyhow::Result<Warden> {
        let snapshot = &good.snapshot;
        let account = if Uid::effective().is_root() {
            Some(Account::find(&snapshot.server.user).context("server.user")?)
        } else {
            tracing::warn!(
                "not root: the worker keeps this user; the kernel filter needs root and stays off"
            );
            None
        };
        raise_open_files()?;
        let audit_key = make_places(&good, account.as_ref())?;
        let sockets = Sockets::bind(snapshot)?;
        let filter = filter::attach(snapshot)?;
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGHUP,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGCHLD,
        ] {
            mask.add(signal);
        }
        mask.thread_block()?;
        Ok(Warden {
            config: config.to_owned(),
            sent: VecDeque::new(),
            account,
            audit_key,
            filter,
            sockets: Some(sockets),
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            notify: Notify::from_env(),
            backoff: Backoff::default(),
            worker: None,
            restart_at: None,
            served: false,
            stop_at: None,
            stop_since: None,
            exit: None,
            good,
        })
    }

    fn start_worker(&mut self) -> anyhow::Result<()> {
        self.restart_at = None;
        match split().context("cannot fork")? {
            Role::Warden(worker) => {
                tracing::info!(worker.pid = worker.pid.as_raw(), "worker started");
                self.worker = Some(worker);
                Ok(())
            }
            Role::Worker { channel, warden } => {
                let code = self.be_worker(channel, warden).unwrap_or_else(|error| {
                    tracing::error!("worker: {error:#}");
                    1
                });
                // Not by returning: what the warden's callers clean up is not this process's to touch.
                std::process::exit(code.into())
            }
        }
    }

    /// In the worker's process: gives up all rights, then works until drained.
    fn be_worker(&mut self, channel: UnixStream, warden: Pid) -> anyhow::Result<u8> {
        let account = self.account.take().unwrap_or_else(Account::of_self);
        let dropped = drop_to(&account, warden).context("privilege drop")?;
        tracing::info!(
            uid = dropped.uid,
            gid = dropped.gid,
            "worker runs without capabilities"
        );
        boot::worker(WorkerStart {
            config: self.config.display().to_string(),
            bundle: std::mem::take(&mut self.good.bundle),
            sockets: self.sockets.take().context("no sockets")?,
            filter: self.filter.take(),
            audit_key: std::mem::take(&mut self.audit_key),
            channel,
        })
    }

    /// Waits for the next thing to happen, and answers it.
    fn turn(&mut self) -> anyhow::Result<()> {
        let (signalled, spoken) = self.wait()?;
        if signalled {
            while let Some(info) = self.signals.read_signal()? {
                self.on_signal(Signal::try_from(info.ssi_signo as i32).ok());
            }
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
        if self.restart_at.is_some_and(|at| now >= at) && self.stop_at.is_none() {
            return self.start_worker();
        }
        Ok(())
    }

    fn wait(&self) -> anyhow::Result<(bool, bool)> {
        let until = [self.restart_at, self.stop_at].into_iter().flatten().min();
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(at) => {
                // Rounded up: a wait of less than a millisecond must not become a busy loop.
                let wait = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(worker) = &self.worker {
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

    /// Reads, compiles and sends the config, or says why not.
    fn reload(&mut self, ticket: u64) {
        let refused = if self.stop_at.is_some() {
            Err(vec![self.diagnostic("the gateway is stopping")])
        } else if self.sent.len() >= UNANSWERED_MAX {
            Err(vec![self.diagnostic("earlier reloads are still under way")])
        } else {
            load(&self.config).and_then(|loaded| {
                let changes = restart::needed(&self.good.snapshot, &loaded.snapshot);
                if changes.is_empty() {
                    Ok(loaded)
                } else {
                    Err(changes)
                }
            })
        };
        match refused {
            Ok(loaded) => {
                self.notify.reloading(clock::mono_ns());
                let bundle: Bundle = loaded.bundle.clone();
                self.sent.push_back((ticket, loaded));
                self.tell(&ToWorker::Publish { ticket, bundle });
            }
            Err(errors) => {
                tracing::error!(
                    "reload refused, the old config stays:\n{}",
                    render(&errors).trim_end()
                );
                self.tell(&ToWorker::Refused { ticket, errors });
            }
        }
    }

    fn diagnostic(&self, reason: &str) -> Diagnostic {
        Diagnostic {
            path: self.config.display().to_string(),
            reason: reason.into(),
            hint: String::new(),
        }
    }

    /// A worker that cannot be told anything is as good as dead; its end is reported by SIGCHLD.
    fn tell(&mut self, message: &ToWorker) {
        if let Some(worker) = &mut self.worker
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
            Ok(Some(messages)) => messages.into_iter().for_each(|m| self.on_message(m)),
            // It is ending: SIGCHLD comes after.
            Ok(None) => self.reap(),
            Err(error) => {
                tracing::error!(%error, "the worker is not understood: killed");
                self.kill_worker();
            }
        }
    }

    fn on_message(&mut self, message: ToWarden) {
        match message {
            ToWarden::Ready => {
                tracing::info!("ready");
                self.served = true;
                self.notify.ready();
            }
            ToWarden::Reload { ticket } => self.reload(ticket),
            ToWarden::Published { ticket, errors } => {
                let Some((_, loaded)) = self.sent.pop_front().filter(|(t, _)| *t == ticket) else {
                    tracing::warn!(ticket, "answer to a bundle that was not sent");
                    return;
                };
                self.notify.ready();
                if errors.is_empty() {
                    tracing::info!(routes = loaded.snapshot.routes.len(), "reloaded");
                    self.good = loaded;
                } else {
                    tracing::error!(
                        "the worker refused the config:\n{}",
                        render(&errors).trim_end()
                    );
                }
            }
        }
    }

    fn reap(&mut self) {
        let Some(worker) = &self.worker else { return };
        let status = match waitpid(worker.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return,
            Ok(status) => status,
            Err(error) => {
                tracing::error!(%error, "waitpid");
                return;
            }
        };
        let lived = worker.started.elapsed();
        self.worker = None;
        self.sent.clear();
        let clean = matches!(status, WaitStatus::Exited(_, 0));
        if self.stop_at.is_some() {
            tracing::info!(clean, "stopped");
            self.exit = self.exit.or(Some(u8::from(!clean)));
            return;
        }
        if !self.served {
            tracing::error!(?status, "the worker did not start");
            self.exit = Some(1);
            return;
        }
        match self.backoff.died(lived) {
            Some(wait) => {
                tracing::error!(
                    ?status,
                    ?wait,
                    "the worker ended unexpectedly and is replaced"
                );
                self.restart_at = Some(Instant::now() + wait);
            }
            None => {
                tracing::error!(?status, "the worker keeps dying: giving up");
                self.exit = Some(1);
            }
        }
    }

    fn kill_worker(&mut self) {
        if let Some(worker) = &self.worker
            && let Err(error) = kill(worker.pid, Signal::SIGKILL)
        {
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

/// Log files, their folders, and the key that signs the audit log. Returns the key's bytes: its file stays out of
/// the worker's reach.
fn make_places(good: &Loaded, account: Option<&Account>) -> anyhow::Result<Vec<u8>> {
    let snapshot = &good.snapshot;
    if let Some(log) = &snapshot.access_log {
        let rotates = place::prepare_file(&log.path, account)
            .with_context(|| format!("access_log.path: {}", log.path.display()))?;
        if !rotates {
            tracing::warn!(path = %log.path.display(), "access log: its folder is not the worker's, so it cannot be rotated by size");
        }
    }
    let log = &snapshot.audit_log;
    let path = &log.place.path;
    let rotates = place::prepare_file(path, account)
        .with_context(|| format!("audit_log.path: {}", path.display()))?;
    if !rotates {
        bail!(
            "audit_log.path: the folder of {} must belong to the worker's user, which writes the log's head beside it",
            path.display()
        );
    }
    let key = &log.key_file;
    let context = || format!("audit_log.key_file: {}", key.display());
    if let Some(folder) = key.parent() {
        place::prepare_folder(folder, None).with_context(context)?;
    }
    ensure_key(key).with_context(context)?;
    std::fs::read(key).with_context(context)
}
