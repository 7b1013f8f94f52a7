//! How an exchange ends: refused, failed or served, it is recorded here, once, and counts as a
//! strike where it shows misbehaviour.

use super::conn::Conn;
use super::dial::DialError;
use super::exchange::{Head, Next};
use crate::clock::Now;
use crate::config::Snapshot;
use crate::http::Framing;
use crate::http::reply::{self, Problem};
use crate::outcome::{Decision, Rejection, UpstreamFaultKind};
use std::sync::Arc;
use std::time::Duration;

/// For an answer of our own; it is small, so a client that does not take it in is not worth waiting for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

impl Conn {
    /// Answers with problem details. The connection is kept where its next request is certain to
    /// start where this one ends.
    pub async fn refuse(&mut self, head: &Head, rejection: Rejection) -> Next {
        // A body that has been neither read nor refused would be taken for the next request.
        let body_pending = head.framing != Framing::Empty && !self.skip_body(head);
        let close = rejection.close || body_pending || !head.keep_alive || !self.may_keep();
        self.ex.status = rejection.kind.status();
        self.ex.timings.policy_us = self
            .since_start_us()
            .saturating_sub(self.ex.timings.head_us);
        self.date();
        let mut out = self.core.buffers.small();
        reply::problem(
            &rejection,
            &self.ex.id,
            &self.notes.response_fields,
            head.is_head,
            close,
            &mut out,
        );
        self.ex.decision = Decision::Refused {
            kind: rejection.kind,
            rule: rejection.rule,
        };
        self.send_reply(out, close).await
    }

    pub async fn upstream_fault(&mut self, head: &Head, kind: UpstreamFaultKind) -> Next {
        self.ex.decision = Decision::UpstreamFault(kind);
        self.answer_fault(head, problem(kind.status(), kind.slug(), kind.title()))
            .await
    }

    pub async fn dial_failed(&mut self, head: &Head, error: DialError) -> Next {
        match error {
            DialError::Upstream(kind) => self.upstream_fault(head, kind).await,
            DialError::Ours(kind) => {
                self.ex.decision = Decision::Fault(kind);
                self.answer_fault(head, problem(kind.status(), kind.slug(), kind.title()))
                    .await
            }
        }
    }

    async fn answer_fault(&mut self, head: &Head, problem: Problem) -> Next {
        let close = !head.keep_alive || head.framing != Framing::Empty || !self.may_keep();
        self.ex.status = problem.status;
        self.date();
        let mut out = self.core.buffers.small();
        let fields = &self.notes.response_fields;
        reply::fault(problem, &self.ex.id, fields, close, head.is_head, &mut out);
        self.send_reply(out, close).await
    }

    /// What we answer ourselves carries our date (RFC 9110 section 6.6.1).
    fn date(&mut self) {
        self.notes
            .response_fields
            .push(("Date", self.ex.started.http_date()));
    }

    async fn send_reply(&mut self, mut out: Vec<u8>, close: bool) -> Next {
        let sent = self.stream.write(&mut out, REPLY_TIMEOUT).await;
        self.ex.bytes_out += out.len() as u64;
        self.core.buffers.give(out);
        match sent {
            Err(_) => Next::Close,
            Ok(()) if close => Next::Linger,
            Ok(()) => Next::Keep,
        }
    }

    /// Passes over the body of a refused request. `true` when it has arrived whole (and is gone), so
    /// that the next request can follow.
    fn skip_body(&mut self, head: &Head) -> bool {
        match head.framing {
            Framing::Length(n) if (self.carry.unread().len() as u64) >= n => {
                self.carry.consume(n as usize);
                true
            }
            _ => false,
        }
    }

    /// The one exit of every exchange.
    pub fn finish(&mut self, snapshot: &Arc<Snapshot>) {
        let now = Now::read();
        self.ex.timings.total_us = now.mono_ns.saturating_sub(self.ex.started.mono_ns) / 1000;
        self.core.record(&self.ex);
        if let Decision::Refused { kind, .. } = &self.ex.decision
            && let Some(strike) = kind.strike()
        {
            self.core
                .strike(&self.ex, strike, snapshot, self.listener, now);
        }
    }
}

fn problem(status: u16, slug: &'static str, title: &'static str) -> Problem {
    Problem {
        status,
        slug,
        title,
    }
}
