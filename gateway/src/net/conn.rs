//! One client connection: its state between requests, and the loop of its exchanges.

use super::buffers::SMALL;
use super::core::Core;
use super::exchange::{Head, Next};
use super::socket::{End, Socket};
use super::stream::{HandshakeError, Stream};
use crate::clock::{self, Now};
use crate::config::Snapshot;
use crate::http::HeadScratch;
use crate::http::body::Carry;
use crate::outcome::{Rejection, RejectionKind};
use crate::pipeline::{Exchange, Notes};
use crate::tls::Session;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long an idle connection keeps the buffer it would receive into.
const BUFFER_KEPT: Duration = Duration::from_secs(1);
/// After a last response: how long, and how much, is read and thrown away so that the client gets to
/// read it before a reset (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 << 10;

pub struct Conn {
    pub core: Rc<Core>,
    pub stream: Stream,
    /// Index of the listener in every snapshot.
    pub listener: usize,
    pub carry: Carry,
    pub scratch: HeadScratch,
    pub ex: Exchange,
    pub notes: Notes,
    pub served: u64,
    /// Requests after which the connection is closed.
    pub requests_max: u64,
}

/// Serves a connection from accept to close.
pub async fn serve(core: Rc<Core>, socket: Socket, listener: usize, peer: SocketAddr) {
    let socket = Rc::new(socket);
    let _open = core.count_connection();
    let snapshot = core.snapshot();
    let now_ns = clock::mono_coarse_ns();
    if let Some(ban) = core
        .shared
        .bans
        .covers(crate::units::unmapped(peer.ip()), now_ns)
    {
        tracing::debug!(target: "bans", client = %peer.ip(), reason = ban.reason.slug(), "refused");
        socket.reset_on_close();
        core.metrics().refused();
        return;
    }
    socket.set_nodelay();
    // Boxed: the handshake's state is large, and of no use to the connection's later life.
    let (stream, is_plain_on_tls) =
        match Box::pin(open_stream(&core, socket, &snapshot, listener)).await {
            Ok(stream) => (stream, false),
            Err(HandshakeError {
                plain: Some(stream),
                ..
            }) => (stream, true),
            Err(_) => return,
        };
    let mut ex = Exchange::new(snapshot.listeners[listener].name.clone(), peer);
    ex.tls = stream.session().and_then(|s| s.borrow().facts());
    drop(snapshot);
    let mut conn = Conn {
        core,
        stream,
        listener,
        carry: Carry::default(),
        scratch: HeadScratch::new(),
        ex,
        notes: Notes::default(),
        served: 0,
        requests_max: u64::MAX,
    };
    if is_plain_on_tls {
        conn.refuse_plain_http().await;
        return;
    }
    loop {
        match conn.exchange().await {
            Next::Keep => conn.served += 1,
            Next::Linger => break conn.linger().await,
            Next::Close => break,
        }
    }
    if !conn.carry.is_empty() {
        conn.carry.consume(conn.carry.unread().len());
    }
    conn.core.buffers.give(conn.carry.release());
}

/// The handshake, where the listener speaks TLS.
async fn open_stream(
    core: &Rc<Core>,
    socket: Rc<Socket>,
    snapshot: &Arc<Snapshot>,
    listener: usize,
) -> Result<Stream, HandshakeError> {
    let listener = &snapshot.listeners[listener];
    let Some(tls) = &listener.tls else {
        return Ok(Stream::plain(socket, &core.deadlines, core.buffers.clone()));
    };
    let session = Session::accept(tls).map_err(|error| HandshakeError { error, plain: None })?;
    let timeout = listener.timeouts.handshake;
    let done = Stream::handshake(
        socket,
        &core.deadlines,
        core.buffers.clone(),
        session,
        timeout,
    )
    .await;
    core.metrics().handshake(done.is_ok());
    done.inspect_err(|e| tracing::debug!(target: "tls", error = %e.error, "handshake failed"))
}

impl Conn {
    /// Says to a client that spoke plain HTTP to a TLS port what went wrong.
    async fn refuse_plain_http(&mut self) {
        self.begin();
        let snapshot = self.core.snapshot();
        let reason = "this port speaks TLS: use https";
        let rejection = Rejection::new(RejectionKind::PlainHttpOnTls, super::rules::head(), reason);
        let next = self.refuse(&Head::UNKNOWN, rejection.closing()).await;
        self.finish(&snapshot);
        if next == Next::Linger {
            self.linger().await;
        }
    }

    /// Waits for the first byte of the next request. `false`: the connection is over.
    pub async fn await_request(&mut self, idle: Duration) -> bool {
        loop {
            // Some clients end a body with a line break too many (RFC 9112 section 2.2).
            if self.served > 0 && self.carry.unread().starts_with(b"\r\n") {
                self.carry.consume(2);
            }
            if !self.carry.is_empty() {
                return true;
            }
            self.stream.deadline.set_idle(true);
            let arrived = self.await_bytes(idle).await;
            self.stream.deadline.set_idle(false);
            self.stream.deadline.disarm();
            if !arrived || !self.carry.unread().starts_with(b"\r\n") {
                return arrived;
            }
        }
    }

    async fn await_bytes(&mut self, idle: Duration) -> bool {
        // Busy connections get their next request within the first wait, in one operation.
        self.stream.deadline.arm(
            BUFFER_KEPT.min(idle),
            if idle > BUFFER_KEPT {
                End::Wait
            } else {
                End::Read
            },
        );
        match self.read().await {
            Ok(n) => return n > 0,
            Err(e)
                if e.raw_os_error() == Some(libc::ECANCELED) && !self.stream.deadline.fired() => {}
            Err(_) => return false,
        }
        // Idle ones give their buffer back and wait without.
        if self.carry.is_empty() {
            self.core.buffers.give(self.carry.release());
        }
        self.stream
            .deadline
            .arm(idle.saturating_sub(BUFFER_KEPT), End::Read);
        let readable = super::op::readable(&self.stream.socket).await;
        if readable.is_err() || self.stream.deadline.fired() {
            return false;
        }
        matches!(self.read().await, Ok(n) if n > 0)
    }

    /// Appends what arrives to the carry; takes a buffer for it when there is none.
    pub async fn read(&mut self) -> std::io::Result<usize> {
        if !self.carry.has_buffer() {
            self.carry.adopt(self.core.buffers.small());
        }
        debug_assert!(self.carry.space().capacity() >= SMALL);
        self.stream.read(self.carry.space()).await
    }

    /// Lets the client read the last response before the connection goes.
    async fn linger(&mut self) {
        self.stream.deadline.arm(LINGER, End::Both);
        self.stream.close_write().await;
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            let unread = self.carry.unread().len();
            self.carry.consume(unread);
            match self.read().await {
                Ok(n) if n > 0 => thrown_away += n,
                _ => break,
            }
        }
    }

    /// Whether another request may follow on this connection, as far as we are concerned.
    pub fn may_keep(&self) -> bool {
        !self.core.is_draining() && self.served + 1 < self.requests_max
    }

    /// Begins the record of the next exchange.
    pub fn begin(&mut self) {
        let id = self.core.next_request_id();
        self.ex.reset(id, Now::read());
        self.notes.clear();
    }
}
