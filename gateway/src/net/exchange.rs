//! One exchange on a client connection: read the head, decide, forward or refuse, record. Whatever
//! happens, it ends in [`Conn::finish`], once.

use super::conn::Conn;
use super::core::Core;
use super::socket::End;
use crate::clock::{self, Now};
use crate::config::Snapshot;
use crate::config::snapshot::Listener;
use crate::http::body::Decoder;
use crate::http::chunked::ChunkedDecoder;
use crate::http::encode::{BodyOut, ForwardFields, encode_request};
use crate::http::{Framing, RequestHead, Version, reply};
use crate::http::{HeaderSpace, Parsed, parse};
use crate::outcome::{Rejection, RejectionKind};
use crate::pipeline::request::Collected;
use crate::pipeline::{self, AwaitingBody, Exchange, Notes, Plan, Stage, Step};
use std::borrow::Cow;
use std::sync::Arc;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Keep,
    /// Close, but let the client read what was sent.
    Linger,
    Close,
}

/// Where an exchange stands after its head was looked at.
enum Look {
    Partial,
    Forward(Box<Ready>),
    NeedsBody(Box<(Head, AwaitingBody)>),
    Refused(Box<(Head, Rejection)>),
}

/// What outlives the borrowed head.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub bytes: usize,
    pub framing: Framing,
    pub keep_alive: bool,
    pub version: Version,
    pub is_head: bool,
    /// May be sent twice (RFC 9110 section 9.2.2).
    pub idempotent: bool,
    pub expect_continue: bool,
    pub websocket: bool,
}

/// A request that may go upstream, with its head encoded for it.
pub struct Ready {
    pub head: Head,
    pub plan: Plan,
    /// The head for the upstream; a validated body follows in it.
    pub out: Vec<u8>,
    /// What of the body has still to come from the client.
    pub body: Decoder,
}

impl Head {
    /// For a head that did not parse: nothing about it is known.
    pub const UNKNOWN: Head = Head {
        bytes: 0,
        framing: Framing::Empty,
        keep_alive: false,
        version: Version::Http11,
        is_head: false,
        idempotent: false,
        expect_continue: false,
        websocket: false,
    };

    fn of(head: &RequestHead<'_>, bytes: usize) -> Head {
        Head {
            bytes,
            framing: head.framing,
            keep_alive: head.keep_alive,
            version: head.version,
            is_head: head.method == "HEAD",
            idempotent: matches!(
                head.method,
                "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
            ),
            expect_continue: head.expect_continue,
            websocket: head.websocket,
        }
    }
}

impl Conn {
    /// Reads, decides and answers one request.
    pub async fn exchange(&mut self) -> Next {
        let listener = self.core.snapshot().listeners[self.listener].clone();
        let timeouts = listener.timeouts;
        self.requests_max = listener.requests_per_connection;
        let idle = if self.served == 0 {
            timeouts.head
        } else {
            timeouts.idle
        };
        if !self.await_request(idle).await {
            return Next::Close;
        }
        self.begin();
        // From here to the end the request sees this one snapshot.
        let snapshot = self.core.snapshot();
        let next = match self.read_head(&snapshot).await {
            Look::Partial => Next::Close, // the client left in the middle of its head
            Look::Refused(refused) => self.refuse(&refused.0, refused.1).await,
            Look::Forward(ready) => self.forward(*ready, &snapshot).await,
            Look::NeedsBody(needs) => {
                Box::pin(self.validate_body(needs.0, needs.1, &snapshot)).await
            }
        };
        self.finish(&snapshot);
        next
    }

    async fn read_head(&mut self, snapshot: &Arc<Snapshot>) -> Look {
        let listener = &snapshot.listeners[self.listener];
        let (mut armed, mut looked_at) = (false, 0usize);
        loop {
            // A head that trickles in is looked at when it can have ended, or has doubled: the work stays linear.
            let bytes = self.carry.unread();
            let from = looked_at.saturating_sub(3);
            let ends = memchr::memmem::find(&bytes[from.min(bytes.len())..], b"\r\n\r\n").is_some();
            if looked_at == 0
                || ends
                || bytes.len() >= 2 * looked_at
                || bytes.len() > listener.head.head_bytes_max
            {
                looked_at = bytes.len();
                let look = self.look(snapshot);
                if !matches!(look, Look::Partial) {
                    self.stream.deadline.disarm();
                    return look;
                }
            }
            if !armed {
                self.stream.deadline.arm(listener.timeouts.head, End::Read);
                armed = true;
            }
            let read = self.read().await;
            if self.stream.deadline.fired() {
                let late = Rejection::new(
                    RejectionKind::RequestTimeout,
                    super::rules::head(),
                    "the head took too long to arrive",
                );
                return Look::Refused(Box::new((Head::UNKNOWN, late.closing())));
            }
            if !matches!(read, Ok(n) if n > 0) {
                self.ex.bytes_in = self.carry.unread().len() as u64;
                return Look::Partial;
            }
        }
    }

    /// Parses and decides on what has arrived so far. Synchronous: the borrowed head never crosses an await.
    fn look(&mut self, snapshot: &Arc<Snapshot>) -> Look {
        let listener = &snapshot.listeners[self.listener];
        let stage = stage(&self.core, snapshot, listener, self.ex.started);
        let mut space = HeaderSpace::default();
        let (head, bytes) = match parse(
            self.carry.unread(),
            &listener.head,
            &mut self.scratch,
            &mut space,
        ) {
            Ok(Parsed::Partial) => return Look::Partial,
            Ok(Parsed::Complete {
                head,
                head_len,
                dropped_fields,
            }) => {
                self.ex.dropped_fields = dropped_fields;
                (head, head_len)
            }
            Err(rejection) => {
                self.ex.bytes_in = self.carry.unread().len() as u64;
                return Look::Refused(Box::new((Head::UNKNOWN, rejection.closing())));
            }
        };
        let kept = Head::of(&head, bytes);
        self.ex.bytes_in = bytes as u64;
        self.ex.timings.head_us = stage.now.mono_ns.saturating_sub(self.ex.started.mono_ns) / 1000;
        match pipeline::request::request(stage, &head, &mut self.ex, &mut self.notes) {
            Ok(Step::NeedsBody(awaiting)) => Look::NeedsBody(Box::new((kept, awaiting))),
            Err(rejection) => {
                self.carry.consume(bytes);
                Look::Refused(Box::new((kept, rejection)))
            }
            Ok(Step::Forward(plan)) => {
                let framing = match head.framing {
                    Framing::Empty => BodyOut::None,
                    Framing::Length(n) => BodyOut::Length(n),
                    Framing::Chunked => BodyOut::Chunked,
                };
                let mut out = self.core.buffers.small();
                encode(
                    &head,
                    &plan,
                    listener,
                    &self.ex,
                    &self.notes,
                    framing,
                    &mut out,
                );
                self.carry.consume(bytes);
                Look::Forward(Box::new(Ready {
                    head: kept,
                    plan,
                    out,
                    body: decoder(kept.framing),
                }))
            }
        }
    }

    /// Collects the body, lets the policies see it, and forwards exactly the bytes they saw.
    async fn validate_body(
        &mut self,
        head: Head,
        awaiting: AwaitingBody,
        snapshot: &Arc<Snapshot>,
    ) -> Next {
        // The head moves out of the way of the body; it is parsed again once the body is complete.
        let mut head_bytes = self.core.buffers.small();
        head_bytes.extend_from_slice(&self.carry.unread()[..head.bytes]);
        self.carry.consume(head.bytes);
        let collected = self
            .collect_body(&head, awaiting.bytes_max(), snapshot)
            .await;
        let decided = match collected {
            Ok(collected) => self.decide_on_body(&head_bytes, &head, awaiting, collected, snapshot),
            Err(Stopped::Refused(rejection)) => Err(*rejection),
            Err(Stopped::Left) => return Next::Close,
        };
        self.core.buffers.give(head_bytes);
        match decided {
            Ok(ready) => self.forward(ready, snapshot).await,
            // Its body has been read; where it has not, the refusal closes the connection.
            Err(rejection) => {
                self.refuse(
                    &Head {
                        framing: Framing::Empty,
                        ..head
                    },
                    rejection,
                )
                .await
            }
        }
    }

    async fn collect_body(
        &mut self,
        head: &Head,
        bytes_max: u64,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Body, Stopped> {
        let timeouts = snapshot.listeners[self.listener].timeouts;
        let mut rest = decoder(head.framing);
        let mut bytes = Vec::new();
        if matches!(rest, Decoder::Length(n) if n > bytes_max) {
            return Ok(Body { bytes, rest }); // not worth reading first
        }
        if head.expect_continue && self.carry.is_empty() && !rest.is_done() {
            self.send_continue(timeouts.send)
                .await
                .map_err(|_| Stopped::Left)?;
        }
        self.stream.deadline.arm(timeouts.body, End::Read);
        loop {
            let room = (bytes_max as usize).saturating_add(1);
            let moved = rest
                .pump(&mut self.carry, &mut bytes, room, false)
                .map_err(|r| Stopped::Refused(Box::new(r.closing())))?;
            self.ex.bytes_in += moved;
            if rest.is_done() || bytes.len() as u64 > bytes_max {
                self.stream.deadline.disarm();
                return Ok(Body { bytes, rest });
            }
            let read = self.read().await;
            if self.stream.deadline.fired() {
                let late = Rejection::new(
                    RejectionKind::RequestTimeout,
                    super::rules::body(),
                    "the body took too long to arrive",
                );
                return Err(Stopped::Refused(Box::new(late.closing())));
            }
            match read {
                Ok(n) if n > 0 => self
                    .stream
                    .deadline
                    .extend(earned(n, timeouts.body_rate_min), timeouts.body),
                _ => return Err(Stopped::Left),
            }
        }
    }

    fn decide_on_body(
        &mut self,
        head_bytes: &[u8],
        kept: &Head,
        awaiting: AwaitingBody,
        body: Body,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Ready, Rejection> {
        let listener = &snapshot.listeners[self.listener];
        let stage = stage(&self.core, snapshot, listener, self.ex.started);
        let mut space = HeaderSpace::default();
        let Parsed::Complete { head, .. } =
            parse(head_bytes, &listener.head, &mut self.scratch, &mut space)?
        else {
            return Err(Rejection::new(
                RejectionKind::MalformedHead,
                super::rules::head(),
                "the head is not complete",
            )
            .closing());
        };
        let whole = body.rest.is_done();
        let collected = if whole {
            Collected::Whole(&body.bytes)
        } else {
            Collected::TooLarge
        };
        let plan = pipeline::request::body(
            stage,
            &head,
            awaiting,
            collected,
            &mut self.ex,
            &mut self.notes,
        )?;
        // Whole: forwarded with a length of our own. Too large for a shadow policy only: as it was framed.
        let framing = match head.framing {
            Framing::Empty => BodyOut::None,
            Framing::Chunked if !whole => BodyOut::Chunked,
            Framing::Length(n) if !whole => BodyOut::Length(n),
            _ => BodyOut::Length(body.bytes.len() as u64),
        };
        let mut out = self.core.buffers.small();
        encode(
            &head,
            &plan,
            listener,
            &self.ex,
            &self.notes,
            framing,
            &mut out,
        );
        crate::http::body::push(&body.bytes, &mut out, framing == BodyOut::Chunked);
        Ok(Ready {
            head: *kept,
            plan,
            out,
            body: body.rest,
        })
    }

    pub async fn send_continue(&mut self, timeout: std::time::Duration) -> std::io::Result<()> {
        let mut out = self.core.buffers.small();
        out.extend_from_slice(reply::CONTINUE);
        let sent = self.stream.write(&mut out, timeout).await;
        self.core.buffers.give(out);
        sent
    }
}

/// What the pure stages may read. The monotonic clock is read anew, the wall clock once per exchange.
fn stage<'a>(
    core: &'a Core,
    snapshot: &'a Snapshot,
    listener: &'a Listener,
    started: Now,
) -> Stage<'a> {
    Stage {
        snapshot,
        listener,
        limits: &core.shared.limits,
        bans: &core.shared.bans,
        now: Now {
            mono_ns: clock::mono_ns(),
            ..started
        },
    }
}

/// What was collected of a body, and what is still to come.
struct Body {
    bytes: Vec<u8>,
    rest: Decoder,
}

/// Why a body was not collected.
enum Stopped {
    Refused(Box<Rejection>),
    /// The client is gone.
    Left,
}

fn decoder(framing: Framing) -> Decoder {
    match framing {
        Framing::Empty => Decoder::Done,
        Framing::Length(n) => Decoder::Length(n),
        Framing::Chunked => Decoder::Chunked(ChunkedDecoder::new()),
    }
}

/// The time that `n` bytes buy at the lowest rate allowed.
fn earned(n: usize, rate_min: u64) -> std::time::Duration {
    std::time::Duration::from_nanos((n as u64).saturating_mul(1_000_000_000) / rate_min.max(1))
}

/// The head for the upstream.
fn encode(
    head: &RequestHead<'_>,
    plan: &Plan,
    listener: &Listener,
    ex: &Exchange,
    notes: &Notes,
    body: BodyOut,
    out: &mut Vec<u8>,
) {
    let trusted = listener.is_trusted_proxy(crate::units::unmapped(ex.socket.ip()));
    let inherited = trusted.then(|| forwarded_for(head)).flatten();
    let identity = ex.identity.as_deref();
    let (roles, scopes) = identity
        .map(|i| (list(&i.roles, ","), list(&i.scopes, " ")))
        .unwrap_or_default();
    let mut extra: Vec<(&str, &str)> = Vec::new();
    if let Some(identity) = identity {
        extra.push(("X-Gateway-Subject", &identity.subject));
        extra.push(("X-Gateway-Roles", &roles));
        extra.push(("X-Gateway-Scopes", &scopes));
    }
    let path = &head.path[plan.route.strip_prefix_bytes.min(head.path.len())..];
    let fields = ForwardFields {
        client: ex.client,
        host: "", // as the client sent it, port included; it has been checked
        tls: ex.tls.is_some(),
        request_id: &ex.id,
        inherited_xff: inherited.as_deref(),
        extra: &extra,
        strip: &notes.strip,
        upstream_path: (plan.route.strip_prefix_bytes > 0).then_some(if path.is_empty() {
            "/"
        } else {
            path
        }),
    };
    encode_request(
        head,
        &fields,
        body,
        head.websocket && plan.route.websocket,
        out,
    );
}

/// Every `X-Forwarded-For` field as one list.
fn forwarded_for<'h>(head: &RequestHead<'h>) -> Option<Cow<'h, [u8]>> {
    let mut fields = head.headers.iter().filter(|h| h.is("x-forwarded-for"));
    let mut all = Cow::Borrowed(fields.next()?.value);
    for field in fields {
        all.to_mut().extend_from_slice(b", ");
        all.to_mut().extend_from_slice(field.value);
    }
    Some(all)
}

/// Names as a list in a field. One that could be read as two, or end the field, is left out.
fn list(names: &[String], separator: &str) -> String {
    let is_one = |name: &&String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b',')
    };
    names
        .iter()
        .filter(is_one)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(separator)
}
