//! The chunked transfer coding (RFC 9112 section 7.1), streaming and strict: exact line ends, capped
//! extensions, trailers checked and dropped.

use super::{lines, rules};
use crate::outcome::Rejection;
use std::ops::Range;

/// Chunk size line, extensions included, without its line end.
const SIZE_LINE_BYTES_MAX: u32 = 256;
/// Extension bytes of one body: they carry nothing and cost work.
const EXTENSION_BYTES_MAX: u32 = 16 << 10;
const SIZE_DIGITS_MAX: u32 = 16;
const TRAILER_LINE_BYTES_MAX: usize = 1024;
const TRAILER_BYTES_MAX: u32 = 8 << 10;
const TRAILER_FIELDS_MAX: u32 = 32;

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkEvent {
    /// All of the input is consumed.
    NeedMore,
    /// Body bytes, as a range of the input.
    Data(Range<usize>),
    /// The body and its trailers are complete; what follows is the next message.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { digits: u32, size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Decoder of one body.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    line_bytes: u32,
    extension_bytes: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
    /// The trailer line that has begun. Allocated only where trailers are sent; capped.
    trailer: Vec<u8>,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        ChunkedDecoder::new()
    }
}

impl ChunkedDecoder {
    pub fn new() -> ChunkedDecoder {
        ChunkedDecoder {
            state: State::Size { digits: 0, size: 0 },
            line_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
            trailer: Vec::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Consumes from the front of `input` up to one event: `(bytes consumed, event)`. `Data` ranges end
    /// where the consumed bytes end. After `Done` nothing more is consumed.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, ChunkEvent), Rejection> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Done => return Ok((at, ChunkEvent::Done)),
                State::Data { left } => {
                    let take = left.min((input.len() - at) as u64) as usize;
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataCr
                    } else {
                        State::Data { left }
                    };
                    return Ok((at + take, ChunkEvent::Data(at..at + take)));
                }
                State::Trailers => self.trailer_byte(input[at])?,
                _ => self.framing_byte(input[at])?,
            }
            at += 1;
        }
        let event = if self.is_done() {
            ChunkEvent::Done
        } else {
            ChunkEvent::NeedMore
        };
        Ok((at, event))
    }

    fn framing_byte(&mut self, b: u8) -> Result<(), Rejection> {
        self.state = match self.state {
            State::Size { digits, size } => match ((b as char).to_digit(16), b) {
                (Some(_), _) if digits == SIZE_DIGITS_MAX => {
                    return Err(rules::chunked("A chunk size is too large."));
                }
                (Some(digit), _) => State::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                },
                (None, b'\r') if digits > 0 => State::SizeLf { size },
                (None, b';') if digits > 0 => State::Extension { size },
                _ => return Err(rules::chunked("A chunk size is not a hexadecimal number.")),
            },
            State::Extension { size } => self.extension_byte(b, size)?,
            State::SizeLf { size } if b == b'\n' => {
                self.line_bytes = 0;
                match size {
                    0 => State::Trailers,
                    // No body is that long, and it could not be counted safely.
                    size if size > i64::MAX as u64 => {
                        return Err(rules::chunked("A chunk size is too large."));
                    }
                    left => State::Data { left },
                }
            }
            State::DataCr if b == b'\r' => State::DataLf,
            State::DataLf if b == b'\n' => State::Size { digits: 0, size: 0 },
            _ => return Err(rules::chunked("A chunk does not end with CR LF.")),
        };
        Ok(())
    }

    fn extension_byte(&mut self, b: u8, size: u64) -> Result<State, Rejection> {
        if b == b'\r' {
            return Ok(State::SizeLf { size });
        }
        self.line_bytes += 1;
        self.extension_bytes += 1;
        if self.line_bytes > SIZE_LINE_BYTES_MAX || self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(rules::chunked("Chunk extensions are longer than allowed."));
        }
        if lines::has_control(&[b]) {
            return Err(rules::chunked("A chunk extension holds a control byte."));
        }
        Ok(State::Extension { size })
    }

    fn trailer_byte(&mut self, b: u8) -> Result<(), Rejection> {
        self.trailer_bytes += 1;
        self.trailer.push(b);
        if self.trailer_bytes > TRAILER_BYTES_MAX || self.trailer.len() > TRAILER_LINE_BYTES_MAX {
            return Err(rules::chunked("The trailers are longer than allowed."));
        }
        if b != b'\n' {
            return Ok(());
        }
        // The line is a field section of its own: checked by the rules of heads.
        if self.trailer == b"\r\n" {
            self.state = State::Done;
        } else {
            lines::fields_end(&self.trailer, 0, usize::MAX)
                .map_err(|flaw| rules::chunked(flaw.detail()))?;
            self.trailer_fields += 1;
            if self.trailer_fields > TRAILER_FIELDS_MAX {
                return Err(rules::chunked("There are more trailers than allowed."));
            }
            self.trailer.clear();
        }
        Ok(())
    }
}

/// Appends the size line of a chunk; the data and CR LF follow. A chunk of 0 would end the body, so it is left out.
pub fn encode_chunk_head(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0, "an empty chunk ends the body");
    if len == 0 {
        return;
    }
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (4 * i) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::RejectionKind;

    /// Feeds `input` in pieces of `step` bytes: the body and how many bytes were consumed.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Rejection> {
        let mut decoder = ChunkedDecoder::new();
        let (mut body, mut at, mut end) = (Vec::new(), 0, 0);
        while !decoder.is_done() {
            if at == end {
                if end == input.len() {
                    return Ok((body, at, false));
                }
                end = (end + step).min(input.len());
            }
            let (used, event) = decoder.feed(&input[at..end])?;
            if let ChunkEvent::Data(range) = event {
                body.extend_from_slice(&input[at..end][range]);
            }
            at += used;
        }
        Ok((body, at, true))
    }

    #[test]
    fn accepts() {
        let table: &[(&[u8], &[u8], usize)] = &[
            (b"0\r\n\r\n", b"", 0),
            (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", 3),
            (
                b"5;a=b;c=\"d e\"\r\nhello\r\n1\r\n!\r\n000\r\n\r\n",
                b"hello!",
                0,
            ),
            (
                b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: \xff\r\n\r\nnext",
                b"01234567890123456789",
                4,
            ),
        ];
        for (input, body, left) in table {
            for step in 1..=input.len() {
                let (got, used, done) = decode(input, step).unwrap();
                assert!(
                    done && got == *body && used == input.len() - left,
                    "{input:?} by {step}"
                );
            }
        }
    }

    #[test]
    fn refuses() {
        let table: &[&[u8]] = &[
            b"\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\rhello",
            b"0x5\r\nhello",
            b"+5\r\nhello",
            b"-5\r\nhello",
            b" 5\r\nhello",
            b"5 \r\nhello",
            b"5 ;a\r\nhello",
            b"g\r\n",
            b";a\r\n",
            b"5;a\nhello",
            b"5;a\x00b\r\nhello",
            b"5;a\rb\r\nhello",
            b"10000000000000000\r\n",
            b"00000000000000005\r\nhello",
            b"ffffffffffffffff\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\r\n X: 1\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nX: a\rb\r\n\r\n",
            b"0\r\nX: a\0b\r\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rX: 1\r\n\r\n",
        ];
        for input in table {
            for step in [1, 2, 3, input.len()] {
                let refusal = decode(input, step)
                    .expect_err(&format!("{:?}", String::from_utf8_lossy(input)));
                assert_eq!(refusal.kind, RejectionKind::MalformedBody);
                assert!(refusal.close);
            }
        }
    }

    #[test]
    fn caps_hold_on_both_sides() {
        let ext = |n: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(n));
        assert!(decode(ext(256).as_bytes(), 7).unwrap().2);
        assert!(decode(ext(257).as_bytes(), 7).is_err());
        let trailers = |n: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(n));
        assert!(decode(trailers(32).as_bytes(), 7).unwrap().2);
        assert!(decode(trailers(33).as_bytes(), 7).is_err());
        let many = |n: usize| {
            format!(
                "{}0\r\n\r\n",
                format!("1;{}\r\nx\r\n", "a".repeat(255)).repeat(n)
            )
        };
        assert!(decode(many(64).as_bytes(), 999).unwrap().2);
        assert!(decode(many(65).as_bytes(), 999).is_err());
        assert!(decode(format!("0\r\nA: {}", "b".repeat(2000)).as_bytes(), 100).is_err());
    }

    #[test]
    fn heads_round_trip() {
        for len in [1, 9, 15, 16, 255, 256, 4096, 0x12345] {
            let mut out = Vec::new();
            encode_chunk_head(len, &mut out);
            out.extend(std::iter::repeat_n(b'x', len));
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(LAST_CHUNK);
            let (body, used, done) = decode(&out, 1000).unwrap();
            assert!(done && body.len() == len && used == out.len());
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// However the bytes are split, the body, its end and the verdict are the same.
        #[test]
        fn splits_do_not_matter(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec!["1\r\n", "x\r\n", "0\r\n", "\r\n", "2;a=b\r\n", "xy\r\n", "A: b\r\n", "\n", "\r", ";", "f", " ", "\0"]),
                0..12,
            ),
            step in 1..5usize,
        ) {
            let input = pieces.concat();
            let (split, whole) = (decode(input.as_bytes(), step), decode(input.as_bytes(), input.len().max(1)));
            proptest::prop_assert_eq!(split, whole);
        }
    }
}
