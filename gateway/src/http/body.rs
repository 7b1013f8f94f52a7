//! A message body as it arrives: decoded by its framing, and framed again for the other side.

use super::chunked::{ChunkEvent, ChunkedDecoder, LAST_CHUNK, encode_chunk_head};
use crate::outcome::Rejection;

/// Bytes read ahead of where decoding stands.
#[derive(Default)]
pub struct Carry {
    buf: Vec<u8>,
    at: usize,
}

impl Carry {
    pub fn unread(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.buf.len()
    }

    pub fn consume(&mut self, n: usize) {
        self.at += n;
        debug_assert!(self.at <= self.buf.len());
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
        }
    }

    /// The buffer to append to; what was consumed is dropped when space runs short.
    pub fn space(&mut self) -> &mut Vec<u8> {
        if self.at > 0 && (self.buf.capacity() - self.buf.len()) < 4096 {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        &mut self.buf
    }

    /// Whether a buffer is held at all.
    pub fn has_buffer(&self) -> bool {
        self.buf.capacity() > 0
    }

    pub fn adopt(&mut self, buf: Vec<u8>) {
        debug_assert!(self.is_empty());
        self.buf = buf;
        self.at = 0;
    }

    /// Gives the (empty) buffer away: an idle connection holds none.
    pub fn release(&mut self) -> Vec<u8> {
        debug_assert!(self.is_empty());
        self.at = 0;
        std::mem::take(&mut self.buf)
    }
}

/// What is still to come.
pub enum Decoder {
    Done,
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl Decoder {
    pub fn is_done(&self) -> bool {
        matches!(self, Decoder::Done | Decoder::Length(0))
    }

    /// Body bytes may be read straight into the outgoing buffer: no framing in between.
    pub fn is_verbatim(&self) -> bool {
        matches!(self, Decoder::Length(_) | Decoder::UntilClose)
    }

    /// Counts `n` verbatim bytes; returns how many of them lie beyond the body's end.
    pub fn count(&mut self, n: usize) -> usize {
        match self {
            Decoder::Length(left) => {
                let body = (*left).min(n as u64);
                *left -= body;
                n - body as usize
            }
            Decoder::UntilClose => 0,
            Decoder::Done | Decoder::Chunked(_) => n,
        }
    }

    /// Moves decoded bytes from `carry` to `out` until either is exhausted or `out` holds `out_max`.
    /// Returns how many body bytes were moved. With `rechunk`, each part is framed as a chunk.
    pub fn pump(
        &mut self,
        carry: &mut Carry,
        out: &mut Vec<u8>,
        out_max: usize,
        rechunk: bool,
    ) -> Result<u64, Rejection> {
        let mut moved = 0;
        while !self.is_done() && !carry.is_empty() && out.len() < out_max {
            match self {
                Decoder::Chunked(chunks) => {
                    let (used, event) = chunks.feed(carry.unread())?;
                    match event {
                        ChunkEvent::Data(range) => {
                            let data = &carry.unread()[range];
                            moved += data.len() as u64;
                            push(data, out, rechunk);
                            carry.consume(used);
                        }
                        ChunkEvent::NeedMore => {
                            carry.consume(used);
                            if used == 0 {
                                break;
                            }
                        }
                        ChunkEvent::Done => {
                            carry.consume(used);
                            *self = Decoder::Done;
                        }
                    }
                }
                _ => {
                    let available = carry.unread().len();
                    let body = available - self.count(available);
                    push(&carry.unread()[..body], out, rechunk);
                    moved += body as u64;
                    carry.consume(body);
                }
            }
        }
        Ok(moved)
    }
}

/// Appends body bytes, as a chunk where the body is framed in chunks.
pub fn push(data: &[u8], out: &mut Vec<u8>, rechunk: bool) {
    if rechunk && !data.is_empty() {
        encode_chunk_head(data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(data);
    }
}

/// Ends a body that was framed as chunks.
pub fn finish_chunks(out: &mut Vec<u8>) {
    out.extend_from_slice(LAST_CHUNK);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(bytes: &[u8]) -> Carry {
        let mut c = Carry::default();
        c.space().extend_from_slice(bytes);
        c
    }

    #[test]
    fn a_length_leaves_the_next_request_alone() {
        let (mut c, mut out) = (carry(b"helloGET /"), Vec::new());
        let mut d = Decoder::Length(5);
        assert_eq!(d.pump(&mut c, &mut out, 1 << 16, false).unwrap(), 5);
        assert!(d.is_done());
        assert_eq!((out.as_slice(), c.unread()), (&b"hello"[..], &b"GET /"[..]));
    }

    #[test]
    fn chunks_are_framed_again_whatever_the_split() {
        let wire = b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\nGET /";
        for step in 1..wire.len() {
            let (mut c, mut out, mut d) = (
                Carry::default(),
                Vec::new(),
                Decoder::Chunked(ChunkedDecoder::new()),
            );
            let mut body = 0;
            for part in wire.chunks(step) {
                c.space().extend_from_slice(part);
                body += d.pump(&mut c, &mut out, 1 << 16, false).unwrap();
            }
            assert!(d.is_done(), "step {step}");
            assert_eq!(
                (body, out.as_slice(), c.unread()),
                (6, &b"hello!"[..], &b"GET /"[..]),
                "step {step}"
            );
        }
        let (mut c, mut out, mut d) = (
            carry(wire),
            Vec::new(),
            Decoder::Chunked(ChunkedDecoder::new()),
        );
        d.pump(&mut c, &mut out, 1 << 16, true).unwrap();
        finish_chunks(&mut out);
        assert_eq!(out, b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
    }
}
