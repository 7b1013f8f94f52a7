//! In-memory connections for the simulation: bytes arrive in random parts, late, or not at all.
//! Behind the same five operations as a real socket, so everything above them runs unchanged.

use super::socket::{End, Socket};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to choose schedules.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One direction.
struct Pipe {
    bytes: VecDeque<u8>,
    /// What may be under way before the writer has to wait.
    capacity: usize,
    closed: bool,
    reset: bool,
    /// Polls that still find nothing, though bytes are there.
    stalled: u32,
    rng: Rng,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(w) = self.reader.take() {
            w.wake();
        }
        if let Some(w) = self.writer.take() {
            w.wake();
        }
    }
}

/// One end of a connection.
pub struct SimEnd {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    cancelled: Cell<bool>,
    pending: Cell<bool>,
}

pub fn pair(rng: &mut Rng) -> (SimEnd, SimEnd) {
    let mut pipe = || {
        let capacity_max = if rng.one_in(3) { 200 } else { 100_000 };
        Rc::new(RefCell::new(Pipe {
            bytes: VecDeque::new(),
            capacity: 1 + rng.below(capacity_max),
            closed: false,
            reset: false,
            stalled: 0,
            rng: Rng(rng.next()),
            reader: None,
            writer: None,
        }))
    };
    let (there, back) = (pipe(), pipe());
    let end = |incoming: &Rc<RefCell<Pipe>>, outgoing: &Rc<RefCell<Pipe>>| SimEnd {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        cancelled: Cell::new(false),
        pending: Cell::new(false),
    };
    (end(&there, &back), end(&back, &there))
}

/// What a connect gets: a connection, or `None` for a refusal.
pub type Connect = Box<dyn FnMut() -> Option<SimEnd>>;

thread_local! {
    /// What the next connects get. `None`: no simulation on this thread.
    static UPSTREAMS: RefCell<Option<Connect>> = const { RefCell::new(None) };
}

pub fn set_upstreams(connect: Option<Connect>) {
    UPSTREAMS.with(|u| *u.borrow_mut() = connect);
}

/// `None`: connect for real.
pub fn dial() -> Option<io::Result<Socket>> {
    UPSTREAMS.with(|u| {
        let mut connect = u.borrow_mut();
        let connect = connect.as_mut()?;
        Some(
            connect()
                .map(Socket::simulated)
                .ok_or_else(|| io::ErrorKind::ConnectionRefused.into()),
        )
    })
}

impl SimEnd {
    pub async fn recv(&self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(!self.pending.replace(true), "two reads at once");
        let result = poll_fn(|cx| {
            if self.cancelled.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
            }
            let mut pipe = self.incoming.borrow_mut();
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if pipe.bytes.is_empty() && pipe.closed {
                return Poll::Ready(Ok(0));
            }
            if pipe.stalled > 0 && !pipe.bytes.is_empty() {
                pipe.stalled -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if pipe.bytes.is_empty() {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let most = (buf.capacity() - buf.len()).min(pipe.bytes.len());
            let n = if pipe.rng.one_in(3) {
                1 + pipe.rng.below(most.min(9))
            } else {
                1 + pipe.rng.below(most)
            }
            .min(most);
            buf.extend(pipe.bytes.drain(..n));
            pipe.stalled = if pipe.rng.one_in(4) {
                pipe.rng.below(20) as u32
            } else {
                0
            };
            if let Some(w) = pipe.writer.take() {
                w.wake();
            }
            Poll::Ready(Ok(n))
        })
        .await;
        self.pending.set(false);
        (result, buf)
    }

    pub async fn send(&self, mut data: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            loop {
                let mut pipe = self.outgoing.borrow_mut();
                if pipe.reset || pipe.closed {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if data.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let room = pipe
                    .capacity
                    .saturating_sub(pipe.bytes.len())
                    .min(data.len());
                if room == 0 {
                    pipe.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                pipe.bytes.extend(&data[..room]);
                data = &data[room..];
                if let Some(w) = pipe.reader.take() {
                    w.wake();
                }
            }
        })
        .await
    }

    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut pipe = self.incoming.borrow_mut();
            if self.cancelled.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
            }
            if pipe.bytes.is_empty() && !pipe.closed && !pipe.reset {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Ends a pending receive, and only a pending one.
    pub fn cancel(&self) {
        if self.pending.get() {
            self.cancelled.set(true);
            self.incoming.borrow_mut().wake();
        }
    }

    pub fn end(&self, what: End) {
        let mut incoming = self.incoming.borrow_mut();
        incoming.closed = true;
        incoming.wake();
        if what == End::Both {
            drop(incoming);
            self.end_write();
        }
    }

    pub fn end_write(&self) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.closed = true;
        outgoing.wake();
    }

    /// As a peer that vanishes: both directions fail, unread bytes are lost.
    pub fn reset(&self) {
        for pipe in [&self.incoming, &self.outgoing] {
            let mut pipe = pipe.borrow_mut();
            pipe.reset = true;
            pipe.wake();
        }
    }

    pub fn is_quiet(&self) -> bool {
        let pipe = self.incoming.borrow();
        pipe.bytes.is_empty() && !pipe.closed && !pipe.reset
    }
}

impl Drop for SimEnd {
    fn drop(&mut self) {
        self.end(End::Both);
    }
}
