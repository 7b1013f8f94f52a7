//! What can go wrong between the daemon and the kernel, each with what to do about it.

use std::error::Error;
use std::io;

use aya::maps::MapError;
use aya::programs::xdp::XdpError;

use super::load::OLDEST_KERNEL;

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("this binary was built without the kernel filter; build it with `cargo xtask build`")]
    NotBuilt,
    #[error("the kernel filter needs Linux {}.{} or newer (maps that a worker without privileges may write to); this is {found}", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    KernelTooOld { found: String },
    #[error(
        "loading the kernel filter needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; start the gateway privileged, or set filter.enabled = false"
    )]
    Privilege,
    #[error("interface {name} does not exist; `ip link` lists those that do")]
    NoInterface { name: String },
    #[error(
        "another XDP program is attached to {name}; `ip link show {name}` names it, `ip link set {name} xdp off` removes it unless its owner holds it by a link"
    )]
    Busy { name: String },
    #[error(
        "the driver of {name} has no native XDP (or not with its present MTU or queues); set mode = \"auto\" or \"generic\""
    )]
    NativeUnsupported { name: String },
    #[error("cannot attach to {name}: {reason}")]
    Attach { name: String, reason: String },
    #[error("the kernel refused the filter: {reason}")]
    Refused { reason: String },
    #[error("map {map}: {reason}")]
    Map { map: &'static str, reason: String },
    #[error("list {map} is full; raise filter.list_entries")]
    ListFull { map: &'static str },
    #[error("{target} is inside {by} of the allow list and cannot be banned")]
    Trusted {
        target: ipnet::IpNet,
        by: ipnet::IpNet,
    },
    #[error("{target} would ban everyone")]
    TooWide { target: ipnet::IpNet },
    #[error("a frame must be {min} to {max} bytes long")]
    Frame { min: usize, max: usize },
}

impl KernelError {
    /// For `map_err` on a map operation.
    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> KernelError {
        move |e| match os_error(&e) {
            Some(libc::E2BIG | libc::ENOSPC) => KernelError::ListFull { map },
            Some(libc::EPERM) => KernelError::Privilege,
            _ => KernelError::Map {
                map,
                reason: chain(&e),
            },
        }
    }

    pub(super) fn refused(e: &(dyn Error + 'static)) -> KernelError {
        match os_error(e) {
            // The verifier's own refusal is EACCES.
            Some(libc::EPERM) => KernelError::Privilege,
            _ => KernelError::Refused {
                reason: ending(chain(e)),
            },
        }
    }
}

/// A verifier's log runs to megabytes and says what is wrong in its last lines.
fn ending(text: String) -> String {
    const CHARS_MAX: usize = 2000;
    let skip = text.chars().count().saturating_sub(CHARS_MAX);
    if skip == 0 {
        return text;
    }
    format!("… {}", text.chars().skip(skip).collect::<String>())
}

/// The errno at the bottom of an error, if it came from a system call.
pub(super) fn os_error(e: &(dyn Error + 'static)) -> Option<i32> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        if let Some(XdpError::NetlinkError(netlink)) = e.downcast_ref::<XdpError>() {
            return netlink.raw_os_error();
        }
        at = e.source();
    }
    None
}

/// An error with its causes, on one line.
pub(super) fn chain(e: &(dyn Error + 'static)) -> String {
    let mut out = e.to_string();
    let mut at = e.source();
    while let Some(cause) = at {
        let text = cause.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        at = cause.source();
    }
    out
}
