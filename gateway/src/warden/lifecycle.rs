//! Workers start, end and are replaced.

use super::spawn::{Role, split};
use super::supervise::Warden;
use crate::boot::{self, WorkerStart};
use crate::privilege::{Account, drop_to};
use anyhow::Context;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl Warden {
    /// A fork that fails ends the warden only if nothing has been served yet.
    pub(super) fn start_worker(&mut self) -> anyhow::Result<()> {
        self.restart_at = None;
        // What a predecessor did not answer, this one was never asked.
        self.sent.clear();
        match split() {
            Ok(Role::Warden(worker)) => {
                tracing::info!(worker.pid = worker.pid.as_raw(), "worker started");
                self.worker = Some(worker);
                Ok(())
            }
            Ok(Role::Worker { channel, warden }) => {
                let code = self.be_worker(channel, warden).unwrap_or_else(|error| {
                    tracing::error!("worker: {error:#}");
                    1
                });
                // Not by returning: what the warden's callers clean up is not this process's to touch.
                std::process::exit(code.into())
            }
            Err(error) if self.served => {
                let wait = self.backoff.died(Duration::ZERO);
                tracing::error!(%error, ?wait, "cannot fork, trying again");
                self.restart_at = Some(Instant::now() + wait);
                Ok(())
            }
            Err(error) => Err(error).context("cannot fork"),
        }
    }

    /// In the worker's process: gives up all rights, then works until drained.
    fn be_worker(&mut self, channel: UnixStream, warden: Pid) -> anyhow::Result<u8> {
        // Neither the warden's signals nor its line to the service manager are the worker's.
        self.signals = None;
        self.notify.close();
        let account = self.account.take().unwrap_or_else(Account::of_self);
        let dropped = drop_to(&account, warden).context("privilege drop")?;
        tracing::info!(
            uid = dropped.uid,
            gid = dropped.gid,
            "worker runs without capabilities"
        );
        self.fallback = None;
        boot::worker(WorkerStart {
            config: self.config.display().to_string(),
            bundle: std::mem::take(&mut self.good.bundle),
            sockets: self.sockets.take().context("no sockets")?,
            filter: self.filter.take(),
            audit_key: std::mem::take(&mut self.audit_key),
            channel,
        })
    }

    /// Looks whether the worker has ended, and decides what follows.
    pub(super) fn reap(&mut self) {
        let Some(worker) = &self.worker else { return };
        let status = match waitpid(worker.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return,
            Ok(status) => status,
            Err(error) => {
                tracing::error!(%error, "waitpid");
                return;
            }
        };
        let (lived, ready) = (worker.started.elapsed(), worker.ready);
        self.worker = None;
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
        self.choose_config(ready);
        let wait = self.backoff.died(lived);
        tracing::error!(
            ?status,
            ?wait,
            "the worker ended unexpectedly and is replaced"
        );
        self.restart_at = Some(Instant::now() + wait);
    }
}
