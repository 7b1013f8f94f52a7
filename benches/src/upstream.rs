//! An upstream that costs as little as it can, since it shares its core with the load generator: one
//! epoll loop, fixed responses, large bodies by sendfile from memory.
//!
//! `/64k…` answers 65,536 bytes, `/1m…` 1,048,576, every other target 128. Pipelined requests are
//! answered in order. A request body is skipped by its Content-Length; a chunked one ends the connection.

use anyhow::{Context, Result};
use memchr::memmem;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, send};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

pub const BODY_BYTES: usize = 128;
pub const BODY_64K_BYTES: usize = 64 << 10;
pub const BODY_1M_BYTES: usize = 1 << 20;

/// More than this of one unfinished request and the peer is not one of ours.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;

/// The body every response of that size has.
pub fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| b'a' + (i % 26) as u8).collect()
}

/// Listens, prints the address it got, and serves until the process ends.
pub fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    println!("{}", listener.local_addr()?);
    Upstream::new(listener)?.run()
}

/// One fixed response.
struct Answer {
    /// The head; of a small answer the body too.
    bytes: Vec<u8>,
    /// A large body, in memory that sendfile reads without a copy.
    file: Option<File>,
    file_bytes: usize,
}

impl Answer {
    fn small(bytes: usize) -> Answer {
        let mut text = head(bytes);
        text.extend_from_slice(&body(bytes));
        Answer {
            bytes: text,
            file: None,
            file_bytes: 0,
        }
    }

    fn large(bytes: usize) -> Result<Answer> {
        let mut file = File::from(memfd_create("body", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&body(bytes))?;
        Ok(Answer {
            bytes: head(bytes),
            file: Some(file),
            file_bytes: bytes,
        })
    }
}

fn head(bytes: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n")
        .into_bytes()
}

struct Connection {
    stream: TcpStream,
    /// What came in beyond the last complete request.
    unread: Vec<u8>,
    /// The answer being sent, and how much of it (head, then body) has been.
    sending: Option<(usize, usize)>,
}

enum Outcome {
    /// Everything read has been answered.
    Idle,
    /// The peer does not take more for now.
    Blocked,
    Closed,
}

pub struct Upstream {
    epoll: Epoll,
    listener: TcpListener,
    answers: [Answer; 3],
    connections: Vec<Option<Connection>>,
    scratch: Vec<u8>,
}

impl Upstream {
    pub fn new(listener: TcpListener) -> Result<Upstream> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Upstream {
            epoll,
            listener,
            answers: [
                Answer::small(BODY_BYTES),
                Answer::large(BODY_64K_BYTES)?,
                Answer::large(BODY_1M_BYTES)?,
            ],
            connections: Vec::new(),
            scratch: vec![0; 64 << 10],
        })
    }

    /// Serves until the process ends.
    pub fn run(mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 512];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context("wait for connections")?,
            };
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept()?,
                    slot => self.serve(slot as usize)?,
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e).context("accept"),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let slot = stream.as_raw_fd() as usize;
            self.epoll
                .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
            if self.connections.len() <= slot {
                self.connections.resize_with(slot + 1, || None);
            }
            self.connections[slot] = Some(Connection {
                stream,
                unread: Vec::new(),
                sending: None,
            });
        }
    }

    fn serve(&mut self, slot: usize) -> Result<()> {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return Ok(()); // closed by an earlier event of the same batch
        };
        let was_blocked = connection.sending.is_some();
        let outcome = connection.turn(&self.answers, &mut self.scratch);
        let interest = match outcome {
            // Closing the descriptor takes it out of the epoll set.
            Outcome::Closed => {
                self.connections[slot] = None;
                return Ok(());
            }
            Outcome::Blocked => EpollFlags::EPOLLOUT,
            Outcome::Idle => EpollFlags::EPOLLIN,
        };
        if was_blocked != matches!(outcome, Outcome::Blocked) {
            self.epoll.modify(
                &connection.stream,
                &mut EpollEvent::new(interest, slot as u64),
            )?;
        }
        Ok(())
    }
}

impl Connection {
    fn turn(&mut self, answers: &[Answer; 3], scratch: &mut [u8]) -> Outcome {
        if self.sending.is_some() {
            match self.send(answers) {
                Outcome::Idle => {}
                other => return other,
            }
            let unread = std::mem::take(&mut self.unread);
            return self.answer_all(&unread, answers);
        }
        let n = match self.stream.read(scratch) {
            Ok(0) => return Outcome::Closed,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Outcome::Idle,
            Err(_) => return Outcome::Closed,
        };
        if self.unread.is_empty() {
            return self.answer_all(&scratch[..n], answers);
        }
        let mut input = std::mem::take(&mut self.unread);
        input.extend_from_slice(&scratch[..n]);
        self.answer_all(&input, answers)
    }

    /// Answers each complete request of `input` and keeps the rest.
    fn answer_all(&mut self, mut input: &[u8], answers: &[Answer; 3]) -> Outcome {
        loop {
            match next_request(input) {
                Request::Whole { answer, bytes } => {
                    input = &input[bytes..];
                    self.sending = Some((answer, 0));
                }
                Request::Partial if input.len() < REQUEST_BYTES_MAX => {
                    self.unread.extend_from_slice(input);
                    return Outcome::Idle;
                }
                Request::Partial | Request::Unusable => return Outcome::Closed,
            }
            match self.send(answers) {
                Outcome::Idle => {}
                Outcome::Blocked => {
                    self.unread.extend_from_slice(input);
                    return Outcome::Blocked;
                }
                Outcome::Closed => return Outcome::Closed,
            }
        }
    }

    fn send(&mut self, answers: &[Answer; 3]) -> Outcome {
        let Some((index, mut sent)) = self.sending else {
            return Outcome::Idle;
        };
        let answer = &answers[index];
        let total = answer.bytes.len() + answer.file_bytes;
        while sent < total {
            let result = match &answer.file {
                Some(file) if sent >= answer.bytes.len() => {
                    let mut offset = (sent - answer.bytes.len()) as i64;
                    sendfile64(&self.stream, file, Some(&mut offset), total - sent)
                }
                file => {
                    // The head waits for the body, so that both leave in one segment.
                    let more = if file.is_some() {
                        MsgFlags::from_bits_retain(libc::MSG_MORE)
                    } else {
                        MsgFlags::empty()
                    };
                    let rest = &answer.bytes[sent..];
                    send(self.stream.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL | more)
                }
            };
            match result {
                Ok(n) => sent += n,
                Err(Errno::EAGAIN) => {
                    self.sending = Some((index, sent));
                    return Outcome::Blocked;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return Outcome::Closed,
            }
        }
        self.sending = None;
        Outcome::Idle
    }
}

#[derive(Debug, PartialEq)]
enum Request {
    Whole { answer: usize, bytes: usize },
    Partial,
    Unusable,
}

fn next_request(input: &[u8]) -> Request {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else {
        return Request::Partial;
    };
    let head = &input[..end];
    // A request without a body is the rule: nothing but GET is looked at further.
    let body_bytes = if head.starts_with(b"GET ") {
        Some(0)
    } else {
        body_bytes(head)
    };
    let Some(body_bytes) = body_bytes else {
        return Request::Unusable;
    };
    let bytes = end + 4 + body_bytes;
    if bytes > input.len() {
        return Request::Partial;
    }
    let target = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
    let answer = match target {
        [b'/', b'6', b'4', b'k', ..] => 1,
        [b'/', b'1', b'm', ..] => 2,
        _ => 0,
    };
    Request::Whole { answer, bytes }
}

/// `None` where the length is not plain to see.
fn body_bytes(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    let mut length = 0;
    for line in text.split("\r\n").skip(1) {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value
                .trim()
                .parse()
                .ok()
                .filter(|n| *n <= REQUEST_BYTES_MAX)?;
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let whole = |answer, bytes| Request::Whole { answer, bytes };
        for (input, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", whole(0, 18)),
            ("GET /64k HTTP/1.1\r\n\r\nGET", whole(1, 21)),
            ("GET /1m/x HTTP/1.1\r\n\r\n", whole(2, 22)),
            (
                "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcd",
                whole(0, 41),
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab",
                Request::Partial,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 9999999\r\n\r\nab",
                Request::Unusable,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Request::Unusable,
            ),
            ("GET / HTTP/1.1\r\n", Request::Partial),
            ("", Request::Partial),
        ] {
            assert_eq!(next_request(input.as_bytes()), expected, "{input:?}");
        }
    }

    #[test]
    fn answers_pipelined_requests_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The thread ends with the test process.
        std::thread::spawn(move || Upstream::new(listener).unwrap().run());
        let mut client = TcpStream::connect(address).unwrap();
        client
            .write_all(b"GET /1m HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /64k HTTP/1.1\r\nHo")
            .unwrap();
        client.write_all(b"st: x\r\n\r\n").unwrap();
        for bytes in [BODY_1M_BYTES, BODY_BYTES, BODY_64K_BYTES] {
            let mut expected = head(bytes);
            expected.extend_from_slice(&body(bytes));
            let mut got = vec![0; expected.len()];
            client.read_exact(&mut got).unwrap();
            assert!(got == expected, "{bytes} bytes");
        }
    }
}
