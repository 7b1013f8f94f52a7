//! An owned stream socket, shared by the operations in flight on it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// Closed when the last operation and the last owner are gone: an operation can never touch a
/// descriptor that was closed and given to somebody else.
pub struct Socket {
    fd: OwnedFd,
    /// In a simulation the bytes go through memory; the descriptor is then only a placeholder.
    #[cfg(test)]
    sim: Option<super::sim::SimEnd>,
}

/// Which direction a deadline ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Reads return 0; what is due can still be written (a 408).
    Read,
    Both,
    /// Only the pending operation: it returns `ECANCELED` and its buffer, the connection lives on.
    Wait,
}

impl Socket {
    pub fn new(fd: OwnedFd) -> Socket {
        Socket {
            fd,
            #[cfg(test)]
            sim: None,
        }
    }

    #[cfg(test)]
    pub fn simulated(end: super::sim::SimEnd) -> Socket {
        let placeholder = std::fs::File::open("/dev/null").expect("/dev/null");
        Socket {
            fd: placeholder.into(),
            sim: Some(end),
        }
    }

    #[cfg(test)]
    pub fn sim(&self) -> Option<&super::sim::SimEnd> {
        self.sim.as_ref()
    }

    /// An unconnected socket for `address`.
    pub fn for_peer(address: SocketAddr) -> io::Result<Socket> {
        #[cfg(test)]
        if let Some(simulated) = super::sim::dial() {
            return simulated;
        }
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.cloexec(),
            Some(socket2::Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        Ok(Socket::new(socket.into()))
    }

    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Ends pending and future operations of that direction.
    pub fn end(&self, what: End) {
        #[cfg(test)]
        if let Some(sim) = &self.sim {
            return sim.end(what);
        }
        let how = match what {
            End::Read => std::net::Shutdown::Read,
            End::Both => std::net::Shutdown::Both,
            End::Wait => return, // cancelled through the ring, by `deadline`
        };
        // An error means that the peer is gone already, which is what was wanted.
        let _ = socket2::SockRef::from(&self.fd).shutdown(how);
    }

    /// No more will be sent; the peer's bytes can still be read.
    pub fn end_write(&self) {
        #[cfg(test)]
        if let Some(sim) = &self.sim {
            return sim.end_write();
        }
        let _ = socket2::SockRef::from(&self.fd).shutdown(std::net::Shutdown::Write);
    }

    pub fn set_nodelay(&self) {
        // Fails only on a socket that is dead already; the next operation reports it.
        let _ = socket2::SockRef::from(&self.fd).set_tcp_nodelay(true);
    }

    /// Whether an idle connection is still good: open, and nothing unasked has arrived.
    pub fn is_quiet(&self) -> bool {
        #[cfg(test)]
        if let Some(sim) = &self.sim {
            return sim.is_quiet();
        }
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match socket2::SockRef::from(&self.fd)
            .recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT)
        {
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false, // closed, or bytes that nobody asked for
        }
    }

    /// Closing sends RST: for peers that get no answer and no lingering state.
    pub fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(&self.fd).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
