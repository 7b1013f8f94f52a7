//! HTTP/1.1 as bytes: one strict reader for what comes back from the gateway and for what reaches an upstream.

use std::io::{self, Read};

const HEAD_BYTES_MAX: usize = 256 << 10;
const PART_BYTES: usize = 64 << 10;

/// A head, split. Names are kept as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub first_line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        let found = self.fields.iter().filter(same);
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that may stand once.
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(
            all.len() <= 1,
            "{name} stands {} times: {self:?}",
            all.len()
        );
        all.first().copied()
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Length(u64),
    Chunked,
    Closed,
}

/// Bytes that arrived and are not consumed yet.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was read ahead, as much as fits; 0 when nothing was.
    pub fn take(&mut self, part: &mut [u8]) -> usize {
        let n = part.len().min(self.bytes.len());
        part[..n].copy_from_slice(&self.bytes[..n]);
        self.bytes.drain(..n);
        n
    }

    /// One read; `false` at the end of the stream.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        let at = self.bytes.len();
        self.bytes.resize(at + PART_BYTES, 0);
        let read = from.read(&mut self.bytes[at..]);
        self.bytes
            .truncate(at + read.as_ref().copied().unwrap_or(0));
        Ok(read? > 0)
    }

    fn fill_or_end(&mut self, from: &mut impl Read) -> io::Result<()> {
        match self.fill(from)? {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "closed in the middle of a message ({} bytes unread)",
                    self.bytes.len()
                ),
            )),
        }
    }

    /// The raw bytes of a head, closing empty line included. `None`: closed before its first byte.
    pub fn head(&mut self, from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(Some(self.bytes.drain(..at + 4).collect()));
            }
            if self.bytes.len() > HEAD_BYTES_MAX {
                return Err(bad("a head without end"));
            }
            if self.bytes.is_empty() {
                if !self.fill(from)? {
                    return Ok(None);
                }
            } else {
                self.fill_or_end(from)?;
            }
        }
    }

    /// The body, part by part, decoded.
    pub fn body(
        &mut self,
        from: &mut impl Read,
        ends: Ends,
        mut part: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        match ends {
            Ends::Length(n) => self.exactly(from, n, &mut part),
            Ends::Closed => loop {
                part(&self.bytes);
                self.bytes.clear();
                if !self.fill(from)? {
                    return Ok(());
                }
            },
            Ends::Chunked => loop {
                let line = self.line(from)?;
                let size = u64::from_str_radix(&line, 16).map_err(|_| bad("a chunk size"))?;
                self.exactly(from, size, &mut part)?;
                if !self.line(from)?.is_empty() {
                    return Err(bad("a chunk that does not end, or a trailer"));
                }
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    fn exactly(
        &mut self,
        from: &mut impl Read,
        mut left: u64,
        part: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        while left > 0 {
            if self.bytes.is_empty() {
                self.fill_or_end(from)?;
            }
            let n = (self.bytes.len() as u64).min(left);
            part(&self.bytes[..n as usize]);
            self.bytes.drain(..n as usize);
            left -= n;
        }
        Ok(())
    }

    fn line(&mut self, from: &mut impl Read) -> io::Result<String> {
        loop {
            if let Some(at) = self.bytes.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).map_err(|_| bad("a line"));
            }
            self.fill_or_end(from)?;
        }
    }
}

/// Splits a head; anything but strict syntax is an error.
pub fn split_head(raw: &[u8]) -> io::Result<Head> {
    let text = String::from_utf8(raw.to_vec()).map_err(|_| bad("bytes that are no text"))?;
    let text = text.strip_suffix("\r\n\r\n").ok_or(bad("an open head"))?;
    let mut lines = text.split("\r\n");
    let first_line = lines.next().unwrap_or_default().to_owned();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or(bad("a field line"))?;
        let clean = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        if !clean || value.contains(['\r', '\n', '\0']) {
            return Err(bad("a field"));
        }
        fields.push((name.to_owned(), value.to_owned()));
    }
    Ok(Head { first_line, fields })
}

/// What the fields say of the body's end; both or two of a kind is an error. `None`: they say nothing.
pub fn declared_end(head: &Head) -> io::Result<Option<Ends>> {
    match (
        &head.all("content-length")[..],
        &head.all("transfer-encoding")[..],
    ) {
        ([], []) => Ok(None),
        ([n], []) => n
            .parse()
            .map(|n| Some(Ends::Length(n)))
            .map_err(|_| bad("a length")),
        ([], ["chunked"]) => Ok(Some(Ends::Chunked)),
        other => Err(bad(&format!("a framing: {other:?}"))),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"))
}
