//! A connection to an upstream: from the pool, or a new one, to whichever target answers.

use super::core::Core;
use super::op;
use super::socket::{End, Socket};
use super::stream::Stream;
use crate::clock;
use crate::outcome::UpstreamFaultKind;
use crate::tls::Session;
use crate::upstream::{Target, Upstream};
use std::rc::Rc;
use std::sync::Arc;

/// Targets tried before the request fails.
const TRIES_MAX: usize = 3;

pub struct Dialled {
    pub stream: Stream,
    pub target: Arc<Target>,
    /// It has served a request before, so it may have been closed meanwhile.
    pub reused: bool,
}

/// How far a pooled connection may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// The request can be sent again if the connection turns out to be dead.
    Optimistic,
    /// It cannot: the socket is asked first.
    Checked,
    /// A new connection only.
    Never,
}

pub async fn dial(
    core: &Core,
    upstream: &Upstream,
    reuse: Reuse,
) -> Result<Dialled, UpstreamFaultKind> {
    let mut fault = UpstreamFaultKind::NoTarget;
    let now_ns = clock::mono_coarse_ns();
    for target in upstream
        .candidates(core.next_turn(), now_ns)
        .take(TRIES_MAX)
    {
        if let Some(stream) = pooled(core, target, reuse, now_ns) {
            return Ok(Dialled {
                stream,
                target: target.clone(),
                reused: true,
            });
        }
        match connect(core, upstream, target).await {
            Ok(stream) => {
                target.health.succeeded();
                return Ok(Dialled {
                    stream,
                    target: target.clone(),
                    reused: false,
                });
            }
            // Nothing was sent, so the next target may be tried whatever the method.
            Err(kind) => {
                target.health.failed(clock::mono_coarse_ns());
                tracing::warn!(target: "upstream", upstream = %upstream.name, address = %target.label, fault = kind.slug(), "connect failed");
                fault = kind;
            }
        }
    }
    Err(fault)
}

fn pooled(core: &Core, target: &Target, reuse: Reuse, now_ns: u64) -> Option<Stream> {
    if reuse == Reuse::Never {
        return None;
    }
    while let Some(stream) = core.pools.take(target.id, now_ns) {
        if reuse == Reuse::Optimistic || stream.socket.is_quiet() {
            return Some(stream);
        }
    }
    None
}

async fn connect(
    core: &Core,
    upstream: &Upstream,
    target: &Target,
) -> Result<Stream, UpstreamFaultKind> {
    let socket =
        Rc::new(Socket::for_peer(target.address).map_err(|_| UpstreamFaultKind::ConnectFailed)?);
    let deadline = core.deadlines.watch(socket.clone());
    deadline.arm(upstream.connect_timeout, End::Both);
    let connected = op::connect(&socket, target.address).await;
    match connected {
        _ if deadline.fired() => return Err(UpstreamFaultKind::ConnectTimeout),
        Err(_) => return Err(UpstreamFaultKind::ConnectFailed),
        Ok(()) => drop(deadline),
    }
    let Some(tls) = &target.tls else {
        return Ok(Stream::plain(socket, &core.deadlines, core.buffers.clone()));
    };
    let session = Session::connect(tls).map_err(|_| UpstreamFaultKind::TlsFailed)?;
    let made = Stream::handshake(
        socket,
        &core.deadlines,
        core.buffers.clone(),
        session,
        upstream.connect_timeout,
    )
    .await;
    made.map_err(|e| {
        tracing::warn!(target: "upstream", address = %target.label, error = %e, "TLS handshake with the upstream failed");
        if e.kind() == std::io::ErrorKind::InvalidData { UpstreamFaultKind::TlsFailed } else { UpstreamFaultKind::ConnectFailed }
    })
}
