//! A client over plain TCP (or the admin socket) that sends bytes as given and reads responses strictly.

use crate::bytes::{Ends, Head, Inbox, declared_end, split_head};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for one read: a test that hangs should say where.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    /// Whether the gateway says it closes.
    pub fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

pub struct Client {
    stream: Box<dyn Stream>,
    tcp: Option<TcpStream>,
    inbox: Inbox,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Client {
        Client::try_connect(to).unwrap_or_else(|e| panic!("connect to {to}: {e}"))
    }

    pub fn try_connect(to: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            tcp: Some(stream.try_clone()?),
            stream: Box::new(stream),
            inbox: Inbox::default(),
        })
    }

    pub fn unix(path: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Client {
            stream: Box::new(stream),
            tcp: None,
            inbox: Inbox::default(),
        })
    }

    /// The socket beneath, to stall, shut or reset it.
    pub fn socket(&self) -> &TcpStream {
        self.tcp.as_ref().expect("a TCP client")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("send");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The next response to anything but HEAD.
    pub fn response(&mut self) -> Response {
        self.try_response("GET").expect("a response")
    }

    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        let ends = body_end(&response, method)?;
        let body = &mut response.body;
        self.inbox
            .body(&mut self.stream, ends, |part| body.extend_from_slice(part))?;
        Ok(response)
    }

    /// Only a head: an interim response, or one whose body the test reads by itself.
    pub fn head(&mut self) -> io::Result<Response> {
        let raw = self.inbox.head(&mut self.stream)?;
        let raw =
            raw.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed, no response"))?;
        let head = split_head(&raw)?;
        let status = head
            .first_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("status line {:?}", head.first_line),
            )
        })?;
        Ok(Response {
            status,
            head,
            body: Vec::new(),
        })
    }

    /// The body that follows a [`Client::head`], part by part.
    pub fn body(&mut self, of: &Response, part: impl FnMut(&[u8])) -> io::Result<()> {
        let ends = body_end(of, "GET")?;
        self.inbox.body(&mut self.stream, ends, part)
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// Whether nothing more comes and the gateway closes, in a patient while.
    pub fn is_closed(&mut self) -> bool {
        if !self.inbox.is_empty() {
            return false;
        }
        match self.inbox.fill(&mut self.stream) {
            Ok(more) => !more,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// How long until the gateway closes without a byte; `None` if it says or waits for something.
    pub fn time_to_close(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        self.is_closed().then(|| begun.elapsed())
    }

    /// Raw bytes until the end of the stream, at most `max`.
    pub fn drain(&mut self, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut part = [0; 16 << 10];
        while out.len() < max {
            match self.read_some(&mut part) {
                Ok(n) if n > 0 => out.extend_from_slice(&part[..n]),
                _ => break,
            }
        }
        out
    }

    /// One read, of what came with a head first.
    pub fn read_some(&mut self, part: &mut [u8]) -> io::Result<usize> {
        match self.inbox.take(part) {
            0 => self.stream.read(part),
            n => Ok(n),
        }
    }

    pub fn end_sending(&self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }
}

fn body_end(response: &Response, method: &str) -> io::Result<Ends> {
    let declared = declared_end(&response.head)?;
    let bodyless =
        method == "HEAD" || response.status < 200 || matches!(response.status, 204 | 304);
    Ok(match declared {
        _ if bodyless => Ends::Length(0),
        Some(ends) => ends,
        None => Ends::Closed,
    })
}

/// `GET path` on a connection that stays open.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n")
}

/// `POST path` with a body by length.
pub fn post(path: &str, kind: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
