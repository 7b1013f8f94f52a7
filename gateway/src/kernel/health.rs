//! Whether the program still sees the packets: an interface may have been removed and made anew, or the program
//! taken off it. Asked of rtnetlink by the interface's name (rtnetlink(7), `IFLA_XDP`), which needs neither
//! privileges nor the links.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use serde::Serialize;

use super::Filter;

/// Whether an interface's packets are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachState {
    Attached,
    /// The interface is gone, or there is one of that name that does not run the program.
    Detached,
}

impl Filter {
    /// Looks at every interface (some microseconds each); changes are logged once, and kept for [`Filter::attached`]
    /// and [`Filter::status`]. Where the kernel does not answer, what was known stays.
    pub fn check_attached(&mut self) {
        for interface in &mut self.interfaces {
            let found = match self.links_query.programs_of(&interface.name) {
                Ok(programs) if programs.contains(&self.program_id) => Ok(()),
                Ok(_) => Err("it does not run the filter's program (made anew, or detached)"),
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                    Err("there is none by this name")
                }
                Err(error) => {
                    tracing::debug!(interface = %interface.name, %error, "cannot ask for XDP");
                    continue;
                }
            };
            let state = match found {
                Ok(()) => AttachState::Attached,
                Err(_) => AttachState::Detached,
            };
            if state == interface.state {
                continue;
            }
            interface.state = state;
            match found {
                Ok(()) => {
                    tracing::info!(interface = %interface.name, "kernel filter attached again")
                }
                Err(because) => tracing::error!(
                    interface = %interface.name,
                    because,
                    "KERNEL FILTER DETACHED: packets of this interface are not filtered; restart the gateway"
                ),
            }
        }
    }

    /// By interface name, as of the last [`Filter::check_attached`].
    pub fn attached(&self) -> Vec<(String, AttachState)> {
        let interfaces = self.interfaces.iter();
        interfaces.map(|i| (i.name.clone(), i.state)).collect()
    }
}

/// A netlink socket, opened at the first question by the process that asks.
#[derive(Default)]
pub(super) struct LinksQuery {
    socket: Option<OwnedFd>,
    sequence: u32,
}

const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
/// `IFLA_XDP_PROG_ID`, and those of driver, generic and hardware mode.
const PROGRAM_IDS: std::ops::RangeInclusive<u16> = 4..=7;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// Without the statistics a link takes some 1.5 KiB; alternative names and bridge ports may add some.
const ANSWER_BYTES_MAX: usize = 32 << 10;
/// Messages read before the answer counts as missing.
const ANSWERS_MAX: usize = 8;

impl LinksQuery {
    /// Ids of the XDP programs on the interface of this name; `ENODEV` where there is none.
    fn programs_of(&mut self, name: &str) -> io::Result<Vec<u32>> {
        if self.socket.is_none() {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let route = SockProtocol::NetlinkRoute;
            self.socket = Some(socket(AddressFamily::Netlink, SockType::Raw, flags, route)?);
        }
        let Some(socket) = &self.socket else {
            return Err(Errno::ENOTCONN.into());
        };
        self.sequence = self.sequence.wrapping_add(1);
        let ask = question(name, self.sequence);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &ask, &kernel, MsgFlags::empty())?;
        // The kernel has answered when `sendto` returns.
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(programs) = programs_in(&answer[..len], self.sequence) {
                return programs;
            }
        }
        Err(Errno::EPROTO.into())
    }
}

fn question(name: &str, sequence: u32) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES + IFINFO_BYTES];
    let mut attribute = |kind: u16, value: &[u8]| {
        out.extend(((4 + value.len()) as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_ne_bytes());
    out[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    out[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    out[8..12].copy_from_slice(&sequence.to_ne_bytes());
    out
}

/// `None`: not the answer to this question.
fn programs_in(message: &[u8], sequence: u32) -> Option<io::Result<Vec<u32>>> {
    if u32_at(message, 8)? != sequence {
        return None;
    }
    match u16_at(message, 4)? {
        NLMSG_ERROR => {
            let errno = u32_at(message, HEADER_BYTES)? as i32;
            Some(Err(io::Error::from_raw_os_error(errno.saturating_neg())))
        }
        libc::RTM_NEWLINK => {
            let xdp = Attributes(message.get(HEADER_BYTES + IFINFO_BYTES..)?)
                .filter(|(kind, _)| *kind == IFLA_XDP)
                .flat_map(|(_, nested)| Attributes(nested))
                .filter(|(kind, _)| PROGRAM_IDS.contains(kind))
                .filter_map(|(_, id)| u32_at(id, 0));
            Some(Ok(xdp.collect()))
        }
        _ => None,
    }
}

/// Kind and value, in order; ends at the first that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        /// Without the flags for nesting and byte order.
        const KIND: u16 = 0x3fff;
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    two.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    four.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_about_interfaces_that_are_and_are_not() {
        let mut query = LinksQuery::default();
        assert!(query.programs_of("lo").unwrap().is_empty());
        let missing = query.programs_of("gw-none").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        assert!(query.programs_of("lo").unwrap().is_empty());
    }

    #[test]
    fn programs_are_read_out_of_nested_attributes() {
        let mut message = question("eth0", 7);
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        // IFLA_XDP with mode (one byte, padded) and program id.
        message.extend([
            20, 0, 43, 0x80, 5, 0, 2, 0, 1, 0, 0, 0, 8, 0, 4, 0, 0x39, 5, 0, 0,
        ]);
        assert_eq!(programs_in(&message, 7).unwrap().unwrap(), [0x539]);
        assert!(programs_in(&message, 8).is_none());
        for len in 0..message.len() {
            // Cut anywhere: no panic, and nothing that is not there.
            if let Some(Ok(programs)) = programs_in(&message[..len], 7) {
                assert_eq!(programs, [0u32; 0], "{len}");
            }
        }
    }
}
