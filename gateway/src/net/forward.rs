//! A permitted request on its way: a connection to the upstream, the body there, the response back.

use super::buffers::LARGE;
use super::conn::Conn;
use super::dial::{DialError, Dialled, Reuse, dial};
use super::exchange::{Head, Next, Ready};
use super::response::{Answered, Failed, Response};
use super::socket::End;
use crate::clock;
use crate::config::Snapshot;
use crate::http::body::{Decoder, finish_chunks};
use crate::http::{Framing, Version};
use crate::outcome::{Decision, RejectionKind, UpstreamFaultKind};
use crate::pipeline::request::too_large;
use std::cell::Cell;
use std::sync::Arc;

impl Conn {
    pub async fn forward(&mut self, mut ready: Ready, snapshot: &Arc<Snapshot>) -> Next {
        self.ex.timings.policy_us = self
            .since_start_us()
            .saturating_sub(self.ex.timings.head_us);
        let timeouts = snapshot.listeners[self.listener].timeouts;
        if ready.head.expect_continue
            && self.carry.is_empty()
            && !ready.body.is_done()
            && self.send_continue(timeouts.send).await.is_err()
        {
            return Next::Close;
        }
        // A body that has arrived already goes out with its head, in one write.
        let rechunk = matches!(ready.body, Decoder::Chunked(_));
        match ready
            .body
            .pump(&mut self.carry, &mut ready.out, LARGE, rechunk)
        {
            Ok(moved) if moved > ready.plan.body_bytes_max => {
                return self
                    .refuse(&ready.head, too_large(ready.plan.body_bytes_max))
                    .await;
            }
            Ok(moved) => self.ex.bytes_in += moved,
            Err(malformed) => return self.refuse(&ready.head, malformed.closing()).await,
        }
        if ready.body.is_done() {
            if rechunk {
                finish_chunks(&mut ready.out);
            }
            self.forward_complete(ready, snapshot).await
        } else {
            Box::pin(self.forward_streaming(ready, rechunk, snapshot)).await
        }
    }

    /// The whole request is at hand: send it, then read; once more on a new connection if a pooled
    /// one turns out to be closed and the request may be sent twice.
    async fn forward_complete(&mut self, mut ready: Ready, snapshot: &Arc<Snapshot>) -> Next {
        ready.head.framing = Framing::Empty; // read to its end: the client's next request can follow
        let timeout = ready.plan.route.response_timeout;
        let mut reuse = Reuse::Allowed;
        loop {
            let dialled = match self.dial(&ready, reuse).await {
                Ok(dialled) => dialled,
                Err(error) => return self.dial_failed(&ready.head, error).await,
            };
            let sent_us = self.since_start_us();
            let sent = dialled.stream.write(&mut ready.out, timeout).await;
            dialled.stream.deadline.arm(timeout, End::Both);
            // Whether or not all of it was sent: what the upstream said before it stopped reading is worth having.
            let body_read = Cell::new(true);
            let mut answered = self
                .response(&ready, &dialled, snapshot, sent_us, &body_read)
                .run()
                .await;
            let stale = matches!(answered, Err(Failed::Stale)) && dialled.reused;
            if stale && ready.head.idempotent && reuse == Reuse::Allowed {
                reuse = Reuse::Never;
                continue;
            }
            match (&sent, &mut answered) {
                (Err(_), Ok(answered)) => answered.upstream_keeps = false,
                (Err(_), Err(failed)) if dialled.stream.write_timed_out() => {
                    *failed = Failed::BeforeHead(UpstreamFaultKind::ResponseTimeout);
                }
                _ => {}
            }
            self.core.buffers.give(std::mem::take(&mut ready.out));
            return self.conclude(ready, dialled, answered, true).await;
        }
    }

    pub async fn dial(&mut self, ready: &Ready, reuse: Reuse) -> Result<Dialled, DialError> {
        let began_us = self.since_start_us();
        let dialled = dial(&self.core, &ready.plan.route.upstream, reuse).await?;
        self.ex.upstream = Some(dialled.target.label.clone());
        self.ex.timings.connect_us = if dialled.reused {
            0
        } else {
            self.since_start_us() - began_us
        };
        Ok(dialled)
    }

    fn response<'a>(
        &'a mut self,
        ready: &Ready,
        dialled: &'a Dialled,
        snapshot: &Snapshot,
        sent_us: u64,
        body_read: &'a Cell<bool>,
    ) -> Response<'a> {
        let listener = &snapshot.listeners[self.listener];
        let keep = ready.head.keep_alive && self.may_keep();
        Response {
            core: &self.core,
            client: &self.stream,
            upstream: &dialled.stream,
            ex: &mut self.ex,
            notes: &self.notes,
            head: ready.head,
            keep,
            body_read,
            send_timeout: listener.timeouts.send,
            response_timeout: ready.plan.route.response_timeout,
            websocket: ready.head.websocket && ready.plan.route.websocket,
            sent_us,
        }
    }

    /// The exchange is over as far as the upstream goes: what becomes of both connections.
    pub async fn conclude(
        &mut self,
        ready: Ready,
        dialled: Dialled,
        answered: Result<Answered, Failed>,
        body_read: bool,
    ) -> Next {
        match answered {
            Ok(Answered {
                upstream_keeps,
                client_keeps,
                tunnel: None,
            }) => {
                self.ex.decision = Decision::Allowed;
                if upstream_keeps && body_read {
                    let (group, now_ns) = (&ready.plan.route.upstream, clock::mono_coarse_ns());
                    let (most, timeout) = (group.idle_connections_max, group.idle_timeout);
                    self.core
                        .pools
                        .give(dialled.target.id, dialled.stream, most, timeout, now_ns);
                }
                if client_keeps && body_read {
                    Next::Keep
                } else {
                    Next::Linger
                }
            }
            Ok(Answered {
                tunnel: Some(answered),
                ..
            }) => {
                self.ex.decision = Decision::Allowed;
                let early = std::mem::take(&mut self.carry);
                let (client, upstream) = (&self.stream, &dialled.stream);
                let sent = Box::pin(super::tunnel::run(
                    &self.core, client, early, upstream, answered,
                ))
                .await;
                self.ex.bytes_in += sent.to_upstream;
                self.ex.bytes_out += sent.to_client;
                Next::Close
            }
            Err(Failed::Stale) => {
                self.upstream_fault(&ready.head, UpstreamFaultKind::Reset)
                    .await
            }
            Err(Failed::BeforeHead(kind)) => self.upstream_fault(&ready.head, kind).await,
            Err(Failed::MidBody(kind)) => {
                self.ex.decision = Decision::UpstreamFault(kind);
                self.break_off(&ready.head)
            }
            Err(Failed::ClientGone) => {
                self.ex.decision = Decision::Allowed;
                Next::Close
            }
            Err(Failed::ClientSlow) => {
                self.ex.decision = Decision::Refused {
                    kind: RejectionKind::RequestTimeout,
                    rule: super::rules::send(),
                };
                Next::Close
            }
        }
    }

    /// Ends a response that is not complete. HTTP/1.1 clients see that from its framing; older ones
    /// only from a reset.
    pub fn break_off(&mut self, head: &Head) -> Next {
        if head.version == Version::Http10 {
            self.stream.socket.reset_on_close();
        }
        Next::Close
    }

    pub fn since_start_us(&self) -> u64 {
        clock::mono_ns().saturating_sub(self.ex.started.mono_ns) / 1000
    }
}
