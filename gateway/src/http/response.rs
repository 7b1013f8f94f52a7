//! The upstream's response head, read as strictly as a client's, and written anew for the client.

use super::encode::BodyOut;
use super::fields::{self, Fate};
use super::framing::{BodyFields, CONNECTION_OPTIONS_MAX, Coding, list};
use super::head::{Header, Version};
use super::parse::{HEADERS_CAP, HeadLimits};
use super::space::HeaderSpace;
use super::{lines, reply};
use crate::outcome::UpstreamFaultKind;
use std::fmt::Display;
use std::mem::MaybeUninit;

/// How the body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
pub struct ResponseHead<'b> {
    pub status: u16,
    pub version: Version,
    pub headers: &'b [Header<'b>],
    pub framing: ResponseFraming,
    /// The upstream's connection can be used again once the body is read.
    pub keep_alive: bool,
}

impl ResponseHead<'_> {
    /// How the body goes to a client of that version, and whether the client's connection must end with it.
    pub fn body_for(&self, client_version: Version) -> (BodyOut, bool) {
        match (self.framing, client_version) {
            (ResponseFraming::Empty, _) => (BodyOut::None, false),
            (ResponseFraming::Length(length), _) => (BodyOut::Length(length), false),
            (ResponseFraming::Chunked | ResponseFraming::UntilClose, Version::Http11) => {
                (BodyOut::Chunked, false)
            }
            (ResponseFraming::Chunked | ResponseFraming::UntilClose, Version::Http10) => {
                (BodyOut::None, true)
            }
        }
    }
}

/// One response head from the start of `buf` and its length; `None` while it is partial. Interim
/// responses (1xx) come out like any other: with an empty body.
pub fn parse_response<'b>(
    buf: &'b [u8],
    request_method: &str,
    limits: &HeadLimits,
    headers: &'b mut HeaderSpace<'b>,
) -> Result<Option<(ResponseHead<'b>, usize)>, UpstreamFaultKind> {
    let malformed = UpstreamFaultKind::MalformedResponse;
    let Some((version, status, line_len)) = status_line(buf, limits)? else {
        return Ok(None);
    };
    let Some(head_len) =
        lines::fields_end(buf, line_len, limits.head_bytes_max).map_err(|_| malformed)?
    else {
        return Ok(None);
    };
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_CAP];
    let fields_max = limits.headers_max.min(HEADERS_CAP);
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        &buf[..head_len],
        &mut room[..fields_max],
    );
    if parsed != Ok(httparse::Status::Complete(head_len)) || response.code != Some(status) {
        return Err(malformed);
    }
    headers.clear();
    let mut body = BodyFields::default();
    let (mut close, mut keep_alive, mut options) = (false, false, 0);
    for field in response.headers.iter() {
        let header = Header {
            name: field.name,
            value: field.value.trim_ascii(),
        };
        match header.name.len() {
            14 if header.is("content-length") => {
                body.content_length(header.value).map_err(|_| malformed)?
            }
            17 if header.is("transfer-encoding") => body
                .transfer_encoding(header.value)
                .map_err(|_| malformed)?,
            10 if header.is("connection") => {
                for option in list(header.value) {
                    options += 1;
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        headers.push(header);
    }
    if options > CONNECTION_OPTIONS_MAX {
        return Err(malformed);
    }
    let framing = framing(version, status, request_method, body)?;
    // A body where none may be would be read as the next response: such a connection is not used again.
    let bodiless = status < 200 || status == 204;
    let doubtful = bodiless && (body.length.unwrap_or(0) > 0 || body.coding.is_some());
    let persistent = !close && (version == Version::Http11 || keep_alive);
    let head = ResponseHead {
        status,
        version,
        headers: headers.as_slice(),
        framing,
        keep_alive: persistent && !doubtful && framing != ResponseFraming::UntilClose,
    };
    Ok(Some((head, head_len)))
}

/// `HTTP-version SP 3DIGIT SP [reason] CRLF`; the space before an empty reason may be missing, as it often is.
fn status_line(
    buf: &[u8],
    limits: &HeadLimits,
) -> Result<Option<(Version, u16, usize)>, UpstreamFaultKind> {
    let malformed = Err(UpstreamFaultKind::MalformedResponse);
    let shape = b"HTTP/1.0 000";
    for (at, (&b, &s)) in buf.iter().zip(shape).enumerate() {
        let fits = match at {
            7 => b == b'0' || b == b'1',
            _ if s == b'0' => b.is_ascii_digit(),
            _ => b == s,
        };
        if !fits {
            return malformed;
        }
    }
    let window = &buf[..buf.len().min(limits.head_bytes_max)];
    let Some(rest) = window.get(shape.len()..) else {
        return Ok(None);
    };
    let (reason, line_len) = match memchr::memchr(b'\n', rest) {
        Some(at) => match rest[..at].strip_suffix(b"\r") {
            Some(reason) => (reason, Some(shape.len() + at + 1)),
            None => return malformed,
        },
        None if buf.len() >= limits.head_bytes_max => return malformed,
        None => (rest.strip_suffix(b"\r").unwrap_or(rest), None),
    };
    if !(reason.is_empty() || reason[0] == b' ') || lines::has_control(reason) {
        return malformed;
    }
    let status = buf[9..12]
        .iter()
        .fold(0, |n, b| n * 10 + u16::from(b - b'0'));
    if !(100..600).contains(&status) {
        return malformed;
    }
    let version = if buf[7] == b'1' {
        Version::Http11
    } else {
        Version::Http10
    };
    Ok(line_len.map(|len| (version, status, len)))
}

fn framing(
    version: Version,
    status: u16,
    request_method: &str,
    body: BodyFields,
) -> Result<ResponseFraming, UpstreamFaultKind> {
    if body.coding.is_some() && (body.length.is_some() || version == Version::Http10)
        || body.coding == Some(Coding::Unknown)
    {
        return Err(UpstreamFaultKind::MalformedResponse);
    }
    if request_method == "HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok(ResponseFraming::Empty);
    }
    Ok(match (body.coding, body.length) {
        (Some(_), _) => ResponseFraming::Chunked,
        (None, Some(length)) => ResponseFraming::Length(length),
        (None, None) => ResponseFraming::UntilClose,
    })
}

/// Appends status line and fields for the client. `extra` replaces upstream fields of the same name.
/// For an HTTP/1.0 client `Chunked` is written as a body that ends with the connection.
pub fn encode_response(
    head: &ResponseHead<'_>,
    extra: &[(&'static str, String)],
    body: BodyOut,
    client_version: Version,
    close: bool,
    request_id: &dyn Display,
    out: &mut Vec<u8>,
) {
    reply::status_line(head.status, out);
    let connection_names_fields = fields::names_fields(head.headers);
    for header in head.headers {
        let forwarded = match fields::fate(header.name) {
            Fate::Hop => false,
            Fate::Protected => true,
            Fate::Ours => !header.is("x-request-id"),
            Fate::Forward => {
                !connection_names_fields || !fields::is_named(header.name, head.headers)
            }
        };
        if forwarded && !extra.iter().any(|(name, _)| header.is(name)) {
            fields::push_field(header.name, header.value, out);
        }
    }
    for (name, value) in extra {
        fields::push_field(name, value.as_bytes(), out);
    }
    fields::push_display("X-Request-Id", request_id, out);
    let undelimited = body == BodyOut::Chunked && client_version == Version::Http10;
    match body {
        _ if head.status < 200 || head.status == 204 || undelimited => {}
        BodyOut::None => push_described_length(head, out),
        body => fields::push_body(body, out),
    }
    if head.status == 101 {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if close || undelimited {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if client_version == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A response to HEAD, and 304, tell the length of the body they do not have.
fn push_described_length(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    let is_empty = head.framing == ResponseFraming::Empty;
    let length = head.headers.iter().find(|h| h.is("content-length"));
    match length {
        Some(length) if is_empty => fields::push_field("Content-Length", length.value, out),
        _ if head.framing == ResponseFraming::Length(0) => {
            fields::push_body(BodyOut::Length(0), out)
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
