//! The sockets, bound while the process may still bind anything. The warden keeps its copies, so that clients
//! wait in the backlog, rather than being refused, while a dead worker is replaced.

use crate::config::Snapshot;
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::DirBuilder;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
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
    let mut bound: Vec<TcpListener> = Vec::with_capacity(count);
    let mut target = address;
    for _ in 0..count {
        let listener = bind_one(target).map_err(|e| BindError::Tcp(address, e))?;
        target = listener
            .local_addr()
            .map_err(|e| BindError::Tcp(address, e))?;
        bound.push(listener);
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
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
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
            if UnixStream::connect(path).is_ok() {
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
