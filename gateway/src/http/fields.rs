//! Which fields of a message end at this hop, which are ours to set, and how a field line is written.

use super::framing::list;
use super::head::Header;
use std::fmt::Display;
use std::io::Write;

/// What happens to a field on its way through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Forward,
    /// Belongs to one connection (RFC 9110 section 7.6.1), or is set anew by the encoder.
    Hop,
    /// Only the gateway may say this to an upstream: who the client is and what it asked for.
    Ours,
    /// End to end whatever `Connection` names: removing it would change who asks, or for what.
    Protected,
}

const NAME_BYTES_MAX: usize = 40;

pub(super) fn fate(name: &str) -> Fate {
    let mut room = [0u8; NAME_BYTES_MAX];
    // What reads `_` as `-` behind us must not be told by `X_Real_IP` what we keep from `X-Real-IP`.
    let folded = |b: u8| {
        if b == b'_' {
            b'-'
        } else {
            b.to_ascii_lowercase()
        }
    };
    let len = name.len().min(NAME_BYTES_MAX);
    for (slot, b) in room.iter_mut().zip(name.bytes()) {
        *slot = folded(b);
    }
    let prefix = &room[..len];
    if prefix.starts_with(b"x-forwarded-") || prefix.starts_with(b"x-gateway-") {
        return Fate::Ours;
    }
    if prefix.starts_with(b"proxy-") {
        return Fate::Hop;
    }
    if name.len() > NAME_BYTES_MAX {
        return Fate::Forward;
    }
    match prefix {
        b"connection" | b"keep-alive" | b"te" | b"trailer" | b"transfer-encoding" | b"upgrade"
        | b"content-length" | b"http2-settings" => Fate::Hop,
        b"forwarded"
        | b"x-forwarded"
        | b"x-real-ip"
        | b"x-request-id"
        | b"x-client-ip"
        | b"x-cluster-client-ip"
        | b"true-client-ip"
        | b"cf-connecting-ip"
        | b"x-original-url"
        | b"x-rewrite-url"
        | b"x-original-host" => Fate::Ours,
        b"host"
        | b"authorization"
        | b"cookie"
        | b"content-type"
        | b"content-encoding"
        | b"content-range"
        | b"range"
        | b"origin"
        | b"referer"
        | b"cache-control"
        | b"expect"
        | b"date"
        | b"set-cookie"
        | b"www-authenticate"
        | b"content-security-policy"
        | b"strict-transport-security"
        | b"x-frame-options"
        | b"vary"
        | b"etag"
        | b"location"
        | b"if-match"
        | b"if-none-match" => Fate::Protected,
        _ => Fate::Forward,
    }
}

/// Whether a `Connection` field names this field.
pub(super) fn is_named(name: &str, headers: &[Header<'_>]) -> bool {
    headers
        .iter()
        .filter(|h| h.is("connection"))
        .any(|h| list(h.value).any(|option| option.eq_ignore_ascii_case(name.as_bytes())))
}

/// Whether `Connection` names anything but the usual options, so that the common case costs one look.
pub(super) fn names_fields(headers: &[Header<'_>]) -> bool {
    headers.iter().filter(|h| h.is("connection")).any(|h| {
        list(h.value).any(|option| {
            !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close")
        })
    })
}

pub(super) fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_value(value, out);
    out.extend_from_slice(b"\r\n");
}

/// A value can never end its line: what could has been refused before, and is left out here again.
pub(super) fn push_value(value: &[u8], out: &mut Vec<u8>) {
    if super::lines::has_control(value) {
        debug_assert!(false, "a control byte reached the encoder");
        out.extend(value.iter().filter(|b| **b >= 0x20 && **b != 0x7f));
    } else {
        out.extend_from_slice(value);
    }
}

/// A field whose value is formatted in place.
pub(super) fn push_display(name: &str, value: &dyn Display, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let _ = write!(Line(out), "{value}");
    out.extend_from_slice(b"\r\n");
}

pub(super) fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(super) fn push_body(body: super::BodyOut, out: &mut Vec<u8>) {
    match body {
        super::BodyOut::None => {}
        super::BodyOut::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_number(length, out);
            out.extend_from_slice(b"\r\n");
        }
        super::BodyOut::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

struct Line<'a>(&'a mut Vec<u8>);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        push_value(bytes, self.0);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
