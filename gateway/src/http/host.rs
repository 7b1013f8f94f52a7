//! `uri-host [ ":" port ]` (RFC 3986 section 3.2.2): host names, IPv4 and IPv6 literals, nothing that
//! resolvers read in several ways.

use super::rules;
use crate::outcome::Rejection;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Appends the canonical host to `out` (lower case, no trailing dot, IPv6 in its shortest form) and
/// returns the port as written.
pub(super) fn canonical_host<'a>(raw: &'a [u8], out: &mut String) -> Result<&'a [u8], Rejection> {
    let refused = || rules::host("The host is not a name or an address with an optional port.");
    let (host, rest) = if raw.first() == Some(&b'[') {
        let close = raw.iter().position(|&b| b == b']').ok_or_else(refused)?;
        raw.split_at(close + 1)
    } else {
        raw.split_at(raw.iter().position(|&b| b == b':').unwrap_or(raw.len()))
    };
    let port = match rest {
        [] => rest,
        [b':', port @ ..] if is_port(port) => port,
        _ => return Err(refused()),
    };
    if let Some(inner) = host.strip_prefix(b"[") {
        let text = std::str::from_utf8(&inner[..inner.len() - 1]).map_err(|_| refused())?;
        let ip: Ipv6Addr = text.parse().map_err(|_| refused())?;
        let _ = write!(out, "[{ip}]");
    } else if !push_name(host.strip_suffix(b".").unwrap_or(host), out) {
        return Err(refused());
    }
    Ok(port)
}

fn is_port(port: &[u8]) -> bool {
    let number = port.iter().try_fold(0u32, |n, &b| {
        b.is_ascii_digit()
            .then(|| n.saturating_mul(10).saturating_add(u32::from(b - b'0')))
    });
    !port.is_empty() && port[0] != b'0' && number.is_some_and(|n| n <= 65535)
}

fn push_name(name: &[u8], out: &mut String) -> bool {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return false;
    }
    let start = out.len();
    let mut label_len = 0;
    let mut label_start = 0;
    for (i, &b) in name.iter().enumerate() {
        match b {
            b'.' if label_len == 0 => return false,
            b'.' => {
                label_len = 0;
                label_start = i + 1;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_len += 1,
            _ => return false,
        }
        if label_len > LABEL_BYTES_MAX {
            return false;
        }
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return false;
    };
    out.push_str(text);
    out[start..].make_ascii_lowercase();
    // A name whose last label is a number is an address to some resolvers (`127.1`, `0x7f000001`):
    // only the one unambiguous form is accepted.
    let last = &out[start + label_start..];
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    label_len > 0 && (!numeric || out[start..].parse::<Ipv4Addr>().is_ok())
}
