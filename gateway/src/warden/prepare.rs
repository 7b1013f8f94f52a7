//! What the warden does before its first worker: everything that needs rights, in an order in which each failure
//! leaves nothing behind.

use super::allowance::Allowance;
use super::backoff::Backoff;
use super::load::Loaded;
use super::notify::Notify;
use super::sockets::Sockets;
use super::supervise::Warden;
use super::{filter, place};
use crate::config::Snapshot;
use crate::observe::audit::ensure_key;
use crate::privilege::{Account, raise_open_files};
use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Uid;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

/// Each reload that the worker asks for is a compile with the warden's rights and on its only thread.
const RELOADS_BURST: u32 = 16;
const RELOAD_EVERY: Duration = Duration::from_secs(1);

impl Warden {
    pub(super) fn prepare(config: &Path, good: Loaded) -> anyhow::Result<Warden> {
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
        prepare_logs(snapshot, account.as_ref())?;
        let audit_key = audit_key(&snapshot.audit_log.key_file)?;
        let sockets = Sockets::bind(snapshot)?;
        let filter = filter::attach(snapshot)?;
        Ok(Warden {
            config: config.to_owned(),
            fallback: None,
            sent: VecDeque::new(),
            sent_count: 0,
            account,
            audit_key,
            filter,
            sockets: Some(sockets),
            signals: Some(signals()?),
            notify: Notify::from_env(),
            backoff: Backoff::default(),
            reloads: Allowance::new(RELOADS_BURST, RELOAD_EVERY, Instant::now()),
            worker: None,
            restart_at: None,
            served: false,
            stop_at: None,
            stop_since: None,
            exit: None,
            good,
        })
    }
}

fn signals() -> anyhow::Result<SignalFd> {
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
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&mask, flags)?)
}

/// Log files and their folders, for the worker to write to. Also before it opens them again: in a folder that is
/// not its own it could not make the file that somebody has moved away.
pub(super) fn prepare_logs(snapshot: &Snapshot, account: Option<&Account>) -> anyhow::Result<()> {
    if let Some(log) = &snapshot.access_log {
        let rotates = place::prepare_file(&log.path, account)
            .with_context(|| format!("access_log.path: {}", log.path.display()))?;
        if !rotates {
            tracing::warn!(path = %log.path.display(), "access log: its folder is not the worker's, so it cannot be rotated by size");
        }
    }
    let path = &snapshot.audit_log.place.path;
    let rotates = place::prepare_file(path, account)
        .with_context(|| format!("audit_log.path: {}", path.display()))?;
    if !rotates {
        bail!(
            "audit_log.path: the folder of {} must belong to the worker's user, which writes the log's head beside it",
            path.display()
        );
    }
    Ok(())
}

/// The key that signs the audit log, as bytes: its file stays out of the worker's reach.
fn audit_key(key: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("audit_log.key_file: {}", key.display());
    if let Some(folder) = key.parent() {
        place::prepare_folder(folder, None).with_context(context)?;
    }
    ensure_key(key).with_context(context)?;
    std::fs::read(key).with_context(context)
}
