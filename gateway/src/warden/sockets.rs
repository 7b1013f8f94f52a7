//! The sockets, bound while the process may still bind anything. The warden keeps its copies, so that clients
//! wait in the backlog, rather than being refused, while a dead worker is replaced.

use crate::config::Snapshot;
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::DirBuilder;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections the kernel may hold complete but not accepted, per core.
const BACKLOG: i32 = 4096;

/// Everything the worker listens on.
pub struct Sockets {
    /// By listener as in the config, then by core.
    pub listeners: Vec<Vec<TcpListener>>,
    pub admin: UnixListener,
    pub metrics: Option<TcpListener>,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {0}: {1}")]
    Tcp(SocketAddr, io::Error),
    #[error(
        "cannot listen on {0}: another process does already (`ss -ltnp` shows which): stop it, or choose another port"
    )]
    InUse(SocketAddr),
    #[error("admin.metrics: `{0}` is not ADDRESS:PORT")]
    MetricsAddress(String),
    #[error("cannot listen on {0}: {1}")]
    Unix(PathBuf, io::Error),
    #[error("another gateway answers on {0}: stop it first, or give this one another admin.socket")]
    AlreadyRunning(PathBuf),
}

impl Sockets {
    pub fn bind(snapshot: &Snapshot) -> Result<Sockets, BindError> {
        let cores = cores(snapshot.server.workers);
        // The admin socket first: it finds out whether another gateway runs.
        let admin = bind_admin(&snapshot.admin.socket)?;
        let listeners = snapshot
            .listeners
            .iter()
            .map(|listener| bind_tcp(listener.address, cores))
            .collect::<Result<_, _>>()?;
        let metrics = match &snapshot.admin.metrics {
            None => None,
            Some(text) => {
                let address = text
                    .parse()
                    .map_err(|_| BindError::MetricsAddress(text.clone()))?;
                bind_tcp(address, 1)?.pop()
            }
        };
        Ok(Sockets {
            listeners,
            admin,
            metrics,
        })
    }
}

/// `server.workers`, where 0 means one per core this process may run on.
pub fn cores(workers: usize) -> usize {
    match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// One socket per core on one address: the kernel spreads connections over them. Port 0 is chosen once.
fn bind_tcp(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        _ => BindError::Tcp(address, e),
    };
    // A group lets in whoever asks to share, such as another gateway of the same user, which would then silently get
    // a part of the connections. Who does not offer to share finds out whether somebody else is there.
    let probe = bind_one(address, false).map_err(fail)?;
    drop(probe);
    let mut bound: Vec<TcpListener> = Vec::with_capacity(count);
    let mut target = address;
    for _ in 0..count {
        let socket = bind_one(target, true).map_err(fail)?;
        socket.listen(BACKLOG).map_err(fail)?;
        let listener = TcpListener::from(socket);
        target = listener.local_addr().map_err(fail)?;
        bound.push(listener);
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners; one must not take the other's port away.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Mode 0600 from its first moment on; a socket file that nobody answers on is replaced.
fn bind_admin(path: &Path) -> Result<UnixListener, BindError> {
    let fail = |e| BindError::Unix(path.to_owned(), e);
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(fail)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if is_answered(path).map_err(fail)? {
                return Err(BindError::AlreadyRunning(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(fail)?;
        }
        Ok(_) => return Err(fail(io::Error::other("something else stands there"))),
        Err(_) => {}
    }
    // Process-wide, hence before any thread.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// Whether somebody listens there. Does not wait: with a full backlog the kernel says so, and somebody does.
fn is_answered(path: &Path) -> io::Result<bool> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_core_has_a_socket_on_the_same_port() {
        let bound = bind_tcp("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = bound
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        assert!(
            ports[0] != 0 && ports.iter().all(|p| *p == ports[0]),
            "{ports:?}"
        );
    }

    #[test]
    fn an_address_that_somebody_listens_on_is_refused_even_if_they_would_share() {
        for host in ["127.0.0.1", "[::1]"] {
            let any: SocketAddr = format!("{host}:0").parse().unwrap();
            let group = bind_tcp(any, 2).unwrap();
            let taken = group[0].local_addr().unwrap();
            let refused = bind_tcp(taken, 2).unwrap_err();
            assert!(matches!(refused, BindError::InUse(at) if at == taken));
            assert!(refused.to_string().contains("another port"));
            drop(group);
            bind_tcp(taken, 2).unwrap();
        }
    }

    #[test]
    fn connections_of_a_predecessor_do_not_keep_the_address() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = first[0].local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        first[0].set_nonblocking(false).unwrap();
        // The side that closes first keeps the connection in TIME_WAIT.
        drop(first[0].accept().unwrap());
        assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
        drop((client, first));
        bind_tcp(address, 2).unwrap();
    }

    #[test]
    fn a_full_backlog_does_not_hang_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = SockAddr::unix(&path).unwrap();
        socket.bind(&address).unwrap();
        socket.listen(0).unwrap();
        let waiting: Vec<Socket> = (0..4)
            .map(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
                let _ = client.connect(&address);
                client
            })
            .collect();
        assert!(matches!(
            bind_admin(&path),
            Err(BindError::AlreadyRunning(_))
        ));
        drop(waiting);
    }

    #[test]
    fn the_admin_socket_is_private_and_replaces_only_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/admin.sock");
        let first = bind_admin(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            bind_admin(&path),
            Err(BindError::AlreadyRunning(_))
        ));
        drop(first);
        bind_admin(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(bind_admin(&file).is_err());
        assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
    }
}
