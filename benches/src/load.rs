//! A closed-loop load generator: N keep-alive connections, each sends its next request as soon as the
//! response to the last is complete. One epoll loop on the calling thread, no parsing beyond what
//! tells where a response ends, large bodies dropped inside the kernel, TLS handshakes done before the clock starts.

use crate::tls;
use anyhow::{Context, Result, bail};
use memchr::memmem;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ClientConfig, ClientConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HEAD_BYTES_MAX: usize = 64 << 10;
const SCRATCH_BYTES: usize = 256 << 10;
/// More failures than this in one run and there is nothing to measure.
const FAILURES_MAX: u64 = 1000;
const STALLED: Duration = Duration::from_secs(5);

/// What to send, to whom.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub request: Vec<u8>,
    pub tls: Option<Arc<ClientConfig>>,
}

/// What came back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Complete responses with status 200.
    pub responses: u64,
    pub body_bytes: u64,
    /// Another status, a broken response or a failed connection.
    pub failures: u64,
    /// Connections the subject closed before it answered; opened again.
    pub reconnects: u64,
    pub elapsed: Duration,
}

pub struct Load {
    target: Target,
    epoll: Epoll,
    clients: Vec<Client>,
    scratch: Vec<u8>,
}

impl Load {
    /// Opens the connections and sends the first request on each.
    pub fn start(target: Target, connections: usize) -> Result<Load> {
        let mut load = Load {
            target,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: Vec::with_capacity(connections),
            scratch: vec![0; SCRATCH_BYTES],
        };
        for slot in 0..connections {
            let client = load.open(slot)?;
            load.clients.push(client);
        }
        for client in &mut load.clients {
            client.send(&load.target.request)?;
        }
        Ok(load)
    }

    fn open(&self, slot: usize) -> Result<Client> {
        let client = Client::connect(&self.target)?;
        self.epoll.add(
            &client.stream,
            EpollEvent::new(EpollFlags::EPOLLIN, slot as u64),
        )?;
        Ok(client)
    }

    /// Goes on for `duration`. What is in flight at its end is counted by the next run.
    pub fn run(&mut self, duration: Duration) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut events = vec![EpollEvent::empty(); 256];
        let started = Instant::now();
        let mut last_response = started;
        loop {
            let now = Instant::now();
            counts.elapsed = now - started;
            if counts.elapsed >= duration {
                return Ok(counts);
            }
            let before = counts.responses;
            let ready = match self.epoll.wait(&mut events, EpollTimeout::from(50u8)) {
                Err(Errno::EINTR) => continue,
                other => other.context("wait for responses")?,
            };
            for event in &events[..ready] {
                self.serve(event.data() as usize, &mut counts)?;
            }
            if counts.responses > before {
                last_response = now;
            } else if now - last_response > STALLED {
                bail!("no response for {STALLED:?}");
            }
        }
    }

    fn serve(&mut self, slot: usize, counts: &mut Counts) -> Result<()> {
        let client = &mut self.clients[slot];
        let failure = match client.receive(&mut self.scratch) {
            Ok(Received::More) => return Ok(()),
            Ok(Received::Response { body_bytes }) => {
                counts.responses += 1;
                counts.body_bytes += body_bytes as u64;
                match client.send(&self.target.request) {
                    Ok(()) => return Ok(()),
                    Err(e) => Some(e),
                }
            }
            Ok(Received::ClosedUnanswered) => None,
            Err(e) => Some(e),
        };
        match failure {
            None => counts.reconnects += 1,
            Some(_) => counts.failures += 1,
        }
        if counts.failures + counts.reconnects > FAILURES_MAX {
            let why = failure.map_or_else(
                || "connections closed without an answer".to_owned(),
                |e| format!("{e:#}"),
            );
            bail!("more than {FAILURES_MAX} failures, the last: {why}");
        }
        let mut fresh = self.open(slot)?;
        fresh.send(&self.target.request)?;
        self.clients[slot] = fresh;
        Ok(())
    }
}

enum Received {
    More,
    Response { body_bytes: usize },
    ClosedUnanswered,
}

struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    response: Response,
}

impl Client {
    fn connect(target: &Target) -> Result<Client> {
        let address = target.address;
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut tls = match &target.tls {
            None => None,
            Some(client) => Some(Box::new(tls::session(client)?)),
        };
        if let Some(session) = &mut tls {
            while session.is_handshaking() {
                session.complete_io(&mut stream).context("TLS handshake")?;
            }
        }
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            tls,
            response: Response::default(),
        })
    }

    /// Requests are small and the socket's buffer is empty, so a short write is an error.
    fn send(&mut self, request: &[u8]) -> Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(request).context("send"),
            Some(session) => {
                session.writer().write_all(request)?;
                while session.wants_write() {
                    session.write_tls(&mut self.stream).context("send")?;
                }
                Ok(())
            }
        }
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Result<Received> {
        let n = match &mut self.tls {
            None => receive_plain(&self.stream, self.response.body_left, scratch),
            Some(session) => {
                return receive_tls(session, &mut self.stream, &mut self.response, scratch);
            }
        };
        match n {
            Ok(0) => self.response.closed(),
            Ok(n) if self.response.body_left >= n => self.response.skip(n),
            Ok(n) => self.response.feed(&scratch[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::More),
            Err(Errno::ECONNRESET) => self.response.closed(),
            Err(e) => Err(e).context("receive"),
        }
    }
}

/// Within a large body the kernel drops the bytes instead of copying them.
fn receive_plain(stream: &TcpStream, body_left: usize, scratch: &mut [u8]) -> nix::Result<usize> {
    if body_left > 0 {
        let bytes = body_left.min(scratch.len());
        return recv(
            stream.as_raw_fd(),
            &mut scratch[..bytes],
            MsgFlags::MSG_TRUNC,
        );
    }
    recv(stream.as_raw_fd(), scratch, MsgFlags::empty())
}

fn receive_tls(
    session: &mut ClientConnection,
    stream: &mut TcpStream,
    response: &mut Response,
    scratch: &mut [u8],
) -> Result<Received> {
    match session.read_tls(stream) {
        Ok(0) => return response.closed(),
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Received::More),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return response.closed(),
        Err(e) => return Err(e).context("receive"),
    }
    session.process_new_packets().context("TLS record")?;
    loop {
        let n = match session.reader().read(scratch) {
            Ok(0) => return response.closed(),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Received::More),
            Err(e) => return Err(e).context("receive"),
        };
        let received = if response.body_left >= n {
            response.skip(n)
        } else {
            response.feed(&scratch[..n])
        };
        if !matches!(received, Ok(Received::More)) {
            return received;
        }
    }
}

/// Where in the current response the connection is.
#[derive(Default)]
struct Response {
    /// The head so far, where it came in parts.
    head: Vec<u8>,
    body_bytes: usize,
    body_left: usize,
    /// Head and body bytes of the last response: the next is most likely alike.
    usual: Option<(usize, usize)>,
}

impl Response {
    fn skip(&mut self, n: usize) -> Result<Received> {
        self.body_left -= n;
        Ok(self.done())
    }

    fn feed(&mut self, input: &[u8]) -> Result<Received> {
        if self.body_left > 0 {
            bail!("more bytes than the response has");
        }
        if let Some((head, body)) = self.usual {
            let alike = self.head.is_empty()
                && input.len() == head + body
                && input.starts_with(b"HTTP/1.1 200 ")
                && input[..head].ends_with(b"\r\n\r\n");
            if alike {
                return Ok(Received::Response { body_bytes: body });
            }
        }
        let head_before = self.head.len();
        self.head.extend_from_slice(input);
        let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else {
            if self.head.len() > HEAD_BYTES_MAX {
                bail!("response head without an end");
            }
            return Ok(Received::More);
        };
        let head = end + 4;
        let body = content_length(&self.head[..end])?;
        let body_here = head_before + input.len() - head;
        if body_here > body {
            bail!("more bytes than the response has");
        }
        self.head.clear();
        self.usual = Some((head, body));
        self.body_bytes = body;
        self.body_left = body - body_here;
        Ok(self.done())
    }

    fn done(&self) -> Received {
        match self.body_left {
            0 => Received::Response {
                body_bytes: self.body_bytes,
            },
            _ => Received::More,
        }
    }

    /// A connection may end between two responses: the request has to be sent again, nothing is wrong.
    fn closed(&self) -> Result<Received> {
        if self.body_left > 0 || !self.head.is_empty() {
            bail!("the connection ended within a response");
        }
        Ok(Received::ClosedUnanswered)
    }
}

fn content_length(head: &[u8]) -> Result<usize> {
    let text = String::from_utf8_lossy(head);
    if !text.starts_with("HTTP/1.1 200 ") {
        bail!("answered `{}`", text.lines().next().unwrap_or_default());
    }
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("a response without Content-Length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{BODY_1M_BYTES, BODY_BYTES, Upstream};
    use std::net::TcpListener;

    fn upstream() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The thread ends with the test process.
        std::thread::spawn(move || Upstream::new(listener).unwrap().run());
        address
    }

    #[test]
    fn counts_what_the_upstream_answers() {
        let address = upstream();
        for (target, body_bytes) in [("/", BODY_BYTES), ("/1m", BODY_1M_BYTES)] {
            let target = Target {
                address,
                request: format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
                tls: None,
            };
            let mut load = Load::start(target, 8).unwrap();
            let counts = load.run(Duration::from_millis(200)).unwrap();
            assert!(counts.responses > 8);
            assert_eq!(counts.body_bytes, counts.responses * body_bytes as u64);
            assert_eq!((counts.failures, counts.reconnects), (0, 0));
        }
    }

    #[test]
    fn responses_in_parts() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 1..text.len() {
            let mut response = Response::default();
            let (first, second) = text.split_at(cut);
            assert!(matches!(response.feed(first).unwrap(), Received::More));
            let received = if response.body_left >= second.len() {
                response.skip(second.len())
            } else {
                response.feed(second)
            };
            assert!(
                matches!(received.unwrap(), Received::Response { body_bytes: 3 }),
                "cut at {cut}"
            );
            assert!(matches!(
                response.feed(text).unwrap(),
                Received::Response { body_bytes: 3 }
            ));
        }
    }

    #[test]
    fn what_is_not_a_good_response() {
        for bad in [
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        ] {
            assert!(Response::default().feed(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
