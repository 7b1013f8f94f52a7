//! One-shot ring operations, awaited in turn. Measured: within 2–8 % of a hand-made ring, and ahead
//! of tokio-uring's own read and write. Every operation owns its buffer and holds the socket open.
#![allow(
    unsafe_code,
    reason = "an SQE carries raw pointers; what they point into is owned by the operation"
)]

use super::socket::Socket;
use io_uring::{cqueue, opcode, squeue, types};
use socket2::{SockAddr, SockAddrStorage};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Appends what arrives to the spare capacity of `buf`; `Ok(0)` is the end of the stream.
///
/// # Panics
/// If `buf` has no spare capacity: the kernel would report 0, which means something else.
pub async fn recv(socket: &Rc<Socket>, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
    assert!(buf.capacity() > buf.len(), "receive into a full buffer");
    #[cfg(test)]
    if let Some(sim) = socket.sim() {
        return sim.recv(buf).await;
    }
    let spare = buf.spare_capacity_mut();
    let sqe = opcode::Recv::new(
        types::Fd(socket.raw()),
        spare.as_mut_ptr().cast(),
        spare.len() as u32,
    )
    .build();
    let (result, mut buf) = oneshot(socket.clone(), buf, sqe).await;
    if let Ok(n) = result {
        // SAFETY: the kernel has written `n` bytes behind `len`, within the capacity it was given.
        unsafe { buf.set_len(buf.len() + n) };
    }
    (result, buf)
}

/// Sends `buf[from..]` to its end.
pub async fn send(
    socket: &Rc<Socket>,
    mut buf: Vec<u8>,
    mut from: usize,
) -> (io::Result<()>, Vec<u8>) {
    #[cfg(test)]
    if let Some(sim) = socket.sim() {
        return (sim.send(&buf[from..]).await, buf);
    }
    while from < buf.len() {
        let rest = &buf[from..];
        // MSG_WAITALL makes the ring finish short sends by itself; a signal can still cut one short.
        let sqe = opcode::Send::new(types::Fd(socket.raw()), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        let (result, back) = oneshot(socket.clone(), buf, sqe).await;
        buf = back;
        match result {
            Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buf),
            Ok(n) => from += n,
            Err(e) => return (Err(e), buf),
        }
    }
    (Ok(()), buf)
}

/// Connects. Cut short by [`Socket::end`].
pub async fn connect(socket: &Rc<Socket>, address: SocketAddr) -> io::Result<()> {
    #[cfg(test)]
    if socket.sim().is_some() {
        return Ok(());
    }
    let address = Box::new(SockAddr::from(address));
    let sqe = opcode::Connect::new(
        types::Fd(socket.raw()),
        address.as_ptr().cast(),
        address.len(),
    )
    .build();
    oneshot(socket.clone(), address, sqe).await.0.map(|_| ())
}

/// Waits until there is something to read (or an end, or an error), holding no buffer.
pub async fn readable(socket: &Rc<Socket>) -> io::Result<()> {
    #[cfg(test)]
    if let Some(sim) = socket.sim() {
        return sim.readable().await;
    }
    let sqe = opcode::PollAdd::new(types::Fd(socket.raw()), libc::POLLIN as u32).build();
    oneshot(socket.clone(), (), sqe).await.0.map(|_| ())
}

/// Takes back the operations pending on this socket: they end with `ECANCELED` and return their buffers.
pub async fn cancel(socket: &Rc<Socket>) {
    #[cfg(test)]
    if let Some(sim) = socket.sim() {
        return sim.cancel();
    }
    let builder = types::CancelBuilder::fd(types::Fd(socket.raw())).all();
    // The answer (how many there were) does not matter: each operation reports for itself.
    let _ = oneshot(
        socket.clone(),
        (),
        opcode::AsyncCancel2::new(builder).build(),
    )
    .await;
}

/// The next connection. Ended by `cancel` or by an error of the listening socket.
pub async fn accept(listener: &Rc<Socket>) -> io::Result<(Socket, SocketAddr)> {
    let mut space = Box::new((
        SockAddrStorage::zeroed(),
        size_of::<SockAddrStorage>() as libc::socklen_t,
    ));
    let address: *mut SockAddrStorage = &mut space.0;
    let length: *mut libc::socklen_t = &mut space.1;
    let sqe = opcode::Accept::new(types::Fd(listener.raw()), address.cast(), length)
        .flags(libc::SOCK_CLOEXEC)
        .build();
    let (result, space) = oneshot(listener.clone(), space, sqe).await;
    let raw = result? as i32;
    // SAFETY: the kernel has just given this process a new descriptor, which nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: the kernel wrote a socket address of `space.1` bytes into the zeroed storage.
    let address = unsafe { SockAddr::new(space.0, space.1) };
    let address = address
        .as_socket()
        .ok_or_else(|| io::Error::other("a connection without an IP address"))?;
    Ok((Socket::new(fd), address))
}

/// Data that an SQE may point into, and the socket it acts on: kept until the kernel is done, also
/// when the future is dropped (tokio-uring then keeps them in its driver).
struct Held<D>(Rc<Socket>, D);

struct Give<D>(std::marker::PhantomData<D>);

impl<D> OneshotOutputTransform for Give<D> {
    type Output = (io::Result<usize>, D);
    type StoredData = Held<D>;

    fn transform_oneshot_output(self, held: Held<D>, cqe: cqueue::Entry) -> Self::Output {
        let result = match cqe.result() {
            n if n >= 0 => Ok(n as usize),
            e => Err(io::Error::from_raw_os_error(-e)),
        };
        debug_assert!(held.0.raw() >= 0);
        (result, held.1)
    }
}

/// Submits `sqe`, whose pointers must lead into the heap storage of `data`: moving `data` (a `Vec`,
/// a `Box` or nothing) moves the handle, not what it points to.
async fn oneshot<D: Unpin + 'static>(
    socket: Rc<Socket>,
    data: D,
    sqe: squeue::Entry,
) -> (io::Result<usize>, D) {
    UnsubmittedOneshot::new(Held(socket, data), Give(std::marker::PhantomData), sqe)
        .submit()
        .await
}
