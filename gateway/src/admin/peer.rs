//! Who is at the other end of the admin socket, as the kernel vouches.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::fmt;
use tokio::net::UnixListener;

/// The process that connected. The socket's mode lets only root in; a sidecar may have been given it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    pub uid: Option<u32>,
    pub pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Actor {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Actor {
        // SO_PEERCRED; fails only on a connection that is gone already.
        match stream.io().peer_cred() {
            Ok(cred) => Actor {
                uid: Some(cred.uid()),
                pid: cred.pid(),
            },
            Err(_) => Actor::default(),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.uid, self.pid) {
            (Some(uid), Some(pid)) => write!(f, "uid {uid} pid {pid}"),
            (Some(uid), None) => write!(f, "uid {uid}"),
            _ => f.write_str("unknown"),
        }
    }
}
