//! One core of the data plane: a pinned thread, its ring, its listeners, its tables.

use super::buffers::Buffers;
use super::conn;
use super::deadline::{Deadlines, TICK};
use super::op;
use super::pool::Pools;
use super::shared::Shared;
use super::socket::Socket;
use crate::clock::{self, Now};
use crate::config::Snapshot;
use crate::limit::Ban;
use crate::limit::Mode;
use crate::observe::metrics::CoreMetrics;
use crate::observe::record::CoreRecorder;
use crate::outcome::StrikeKind;
use crate::pipeline::Exchange;
use crate::pipeline::exchange::RequestId;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

/// Ring entries; a full submission queue is flushed, so this bounds batches, not connections.
const RING_ENTRIES: u32 = 1024;
/// Pause after the process ran out of descriptors or memory: accepting at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Idle connections get this long to send a last request when draining starts.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What a core is started with.
pub struct CoreStart {
    pub id: usize,
    /// The processor to run on; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Listening sockets of this core, by the index of their listener in the snapshot.
    pub listeners: Vec<(usize, OwnedFd)>,
    pub shared: Arc<Shared>,
    pub recorder: CoreRecorder,
}

pub struct Core {
    pub shared: Arc<Shared>,
    pub buffers: Rc<Buffers>,
    pub deadlines: Rc<Deadlines>,
    pub pools: Pools,
    recorder: RefCell<CoreRecorder>,
    snapshot: RefCell<arc_swap::Cache<&'static arc_swap::ArcSwap<Snapshot>, Arc<Snapshot>>>,
    turn: Cell<usize>,
    random: RefCell<Random>,
    draining: Cell<bool>,
}

/// Starts the core's thread; it ends when draining is complete.
pub fn spawn(start: CoreStart) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("core-{}", start.id))
        .spawn(move || {
            if let Some(cpu) = start.cpu {
                pin(cpu);
            }
            if let Err(e) = run(start) {
                // Without its ring a core serves nothing; the warden starts the worker again.
                tracing::error!(target: "net", error = %e, "core cannot run");
                std::process::abort();
            }
        })
}

fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    let pinned = set
        .set(cpu)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
    if let Err(e) = pinned {
        tracing::warn!(target: "net", cpu, error = %e, "core not pinned");
    }
}

fn run(start: CoreStart) -> io::Result<()> {
    // With the default flags every completion interrupts the thread: nearly twice the cost per request.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    runtime.block_on(serve(start));
    Ok(())
}

async fn serve(start: CoreStart) {
    let core = Rc::new(Core::new(start.shared, start.recorder));
    let listeners: Vec<(usize, Rc<Socket>)> = start
        .listeners
        .into_iter()
        .map(|(index, fd)| {
            // The ring waits by itself; on a non-blocking socket it would report EAGAIN instead.
            let _ = socket2::SockRef::from(&fd).set_nonblocking(false);
            (index, Rc::new(Socket::new(fd)))
        })
        .collect();
    for (index, socket) in &listeners {
        tokio_uring::spawn(accept_loop(core.clone(), *index, socket.clone()));
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u64;
    while !core.shared.draining.load(Relaxed) {
        tick.tick().await;
        ticks += 1;
        core.tick(ticks);
    }
    core.drain(listeners, &mut tick).await;
}

async fn accept_loop(core: Rc<Core>, listener: usize, socket: Rc<Socket>) {
    while !core.is_draining() {
        match op::accept(&socket).await {
            Ok((client, peer)) => core.admit_connection(client, listener, peer),
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => return,
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) =>
            {
                tracing::error!(target: "net", error = %e, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client gave up between SYN and accept.
            Err(_) => {}
        }
    }
}

impl Core {
    pub fn new(shared: Arc<Shared>, recorder: CoreRecorder) -> Core {
        // The cache wants a reference that outlives the core; the shared state lives as long as the process.
        let cell: &'static Arc<Shared> = Box::leak(Box::new(shared.clone()));
        let deadlines = Rc::new(Deadlines::default());
        deadlines.tick(clock::mono_coarse_ns());
        Core {
            shared,
            buffers: Rc::default(),
            deadlines,
            pools: Pools::default(),
            recorder: RefCell::new(recorder),
            snapshot: RefCell::new(arc_swap::Cache::new(&cell.snapshot)),
            turn: Cell::new(0),
            random: RefCell::new(Random::default()),
            draining: Cell::new(false),
        }
    }

    /// The config of now; a request asks once and keeps what it got.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow_mut().load().clone()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub fn next_turn(&self) -> usize {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }

    pub fn next_request_id(&self) -> RequestId {
        RequestId(self.random.borrow_mut().next())
    }

    pub fn metrics(&self) -> std::cell::Ref<'_, CoreMetrics> {
        std::cell::Ref::map(self.recorder.borrow(), |r| r.metrics())
    }

    pub fn record(&self, ex: &Exchange) {
        self.recorder.borrow_mut().record(ex);
    }

    /// Counts a refusal against its source; the one that crosses the threshold bans it.
    pub fn strike(
        &self,
        ex: &Exchange,
        kind: StrikeKind,
        snapshot: &Snapshot,
        listener: usize,
        now: Now,
    ) {
        let socket = crate::units::unmapped(ex.socket.ip());
        if ex.client == socket && snapshot.listeners[listener].is_trusted_proxy(socket) {
            return; // the proxy itself: it speaks for many
        }
        self.metrics().strike(kind);
        let Some(order) = self
            .shared
            .strikes
            .strike(ex.client, kind, &snapshot.strikes, now)
        else {
            return;
        };
        if order.mode == Mode::Enforce {
            // The table first: from here on every core refuses the source, filter or no filter.
            let ban = Ban {
                target: order.target,
                reason: order.reason,
                rule: ex.decision.slug().unwrap_or_default().to_owned(),
                since_wall_ns: now.wall_ns,
                expires_mono_ns: order.expires_mono_ns,
            };
            if let Err(e) = self.shared.bans.insert(ban) {
                tracing::warn!(target: "bans", client = %ex.client, error = %e, "ban not taken");
                self.shared.strikes.forgive(ex.client);
                return;
            }
        }
        if self.shared.ban_orders.try_send(order).is_err() {
            // All or nothing: a ban that kernel and audit log do not know is ordered again by the next strikes.
            self.shared.bans.remove(order.target);
            self.shared.strikes.forgive(ex.client);
            self.metrics().ban_order_dropped();
        }
    }

    fn admit_connection(
        self: &Rc<Self>,
        client: Socket,
        listener: usize,
        peer: std::net::SocketAddr,
    ) {
        let most = self.snapshot().server.connections_max;
        if self.shared.connections.load(Relaxed) >= most {
            client.reset_on_close();
            self.metrics().refused();
            return;
        }
        self.metrics().accepted();
        tokio_uring::spawn(conn::serve(self.clone(), client, listener, peer));
    }

    /// One open connection, until the value is dropped.
    pub fn count_connection(self: &Rc<Self>) -> OpenConnection {
        self.shared.connections.fetch_add(1, Relaxed);
        OpenConnection(self.clone())
    }

    fn tick(&self, ticks: u64) {
        let now_ns = clock::mono_coarse_ns();
        self.deadlines.tick(now_ns);
        if ticks.is_multiple_of(2) {
            self.recorder.borrow_mut().tick();
        }
        if ticks.is_multiple_of(20) {
            self.pools.sweep(now_ns);
        }
    }

    /// No more connections; those open finish what they have begun.
    async fn drain(
        self: &Rc<Self>,
        listeners: Vec<(usize, Rc<Socket>)>,
        tick: &mut tokio::time::Interval,
    ) {
        self.draining.set(true);
        for (index, socket) in &listeners {
            op::cancel(socket).await;
            self.accept_backlog(*index, socket);
        }
        drop(listeners);
        let started_ns = clock::mono_coarse_ns();
        let timeout_ns = self.snapshot().server.drain_timeout.as_nanos();
        let mut ticks = 0;
        while self.deadlines.open() > 0 {
            tick.tick().await;
            ticks += 1;
            self.tick(ticks);
            let waited_ns = clock::mono_coarse_ns().saturating_sub(started_ns);
            self.pools.clear();
            if waited_ns > DRAIN_GRACE.as_nanos() as u64 {
                self.deadlines.end_idle();
            }
            if waited_ns > timeout_ns {
                tracing::warn!(target: "net", open = self.deadlines.open() / 2, "drain timeout: connections cut");
                self.deadlines.end_all();
                tick.tick().await;
                break;
            }
        }
        self.recorder.borrow_mut().tick();
    }

    /// Connections the kernel has completed already would be reset when the listener closes.
    fn accept_backlog(self: &Rc<Self>, index: usize, socket: &Socket) {
        let socket = socket2::SockRef::from(socket);
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        while let Ok((client, peer)) = socket.accept() {
            if let Some(peer) = peer.as_socket() {
                self.admit_connection(Socket::new(client.into()), index, peer);
            }
        }
    }
}

pub struct OpenConnection(Rc<Core>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.shared.connections.fetch_sub(1, Relaxed);
        self.0.metrics().closed();
    }
}

/// Random numbers by the page: one call into the generator serves 256 requests.
struct Random {
    bytes: Box<[u8; 4096]>,
    at: usize,
}

impl Default for Random {
    fn default() -> Random {
        Random {
            bytes: Box::new([0; 4096]),
            at: 4096,
        }
    }
}

impl Random {
    fn next(&mut self) -> u128 {
        if self.at == self.bytes.len() {
            // The generator fails only where the system has none; ids then repeat, nothing else breaks.
            let _ = aws_lc_rs::rand::fill(&mut self.bytes[..]);
            self.at = 0;
        }
        let id = self.bytes[self.at..self.at + 16]
            .try_into()
            .map_or(0, u128::from_ne_bytes);
        self.at += 16;
        id
    }
}
