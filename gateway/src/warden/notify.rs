//! Tells systemd how it goes: the datagram protocol of sd_notify(3), which is all of it that is needed here.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager's socket, if one started us.
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// From `NOTIFY_SOCKET`. Whatever is wrong with it, the gateway runs on without.
    pub fn from_env() -> Notify {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let name = name.into_vec();
            let address = match name.strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(&name)),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        Notify { to }
    }

    /// For a process that has nothing to tell.
    pub fn close(&mut self) {
        self.to = None;
    }

    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// `Type=notify-reload` wants the time of the signal with it.
    pub fn reloading(&self, mono_ns: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", mono_ns / 1_000));
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::debug!(%error, "notify.send");
        }
    }
}
