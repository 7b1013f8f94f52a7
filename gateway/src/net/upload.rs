//! A request whose body is still arriving: it goes out while the response may already come back.

use super::conn::Conn;
use super::dial::{Dialled, Reuse};
use super::exchange::{Head, Next, Ready};
use super::op;
use super::relay::{Pace, Relay, RelayError};
use super::response::{Answered, Failed, Response};
use super::socket::End;
use crate::config::Snapshot;
use crate::http::body::Decoder;
use crate::outcome::{Decision, Rejection, RejectionKind, UpstreamFaultKind};
use crate::pipeline::request::too_large;
use futures_util::future::join;
use std::cell::Cell;
use std::sync::Arc;

/// What the two directions tell each other.
#[derive(Default)]
struct Progress {
    /// The body has been relayed to its end.
    uploaded: Cell<bool>,
    /// The response is over, so the rest of the body is not wanted.
    stop: Cell<bool>,
    /// The upload failed by itself, before it was stopped.
    upload_failed: Cell<bool>,
}

impl Conn {
    pub async fn forward_streaming(
        &mut self,
        mut ready: Ready,
        rechunk: bool,
        snapshot: &Arc<Snapshot>,
    ) -> Next {
        let dialled = match self.dial(&ready, Reuse::Allowed).await {
            Ok(dialled) => dialled,
            Err(error) => return self.dial_failed(&ready.head, error).await,
        };
        let progress = Progress::default();
        let (uploaded, answered) = self
            .both_ways(&mut ready, &dialled, rechunk, &progress, snapshot)
            .await;
        self.ex.bytes_in += uploaded.as_ref().copied().unwrap_or(0);
        let failed = match answered {
            Ok(answered) => {
                return self
                    .conclude(ready, dialled, Ok(answered), uploaded.is_ok())
                    .await;
            }
            Err(failed) => failed,
        };
        match uploaded {
            Err(error) if progress.upload_failed.get() => {
                self.upload_failed(ready, dialled, error, failed).await
            }
            _ => self.conclude(ready, dialled, Err(failed), false).await,
        }
    }

    async fn both_ways(
        &mut self,
        ready: &mut Ready,
        dialled: &Dialled,
        rechunk: bool,
        progress: &Progress,
        snapshot: &Arc<Snapshot>,
    ) -> (Result<u64, RelayError>, Result<Answered, Failed>) {
        let timeouts = snapshot.listeners[self.listener].timeouts;
        let response_timeout = ready.plan.route.response_timeout;
        let out = std::mem::take(&mut ready.out);
        let mut body = std::mem::replace(&mut ready.body, Decoder::Done);
        let mut carry = std::mem::take(&mut self.carry);
        let core = self.core.clone();
        let sent_us = self.since_start_us();
        let keep = ready.head.keep_alive && self.may_keep();
        let (client, upstream, bytes) = (&self.stream, &dialled.stream, Cell::new(0));
        let read_already = self.ex.bytes_in.saturating_sub(ready.head.bytes as u64);
        let relay = Relay {
            from: client,
            pace: Pace {
                wait: timeouts.body,
                rate_min: timeouts.body_rate_min,
            },
            to: upstream,
            send_timeout: response_timeout,
            rechunk,
            bytes_max: ready.plan.body_bytes_max.saturating_sub(read_already),
            end: End::Read,
            stop: Some(&progress.stop),
            buffers: &core.buffers,
        };
        let upload = async {
            let result = relay.run(&mut carry, &mut body, out, &bytes).await;
            client.deadline.disarm();
            progress.uploaded.set(result.is_ok());
            progress
                .upload_failed
                .set(result.is_err() && !progress.stop.get());
            match &result {
                // Only now does the upstream owe an answer; or it may have said why it stopped reading.
                Ok(_) | Err(RelayError::SinkFailed) => {
                    upstream.deadline.arm(response_timeout, End::Both)
                }
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
            keep,
            body_read: &progress.uploaded,
            send_timeout: timeouts.send,
            response_timeout,
            websocket: false,
            sent_us,
        };
        let download = async {
            let answered = response.run().await;
            if !progress.uploaded.get() {
                progress.stop.set(true);
                upstream.socket.end(End::Both);
                op::cancel(&client.socket).await;
            }
            answered
        };
        let ends = join(upload, download).await;
        self.carry = carry;
        ends
    }

    /// The body broke off before the response was complete: by whose doing, and who is told.
    async fn upload_failed(
        &mut self,
        ready: Ready,
        dialled: Dialled,
        error: RelayError,
        failed: Failed,
    ) -> Next {
        let rejection = match error {
            RelayError::SourceMalformed(rejection) => rejection.closing(),
            RelayError::TooLarge => too_large(ready.plan.body_bytes_max),
            RelayError::SourceTimeout => {
                let reason = "the body took too long to arrive";
                Rejection::new(RejectionKind::RequestTimeout, super::rules::body(), reason)
                    .closing()
            }
            RelayError::SourceClosed => return Next::Close, // nobody is there to be told
            RelayError::SinkTimeout => {
                return self
                    .upstream_fault(&ready.head, UpstreamFaultKind::ResponseTimeout)
                    .await;
            }
            RelayError::SinkFailed => {
                return self.conclude(ready, dialled, Err(failed), false).await;
            }
        };
        match failed {
            Failed::Stale | Failed::BeforeHead(_) => self.refuse(&ready.head, rejection).await,
            // The client has part of a response already: a second one in the middle of it would be read as its body.
            Failed::MidBody(_) | Failed::ClientGone | Failed::ClientSlow => {
                self.refuse_mid_body(&ready.head, rejection)
            }
        }
    }

    fn refuse_mid_body(&mut self, head: &Head, rejection: Rejection) -> Next {
        self.ex.decision = Decision::Refused {
            kind: rejection.kind,
            rule: rejection.rule,
        };
        self.break_off(head)
    }
}
