//! A permitted request on its way: a connection to the upstream, the body there, the response back.

use super::buffers::LARGE;
use super::conn::Conn;
use super::dial::{Dialled, Reuse, dial};
use super::exchange::{Next, Ready};
use super::op;
use super::relay::{Pace, Relay, RelayError};
use super::response::{Answered, Failed, Response};
use super::socket::End;
use crate::clock;
use crate::config::Snapshot;
use crate::http::Framing;
use crate::http::body::{Carry, Decoder, finish_chunks};
use crate::outcome::{Decision, UpstreamFaultKind};
use crate::pipeline::request::too_large;
use futures_util::future::join;
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
        let mut reuse = if ready.head.idempotent {
            Reuse::Optimistic
        } else {
            Reuse::Checked
        };
        loop {
            let dialled = match self.dial(&ready, reuse).await {
                Ok(dialled) => dialled,
                Err(kind) => return self.upstream_fault(&ready.head, kind).await,
            };
            let send_timeout = ready.plan.route.response_timeout;
            let sent_us = self.since_start_us();
            if let Err(e) = dialled.stream.write(&mut ready.out, send_timeout).await {
                tracing::debug!(target: "upstream", address = %dialled.target.label, error = %e, "request not sent whole");
            }
            dialled
                .stream
                .deadline
                .arm(ready.plan.route.response_timeout, End::Both);
            // Whether or not all of it was sent: what the upstream said before it stopped reading is worth having.
            let body_read = Cell::new(true);
            let answered = self
                .response(&ready, &dialled, snapshot, sent_us, &body_read)
                .run()
                .await;
            if matches!(answered, Err(Failed::Stale))
                && dialled.reused
                && ready.head.idempotent
                && reuse != Reuse::Never
            {
                reuse = Reuse::Never;
                continue;
            }
            self.core.buffers.give(std::mem::take(&mut ready.out));
            return self.conclude(ready, dialled, answered, true).await;
        }
    }

    /// The body is still arriving: it goes out while the response may already come back.
    async fn forward_streaming(
        &mut self,
        mut ready: Ready,
        rechunk: bool,
        snapshot: &Arc<Snapshot>,
    ) -> Next {
        let dialled = match self.dial(&ready, Reuse::Checked).await {
            Ok(dialled) => dialled,
            Err(kind) => return self.upstream_fault(&ready.head, kind).await,
        };
        let timeouts = snapshot.listeners[self.listener].timeouts;
        let response_timeout = ready.plan.route.response_timeout;
        let out = std::mem::take(&mut ready.out);
        let mut body = std::mem::replace(&mut ready.body, Decoder::Done);
        let mut carry = std::mem::take(&mut self.carry);
        let core = self.core.clone();
        let sent_us = self.since_start_us();
        let (uploaded, bytes) = (Cell::new(false), Cell::new(0));
        let (client, upstream) = (&self.stream, &dialled.stream);
        let relay = Relay {
            from: client,
            pace: Pace {
                wait: timeouts.body,
                rate_min: timeouts.body_rate_min,
            },
            to: upstream,
            send_timeout: response_timeout,
            rechunk,
            bytes_max: ready
                .plan
                .body_bytes_max
                .saturating_sub(self.ex.bytes_in.saturating_sub(ready.head.bytes as u64)),
            buffers: &core.buffers,
        };
        let upload = async {
            let result = relay.run(&mut carry, &mut body, out, &bytes).await;
            uploaded.set(result.is_ok());
            match &result {
                // Only now does the upstream owe an answer.
                Ok(_) => upstream.deadline.arm(response_timeout, End::Both),
                // It may have said why it stopped reading; a broken client ends the exchange.
                Err(RelayError::SinkFailed) => {}
                Err(_) => upstream.socket.end(End::Both),
            }
            result
        };
        let response = Response {
            core: &self.core,
            client,
            upstream,
            ex: &mut self.ex,
            notes: &self.notes,
            head: ready.head,
            keep: ready.head.keep_alive
                && self.served + 1 < snapshot.listeners[self.listener].requests_per_connection,
            body_read: &uploaded,
            send_timeout: timeouts.send,
            response_timeout,
            websocket: false,
            sent_us,
        };
        let download = async {
            let answered = response.run().await;
            if !uploaded.get() {
                // Answered before the body was complete: the rest is not wanted.
                op::cancel(&client.socket).await;
                upstream.socket.end(End::Both);
            }
            answered
        };
        let (uploaded, answered) = join(upload, download).await;
        self.carry = carry;
        self.ex.bytes_in += uploaded.as_ref().copied().unwrap_or(0);
        match (uploaded, answered) {
            (uploaded, Ok(answered)) => {
                self.conclude(ready, dialled, Ok(answered), uploaded.is_ok())
                    .await
            }
            (Err(RelayError::SourceMalformed(rejection)), Err(_)) => {
                self.refuse(&ready.head, rejection.closing()).await
            }
            (Err(RelayError::TooLarge), Err(_)) => {
                self.refuse(&ready.head, too_large(ready.plan.body_bytes_max))
                    .await
            }
            (Err(RelayError::SourceTimeout), Err(_)) => Next::Close,
            (Err(RelayError::SourceClosed), Err(_)) => Next::Close,
            (_, answered) => self.conclude(ready, dialled, answered, false).await,
        }
    }

    async fn dial(&mut self, ready: &Ready, reuse: Reuse) -> Result<Dialled, UpstreamFaultKind> {
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
        let keep = ready.head.keep_alive
            && !self.core.is_draining()
            && self.served + 1 < listener.requests_per_connection;
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
    async fn conclude(
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
                tunnel: false,
            }) => {
                self.ex.decision = Decision::Allowed;
                if upstream_keeps && body_read {
                    let (group, now_ns) = (&ready.plan.route.upstream, clock::mono_coarse_ns());
                    let (id, most, timeout) = (
                        dialled.target.id,
                        group.idle_connections_max,
                        group.idle_timeout,
                    );
                    self.core
                        .pools
                        .give(id, dialled.stream, most, timeout, now_ns);
                }
                match (client_keeps && body_read, body_read) {
                    (true, _) => Next::Keep,
                    _ => Next::Linger,
                }
            }
            Ok(Answered { .. }) => {
                self.ex.decision = Decision::Allowed;
                let carry = std::mem::take(&mut self.carry);
                let sent =
                    super::tunnel::run(&self.core, &self.stream, carry, &dialled.stream).await;
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
                Next::Close // the client sees from its framing that the body is not complete
            }
            Err(Failed::ClientGone) => {
                self.ex.decision = Decision::Allowed;
                Next::Close
            }
        }
    }

    pub fn since_start_us(&self) -> u64 {
        clock::mono_ns().saturating_sub(self.ex.started.mono_ns) / 1000
    }
}

/// An empty carry, for a connection to the upstream.
pub fn fresh_carry(buffers: &super::buffers::Buffers) -> Carry {
    let mut carry = Carry::default();
    carry.adopt(buffers.small());
    carry
}
