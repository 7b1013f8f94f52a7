//! A body on its way from one connection to another: one buffer, read and written in turn, so a slow
//! reader holds its writer back.

use super::buffers::{Buffers, LARGE};
use super::socket::End;
use super::stream::Stream;
use crate::http::body::{Carry, Decoder, finish_chunks};
use crate::outcome::Rejection;
use std::cell::Cell;
use std::time::Duration;

/// How slow the sending side may be.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest wait for the next part.
    pub wait: Duration,
    /// Bytes per second that earn more time once `wait` has passed; 0: every part starts a new wait.
    pub rate_min: u64,
}

#[derive(Debug)]
pub enum RelayError {
    /// The sending side closed or failed before the body was complete.
    SourceClosed,
    SourceTimeout,
    /// The sending side broke its framing.
    SourceMalformed(Rejection),
    /// The body is longer than allowed.
    TooLarge,
    SinkFailed,
    SinkTimeout,
}

pub struct Relay<'a> {
    pub from: &'a Stream,
    pub pace: Pace,
    pub to: &'a Stream,
    /// Longest time the receiving side may take for one part.
    pub send_timeout: Duration,
    pub rechunk: bool,
    pub bytes_max: u64,
    /// What a late sending side loses: a client can still be told why.
    pub end: End,
    /// Set when the rest is not wanted any more.
    pub stop: Option<&'a Cell<bool>>,
    pub buffers: &'a Buffers,
}

impl Relay<'_> {
    /// Sends `out` (a head, usually) and then the body, to its end. Returns the body's bytes; `sent`
    /// counts all bytes written so far also when an error cuts the relay short.
    pub async fn run(
        &self,
        carry: &mut Carry,
        body: &mut Decoder,
        mut out: Vec<u8>,
        sent: &Cell<u64>,
    ) -> Result<u64, RelayError> {
        let result = self.parts(carry, body, &mut out, sent).await;
        self.buffers.give(out);
        result
    }

    async fn parts(
        &self,
        carry: &mut Carry,
        body: &mut Decoder,
        out: &mut Vec<u8>,
        sent: &Cell<u64>,
    ) -> Result<u64, RelayError> {
        let mut total = 0u64;
        let mut started = false;
        loop {
            total += body
                .pump(carry, out, LARGE, self.rechunk)
                .map_err(RelayError::SourceMalformed)?;
            if total > self.bytes_max {
                return Err(RelayError::TooLarge);
            }
            let (done, full) = (body.is_done(), out.len() >= LARGE);
            if done && self.rechunk {
                finish_chunks(out);
            }
            self.flush(out, sent).await?;
            if done {
                self.from.deadline.disarm();
                return Ok(total);
            }
            if full && !carry.is_empty() {
                continue; // what is at hand goes before what has still to arrive
            }
            if !started || self.pace.rate_min == 0 {
                self.from.deadline.arm(self.pace.wait, self.end);
                started = true;
            }
            if self.stop.is_some_and(Cell::get) {
                return Err(RelayError::SourceClosed);
            }
            let n = self.read_part(carry, body, out, &mut total).await?;
            if self.from.deadline.fired() {
                return Err(RelayError::SourceTimeout);
            }
            if n == 0 {
                if !matches!(body, Decoder::UntilClose) {
                    return Err(RelayError::SourceClosed);
                }
                *body = Decoder::Done;
            } else if let Some(earned_ns) =
                (n as u64 * 1_000_000_000).checked_div(self.pace.rate_min)
            {
                self.from
                    .deadline
                    .extend(Duration::from_nanos(earned_ns), self.pace.wait);
            }
        }
    }

    async fn flush(&self, out: &mut Vec<u8>, sent: &Cell<u64>) -> Result<(), RelayError> {
        if out.is_empty() {
            return Ok(());
        }
        let written = self.to.write(out, self.send_timeout).await;
        let bytes = out.len() as u64;
        out.clear();
        match written {
            Ok(()) => {
                sent.set(sent.get() + bytes);
                Ok(())
            }
            Err(_) if self.to.write_timed_out() => Err(RelayError::SinkTimeout),
            Err(_) => Err(RelayError::SinkFailed),
        }
    }

    /// Reads the next part: straight into the outgoing buffer where no framing is in between.
    async fn read_part(
        &self,
        carry: &mut Carry,
        body: &mut Decoder,
        out: &mut Vec<u8>,
        total: &mut u64,
    ) -> Result<usize, RelayError> {
        let failed = |_| self.source_gone();
        if !body.is_verbatim() || self.rechunk {
            if !carry.has_buffer() {
                carry.adopt(self.buffers.small());
            }
            return self.from.read(carry.space()).await.map_err(failed);
        }
        debug_assert!(carry.is_empty(), "the body would be put in another order");
        if out.capacity() < LARGE && *total > 0 {
            self.buffers
                .give(std::mem::replace(out, self.buffers.large()));
        }
        let n = self.from.read(out).await.map_err(failed)?;
        let beyond = body.count(n);
        *total += (n - beyond) as u64;
        if beyond > 0 {
            let at = out.len() - beyond;
            if !carry.has_buffer() {
                carry.adopt(self.buffers.small());
            }
            carry.space().extend_from_slice(&out[at..]);
            out.truncate(at);
        }
        Ok(n)
    }

    fn source_gone(&self) -> RelayError {
        if self.from.deadline.fired() {
            RelayError::SourceTimeout
        } else {
            RelayError::SourceClosed
        }
    }
}
