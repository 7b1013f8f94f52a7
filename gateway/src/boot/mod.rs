//! The worker: ordered start and stop, and the only place that spawns the data plane's threads. Runs after every
//! right has been dropped, in a process of one thread, so all that start here are as powerless.
//!
//! Start: logs, alerts, tables, cores, then the control loop on this thread. Stop: the other way round, so that
//! the last exchange still finds its log.

mod admin;
mod bans;
mod control;
mod link;
mod report;
mod resume;
mod watch;

use crate::clock::Now;
use crate::config::{self, Ids, Snapshot};
use crate::kernel::Filter;
use crate::limit::{BanOrder, BanTable, LimitTable, StrikeTable};
use crate::net::{self, CoreStart, Shared};
use crate::observe::alerts::{AlertSender, Retry};
use crate::observe::audit::{AuditEvent, AuditKey, AuditLog, ensure_public};
use crate::observe::file::beside;
use crate::observe::metrics::Metrics;
use crate::observe::record::CoreRecorder;
use crate::observe::writer::LogWriter;
use crate::warden::channel::Bundle;
use crate::warden::sockets::Sockets;
use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use control::Control;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Bans that may wait for the control thread. A core that finds it full counts the order as dropped; the source's
/// next strike orders again.
const BAN_ORDERS_MAX: usize = 4096;

/// What the warden hands over.
pub struct WorkerStart {
    /// The config's path, for people.
    pub config: String,
    pub bundle: Bundle,
    pub sockets: Sockets,
    pub filter: Option<Filter>,
    /// PKCS#8.
    pub audit_key: Vec<u8>,
    pub channel: UnixStream,
}

/// Ports the kernel filter judges packets to: those of all listeners.
pub fn protected_ports(snapshot: &Snapshot) -> Vec<u16> {
    snapshot
        .listeners
        .iter()
        .map(|l| l.address.port())
        .collect()
}

/// Works until drained. The result is the exit code.
pub fn worker(start: WorkerStart) -> anyhow::Result<u8> {
    let mut ids = Ids::default();
    let compiled = config::compile(&start.bundle.text, &start.bundle.files, &mut ids);
    let snapshot = match compiled {
        Ok(compiled) => compiled.snapshot,
        // The warden has compiled the same bundle.
        Err(errors) => bail!("{}", crate::warden::load::render(&errors)),
    };
    let audit = start_audit(&snapshot, &start.audit_key)?;
    let access = match &snapshot.access_log {
        None => None,
        Some(place) => Some(
            LogWriter::start(place.clone())
                .with_context(|| format!("access log {}", place.path.display()))?,
        ),
    };
    let alerts = AlertSender::start(&snapshot.alerts.webhooks, &instance(), Retry::default())
        .context("alerts")?;
    let (orders, ordered) = mpsc::channel(BAN_ORDERS_MAX);
    let shared = Arc::new(shared(snapshot, orders));
    let mut filter = start.filter;
    if let Some(filter) = &mut filter {
        resume::filter(filter, &shared);
    }
    let cores = start_cores(&shared, start.sockets.listeners, access.as_ref(), &audit)?;
    audit.sink().emit(AuditEvent::Started {
        version: env!("CARGO_PKG_VERSION"),
        config: start.config.clone(),
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let control = Control {
        config: start.config,
        started: Now::read(),
        shared,
        ids,
        filter,
        core_count: cores.len(),
        audit,
        access,
        alerts,
        watch: watch::Watch::default(),
        waiting: Vec::new(),
        next_ticket: 1,
    };
    let control = runtime.block_on(control.run(control::Inputs {
        channel: start.channel,
        admin: start.sockets.admin,
        metrics: start.sockets.metrics,
        ordered,
        cores,
    }))?;
    control.stop();
    Ok(0)
}

fn start_audit(snapshot: &Snapshot, key: &[u8]) -> anyhow::Result<AuditLog> {
    let place = snapshot.audit_log.place.clone();
    let context = format!("audit log {}", place.path.display());
    let key = AuditKey::from_pkcs8(key).context("audit key")?;
    ensure_public(&beside(&place.path, ".pub"), &key).with_context(|| context.clone())?;
    AuditLog::start(place, key, snapshot.audit_log.refusals_per_second).context(context)
}

fn shared(snapshot: Snapshot, ban_orders: mpsc::Sender<BanOrder>) -> Shared {
    let trusted = bans::trusted(&snapshot);
    Shared {
        limits: LimitTable::new(snapshot.server.limiter_keys_max),
        strikes: StrikeTable::default(),
        bans: BanTable::new(crate::limit::bans::BANS_MAX_DEFAULT, trusted),
        snapshot: ArcSwap::from_pointee(snapshot),
        ban_orders,
        draining: AtomicBool::new(false),
        connections: AtomicUsize::new(0),
        metrics: Metrics::new(),
    }
}

/// One thread per core, each with its own socket of every listener.
fn start_cores(
    shared: &Arc<Shared>,
    listeners: Vec<Vec<TcpListener>>,
    access: Option<&LogWriter>,
    audit: &AuditLog,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let count = listeners.first().map_or(0, Vec::len);
    let cpus = allowed_cpus();
    let mut by_core: Vec<Vec<(usize, std::os::fd::OwnedFd)>> = Vec::new();
    by_core.resize_with(count, Vec::new);
    for (index, sockets) in listeners.into_iter().enumerate() {
        for (core, socket) in sockets.into_iter().enumerate() {
            by_core[core].push((index, socket.into()));
        }
    }
    let starts = by_core.into_iter().enumerate().map(|(id, listeners)| {
        net::spawn(CoreStart {
            id,
            // With more threads than processors pinning would only get in the scheduler's way.
            cpu: cpus.get(id).copied().filter(|_| count <= cpus.len()),
            listeners,
            shared: shared.clone(),
            recorder: CoreRecorder::new(
                access.map(LogWriter::core),
                Some(audit.sink()),
                shared.metrics.core(),
            ),
        })
    });
    starts
        .collect::<Result<_, _>>()
        .context("cannot start a core")
}

/// The processors this process may run on: a container may have been given only some.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}

/// How alerts name this gateway.
fn instance() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "gateway".to_owned(), |name| name.trim().to_owned())
}
