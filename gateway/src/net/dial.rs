//! A connection to an upstream: from the pool, or a new one, to whichever target answers.

use super::core::Core;
use super::op;
use super::socket::{End, Socket};
use super::stream::Stream;
use crate::clock;
use crate::outcome::{FaultKind, UpstreamFaultKind};
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

/// Whether a pooled connection may be taken. One that is taken was quiet and open a moment ago; it
/// can still turn out to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// The request is sent a second time: a new connection only.
    Never,
}

/// Whose doing it is that there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    Upstream(UpstreamFaultKind),
    Ours(FaultKind),
}

pub async fn dial(core: &Core, upstream: &Upstream, reuse: Reuse) -> Result<Dialled, DialError> {
    let mut fault = DialError::Upstream(UpstreamFaultKind::NoTarget);
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
            Err(error) => {
                tracing::warn!(target: "upstream", upstream = %upstream.name, address = %target.label, ?error, "connect failed");
                fault = error;
                if matches!(error, DialError::Ours(_)) {
                    break; // no target can help that
                }
                target.health.failed(clock::mono_coarse_ns());
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
        // Bytes that nobody asked for would be taken for the answer to this request.
        if stream.socket.is_quiet() {
            return Some(stream);
        }
    }
    None
}

async fn connect(core: &Core, upstream: &Upstream, target: &Target) -> Result<Stream, DialError> {
    let socket = Rc::new(Socket::for_peer(target.address).map_err(|e| no_socket(&e))?);
    let deadline = core.deadlines.watch(socket.clone());
    deadline.arm(upstream.connect_timeout, End::Both);
    let connected = op::connect(&socket, target.address).await;
    match connected {
        _ if deadline.fired() => {
            return Err(DialError::Upstream(UpstreamFaultKind::ConnectTimeout));
        }
        Err(_) => return Err(DialError::Upstream(UpstreamFaultKind::ConnectFailed)),
        Ok(()) => drop(deadline),
    }
    let Some(tls) = &target.tls else {
        return Ok(Stream::plain(socket, &core.deadlines, core.buffers.clone()));
    };
    let session = Session::connect(tls).map_err(|_| DialError::Ours(FaultKind::Internal))?;
    let made = Stream::handshake(
        socket,
        &core.deadlines,
        core.buffers.clone(),
        session,
        upstream.connect_timeout,
    )
    .await;
    made.map_err(|failed| {
        let e = failed.error;
        tracing::warn!(target: "upstream", address = %target.label, error = %e, "TLS handshake with the upstream failed");
        DialError::Upstream(match e.kind() {
            std::io::ErrorKind::InvalidData => UpstreamFaultKind::TlsFailed,
            _ => UpstreamFaultKind::ConnectFailed,
        })
    })
}

/// Without descriptors or memory for a socket it is this process that is at its limit.
fn no_socket(error: &std::io::Error) -> DialError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            DialError::Ours(FaultKind::Overloaded)
        }
        _ => DialError::Upstream(UpstreamFaultKind::ConnectFailed),
    }
}
