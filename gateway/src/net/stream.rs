//! A connection, plain or TLS, with reads and writes that can go on at the same time.

use super::buffers::Buffers;
use super::deadline::{Deadline, Deadlines};
use super::op;
use super::socket::{End, Socket};
use crate::tls::{Session, Taken};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

pub struct Stream {
    pub socket: Rc<Socket>,
    /// Ends the pending read; also where draining finds idle connections.
    pub deadline: Deadline,
    /// Ends the pending write. Its own, because both can be pending at once.
    write_deadline: Deadline,
    tls: Option<Box<Tls>>,
    buffers: Rc<Buffers>,
}

struct Tls {
    session: RefCell<Session>,
    /// One writer at a time: records must leave in the order they were sealed.
    writing: Cell<bool>,
    /// Plaintext that came with the last handshake message.
    early: RefCell<Vec<u8>>,
    first_byte: Cell<Option<u8>>,
}

/// Why there is no TLS session.
pub struct HandshakeError {
    pub error: io::Error,
    /// The connection, where its peer spoke plain HTTP and can be told so.
    pub plain: Option<Stream>,
}

impl Stream {
    pub fn plain(socket: Rc<Socket>, deadlines: &Rc<Deadlines>, buffers: Rc<Buffers>) -> Stream {
        let (deadline, write_deadline) = (
            deadlines.watch(socket.clone()),
            deadlines.watch(socket.clone()),
        );
        Stream {
            socket,
            deadline,
            write_deadline,
            tls: None,
            buffers,
        }
    }

    /// Runs the handshake. On failure the alert has been sent.
    pub async fn handshake(
        socket: Rc<Socket>,
        deadlines: &Rc<Deadlines>,
        buffers: Rc<Buffers>,
        session: Session,
        timeout: Duration,
    ) -> Result<Stream, HandshakeError> {
        let tls = Tls {
            session: RefCell::new(session),
            writing: Cell::new(false),
            early: RefCell::default(),
            first_byte: Cell::new(None),
        };
        let stream = Stream {
            tls: Some(Box::new(tls)),
            ..Stream::plain(socket, deadlines, buffers)
        };
        stream.deadline.arm(timeout, End::Both);
        match Box::pin(stream.drive_handshake()).await {
            Ok(()) => {
                stream.deadline.disarm();
                Ok(stream)
            }
            Err(error) if stream.spoke_http() => {
                let Stream {
                    socket,
                    deadline,
                    write_deadline,
                    buffers,
                    ..
                } = stream;
                let plain = Stream {
                    socket,
                    deadline,
                    write_deadline,
                    buffers,
                    tls: None,
                };
                Err(HandshakeError {
                    error,
                    plain: Some(plain),
                })
            }
            Err(error) => {
                // The alert that says why; the peer may not be there to read it.
                let _ = stream.flush_cipher().await;
                Err(HandshakeError { error, plain: None })
            }
        }
    }

    /// Whether the first byte was a letter: TLS records start with their type, 20 to 24.
    fn spoke_http(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| {
            tls.first_byte
                .get()
                .is_some_and(|b| b.is_ascii_alphabetic())
        })
    }

    async fn drive_handshake(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let mut early = Vec::new();
        loop {
            self.flush_cipher().await?;
            if !tls.session.borrow().is_handshaking() {
                *tls.early.borrow_mut() = early;
                return Ok(());
            }
            match self.read_tls(&mut early).await? {
                Taken::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Taken::Bytes(_) | Taken::Nothing => {}
            }
        }
    }

    /// Appends what arrives to `buf`; `Ok(0)` is the end of the stream, in order or not.
    pub async fn read(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        if buf.capacity() == buf.len() {
            buf.reserve(buf.len().max(super::buffers::SMALL));
        }
        if self.tls.is_none() {
            let (result, back) = op::recv(&self.socket, std::mem::take(buf)).await;
            *buf = back;
            return result;
        }
        loop {
            let before = buf.len();
            if self.take_early(buf) {
                return Ok(buf.len() - before);
            }
            match self.read_tls(buf).await? {
                Taken::Bytes(n) => return Ok(n),
                Taken::Closed => return Ok(0),
                Taken::Nothing => {
                    // A key update or a new ticket asks for an answer; unless a writer is at it anyway.
                    if self.tls.as_ref().is_some_and(|tls| !tls.writing.get()) {
                        self.flush_cipher().await?;
                    }
                }
            }
        }
    }

    /// Sends `buf` to its end, within `timeout`. The buffer keeps its content, for a second try.
    pub async fn write(&self, buf: &mut Vec<u8>, timeout: Duration) -> io::Result<()> {
        self.write_deadline.arm(timeout, End::Both);
        let written = self.write_all(buf).await;
        self.write_deadline.disarm();
        written
    }

    /// Whether a write was cut short because the peer did not read.
    pub fn write_timed_out(&self) -> bool {
        self.write_deadline.fired()
    }

    async fn write_all(&self, buf: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            let (result, back) = op::send(&self.socket, std::mem::take(buf), 0).await;
            *buf = back;
            return result;
        };
        debug_assert!(!tls.writing.get(), "two writers on one connection");
        let mut from = 0;
        while from < buf.len() {
            from += tls.session.borrow_mut().seal(&buf[from..])?;
            self.flush_cipher().await?;
        }
        Ok(())
    }

    /// Says that no more will come: `close_notify`, then FIN.
    pub async fn close_write(&self) {
        if let Some(tls) = &self.tls {
            tls.session.borrow_mut().close();
            // The peer may be gone; there is nobody left to tell.
            let _ = self.flush_cipher().await;
        }
        self.socket.end_write();
    }

    pub fn session(&self) -> Option<&RefCell<Session>> {
        self.tls.as_ref().map(|tls| &tls.session)
    }

    async fn read_tls(&self, plain: &mut Vec<u8>) -> io::Result<Taken> {
        let Some(tls) = &self.tls else {
            return Ok(Taken::Closed);
        };
        let (result, mut cipher) = op::recv(&self.socket, self.buffers.small()).await;
        let taken = match result {
            Err(e) => Err(e),
            // Without close_notify anybody on the way could have cut the stream (RFC 8446 section 6.1).
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                tls.first_byte
                    .set(tls.first_byte.get().or(cipher.first().copied()));
                tls.session.borrow_mut().feed(&cipher, plain)
            }
        };
        cipher.clear();
        self.buffers.give(cipher);
        taken
    }

    async fn flush_cipher(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        if !tls.session.borrow().wants_write() {
            return Ok(());
        }
        tls.writing.set(true);
        let mut cipher = self.buffers.large();
        let taken = tls.session.borrow_mut().take_cipher(&mut cipher);
        let (sent, back) = op::send(&self.socket, cipher, 0).await;
        tls.writing.set(false);
        self.buffers.give(back);
        taken.and(sent)
    }

    fn take_early(&self, buf: &mut Vec<u8>) -> bool {
        let Some(tls) = &self.tls else { return false };
        let mut early = tls.early.borrow_mut();
        if early.is_empty() {
            return false;
        }
        buf.extend_from_slice(&early);
        *early = Vec::new();
        true
    }
}
