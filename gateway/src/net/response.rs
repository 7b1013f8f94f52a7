//! The response: its head read strictly from the upstream, encoded for the client, its body relayed.

use super::core::Core;
use super::exchange::Head;
use super::relay::{Pace, Relay, RelayError};
use super::socket::End;
use super::stream::Stream;
use crate::clock;
use crate::http::body::{Carry, Decoder};
use crate::http::chunked::ChunkedDecoder;
use crate::http::encode::BodyOut;
use crate::http::response::{ResponseFraming, encode_response, parse_response};
use crate::http::{HeadLimits, HeaderSpace};
use crate::http::{Header, Version};
use crate::outcome::UpstreamFaultKind;
use crate::pipeline::{Exchange, Notes};
use std::cell::Cell;
use std::time::Duration;

/// Interim responses (1xx) skipped before the final one must come.
const INTERIM_MAX: usize = 8;

pub struct Response<'a> {
    pub core: &'a Core,
    pub client: &'a Stream,
    pub upstream: &'a Stream,
    pub ex: &'a mut Exchange,
    pub notes: &'a Notes,
    pub head: Head,
    /// The client connection is to be kept, if the response allows it.
    pub keep: bool,
    /// The request's body has been read to its end: only then can another request follow.
    pub body_read: &'a Cell<bool>,
    pub send_timeout: Duration,
    pub response_timeout: Duration,
    pub websocket: bool,
    /// When the request had been sent, from the exchange's start.
    pub sent_us: u64,
}

pub struct Answered {
    pub upstream_keeps: bool,
    pub client_keeps: bool,
    /// The upstream has switched protocols: from here on bytes are relayed, these first.
    pub tunnel: Option<Carry>,
}

pub enum Failed {
    /// Closed before a byte of a response: on a reused connection the request may not have been read.
    Stale,
    /// Nothing has reached the client yet.
    BeforeHead(UpstreamFaultKind),
    /// Part of a response has reached the client.
    MidBody(UpstreamFaultKind),
    ClientGone,
    /// The client does not take in what it asked for.
    ClientSlow,
}

/// A head, encoded for the client, and how its body follows.
struct Encoded {
    out: Vec<u8>,
    body: Decoder,
    rechunk: bool,
    answered: Answered,
}

impl Response<'_> {
    pub async fn run(mut self) -> Result<Answered, Failed> {
        let mut carry = Carry::default();
        carry.adopt(self.core.buffers.small());
        let result = match self.read_head(&mut carry).await {
            Ok(encoded) => self.relay_body(encoded, &mut carry).await,
            Err(failed) => Err(failed),
        };
        let mut answered = match result {
            Ok(answered) if answered.tunnel.is_some() => {
                return Ok(Answered {
                    tunnel: Some(carry),
                    ..answered
                });
            }
            other => other,
        };
        // Bytes beyond the response are a reason not to keep the connection.
        let beyond = carry.unread().len();
        carry.consume(beyond);
        self.core.buffers.give(carry.release());
        if let Ok(answered) = &mut answered {
            answered.upstream_keeps &= beyond == 0;
        }
        answered
    }

    async fn read_head(&mut self, carry: &mut Carry) -> Result<Encoded, Failed> {
        let mut interim = 0;
        loop {
            while !carry.is_empty() {
                match self.look(carry)? {
                    Some(Some(encoded)) => return Ok(encoded),
                    Some(None) if interim < INTERIM_MAX => interim += 1,
                    Some(None) => {
                        return Err(Failed::BeforeHead(UpstreamFaultKind::MalformedResponse));
                    }
                    None => break,
                }
            }
            let read = self.upstream.read(carry.space()).await;
            match read {
                Ok(n) if n > 0 => {}
                _ if self.upstream.deadline.fired() => {
                    return Err(Failed::BeforeHead(UpstreamFaultKind::ResponseTimeout));
                }
                _ if carry.is_empty() && interim == 0 => return Err(Failed::Stale),
                _ => return Err(Failed::BeforeHead(UpstreamFaultKind::Reset)),
            }
        }
    }

    /// `None`: not complete; `Some(None)`: an interim response, skipped.
    fn look(&mut self, carry: &mut Carry) -> Result<Option<Option<Encoded>>, Failed> {
        let limits = HeadLimits {
            head_bytes_max: 64 << 10,
            ..HeadLimits::default()
        };
        let mut space = HeaderSpace::default();
        let parsed = parse_response(carry.unread(), &self.ex.method, &limits, &mut space)
            .map_err(Failed::BeforeHead)?;
        let Some((response, bytes)) = parsed else {
            return Ok(None);
        };
        let status = response.status;
        let speaks = |h: &Header<'_>| h.is("upgrade") && h.value.eq_ignore_ascii_case(b"websocket");
        let tunnel = status == 101 && self.websocket && response.headers.iter().any(speaks);
        if status < 200 && !tunnel {
            if status == 101 {
                // Nobody asked for another protocol.
                return Err(Failed::BeforeHead(UpstreamFaultKind::MalformedResponse));
            }
            carry.consume(bytes);
            return Ok(Some(None));
        }
        self.ex.status = status;
        self.ex.upstream_status = status;
        self.ex.timings.upstream_us = (clock::mono_ns().saturating_sub(self.ex.started.mono_ns)
            / 1000)
            .saturating_sub(self.sent_us);
        let http11 = self.head.version == Version::Http11;
        let (framing, body) = match response.framing {
            ResponseFraming::Empty => (BodyOut::None, Decoder::Done),
            ResponseFraming::Length(n) => (BodyOut::Length(n), Decoder::Length(n)),
            ResponseFraming::Chunked => (BodyOut::Chunked, Decoder::Chunked(ChunkedDecoder::new())),
            ResponseFraming::UntilClose => (BodyOut::Chunked, Decoder::UntilClose),
        };
        // Only HTTP/1.1 knows chunks; before it, the end of the connection is the end of the body.
        let close_delimited = matches!(framing, BodyOut::Chunked) && !http11;
        let framing = if close_delimited {
            BodyOut::None
        } else {
            framing
        };
        let rechunk = matches!(framing, BodyOut::Chunked);
        let client_keeps =
            self.keep && self.body_read.get() && !close_delimited && !self.core.is_draining();
        let mut out = self.core.buffers.small();
        encode_response(
            &response,
            &self.notes.response_fields,
            framing,
            self.head.version,
            !client_keeps && !tunnel,
            &self.ex.id,
            &mut out,
        );
        let upstream_keeps = response.keep_alive && !matches!(body, Decoder::UntilClose);
        carry.consume(bytes);
        Ok(Some(Some(Encoded {
            out,
            body,
            rechunk,
            answered: Answered {
                upstream_keeps,
                client_keeps,
                tunnel: tunnel.then(Carry::default),
            },
        })))
    }

    async fn relay_body(
        &mut self,
        encoded: Encoded,
        carry: &mut Carry,
    ) -> Result<Answered, Failed> {
        let Encoded {
            out,
            mut body,
            rechunk,
            answered,
        } = encoded;
        let relay = Relay {
            from: self.upstream,
            pace: Pace {
                wait: self.response_timeout,
                rate_min: 0,
            },
            to: self.client,
            send_timeout: self.send_timeout,
            rechunk,
            bytes_max: u64::MAX,
            end: End::Both,
            stop: None,
            buffers: &self.core.buffers,
        };
        let sent = Cell::new(0);
        let relayed = relay.run(carry, &mut body, out, &sent).await;
        self.ex.bytes_out += sent.get();
        let fault = match relayed {
            Ok(_) => return Ok(answered),
            Err(RelayError::SinkFailed) => return Err(Failed::ClientGone),
            Err(RelayError::SinkTimeout) => return Err(Failed::ClientSlow),
            Err(RelayError::SourceTimeout) => UpstreamFaultKind::ResponseTimeout,
            Err(RelayError::SourceMalformed(_)) => UpstreamFaultKind::MalformedResponse,
            Err(RelayError::SourceClosed | RelayError::TooLarge) => UpstreamFaultKind::Reset,
        };
        // Nothing was sent yet when the very first part of the body was broken.
        Err(if sent.get() == 0 {
            Failed::BeforeHead(fault)
        } else {
            Failed::MidBody(fault)
        })
    }
}
