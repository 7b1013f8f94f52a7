//! Deadlines of one core. A deadline acts on the socket: the operation returns by itself and one
//! path cleans up. (A dropped read would keep its buffer and descriptor until the peer speaks.)
//!
//! Arming is a store: most deadlines never fire, and a scan of all of them every tick costs a
//! nanosecond or two each.

use super::socket::{End, Socket};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How often the core looks: a deadline fires at most this much late.
pub const TICK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Deadlines {
    armed: RefCell<Slab<Rc<Slot>>>,
    /// The core's coarse time, set at every tick and by whoever reads a clock anyway.
    now_ns: Cell<u64>,
}

struct Slot {
    socket: Rc<Socket>,
    at_ns: Cell<u64>,
    end: Cell<End>,
    fired: Cell<bool>,
    idle: Cell<bool>,
}

/// The deadline of one socket; disarmed and gone with it.
pub struct Deadline {
    slot: Rc<Slot>,
    index: usize,
    owner: Rc<Deadlines>,
}

const NEVER: u64 = u64::MAX;

impl Deadlines {
    pub fn watch(self: &Rc<Self>, socket: Rc<Socket>) -> Deadline {
        let slot = Rc::new(Slot {
            socket,
            at_ns: Cell::new(NEVER),
            end: Cell::new(End::Both),
            fired: Cell::new(false),
            idle: Cell::new(false),
        });
        let index = self.armed.borrow_mut().insert(slot.clone());
        Deadline {
            slot,
            index,
            owner: self.clone(),
        }
    }

    /// Fires what is due.
    pub fn tick(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
        for (_, slot) in self.armed.borrow().iter() {
            if slot.at_ns.get() <= now_ns {
                slot.fire();
            }
        }
    }

    /// Ends every connection that is between two requests, for draining.
    pub fn end_idle(&self) {
        for (_, slot) in self.armed.borrow().iter() {
            if slot.idle.get() {
                slot.end.set(End::Read);
                slot.fire();
            }
        }
    }

    /// Ends everything, when draining has taken too long.
    pub fn end_all(&self) {
        for (_, slot) in self.armed.borrow().iter() {
            slot.end.set(End::Both);
            slot.fire();
        }
    }

    pub fn open(&self) -> usize {
        self.armed.borrow().len()
    }
}

impl Slot {
    fn fire(self: &Rc<Self>) {
        if self.end.get() == End::Wait {
            // It stays armed, so that a wait which is entered again is ended again; and the wait may
            // be over by the time the ring is asked to end it.
            let slot = self.clone();
            tokio::task::spawn_local(async move {
                if slot.end.get() == End::Wait && slot.at_ns.get() != NEVER {
                    super::op::cancel(&slot.socket).await;
                }
            });
            return;
        }
        self.at_ns.set(NEVER);
        self.fired.set(true);
        self.socket.end(self.end.get());
    }
}

impl Deadline {
    /// From now until `after` the present operation may last.
    pub fn arm(&self, after: Duration, end: End) {
        self.slot.end.set(end);
        self.slot.at_ns.set(
            self.owner
                .now_ns
                .get()
                .saturating_add(after.as_nanos() as u64),
        );
    }

    /// The peer has earned more time, up to `most` from now.
    pub fn extend(&self, by: Duration, most: Duration) {
        let latest = self
            .owner
            .now_ns
            .get()
            .saturating_add(most.as_nanos() as u64);
        let extended = self.slot.at_ns.get().saturating_add(by.as_nanos() as u64);
        self.slot.at_ns.set(extended.min(latest));
    }

    pub fn disarm(&self) {
        self.slot.at_ns.set(NEVER);
    }

    /// Marks the connection as waiting for its next request.
    pub fn set_idle(&self, idle: bool) {
        self.slot.idle.set(idle);
    }

    /// Whether it was the deadline (or draining) that ended the socket.
    pub fn fired(&self) -> bool {
        self.slot.fired.get()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.owner.armed.borrow_mut().remove(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, Rc<Socket>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        (client, Rc::new(Socket::new(server.into())))
    }

    #[test]
    fn fires_once_it_is_due_and_not_before() {
        let all = Rc::new(Deadlines::default());
        all.tick(1_000);
        let (mut client, socket) = pair();
        let d = all.watch(socket);
        d.arm(Duration::from_nanos(500), End::Both);
        all.tick(1_499);
        assert!(!d.fired());
        d.extend(Duration::from_nanos(400), Duration::from_nanos(10));
        all.tick(1_508);
        assert!(!d.fired());
        all.tick(1_509);
        assert!(d.fired());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(d);
        assert_eq!(all.open(), 0);
    }

    #[test]
    fn draining_ends_idle_connections_only() {
        let all = Rc::new(Deadlines::default());
        let ((_c1, busy), (mut c2, idle)) = (pair(), pair());
        let (busy, idle) = (all.watch(busy), all.watch(idle.clone()));
        idle.set_idle(true);
        all.end_idle();
        assert!(idle.fired() && !busy.fired());
        c2.write_all(b"x").unwrap();
    }
}
