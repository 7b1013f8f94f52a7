//! Bytes to [`RequestHead`]: the request line, the strict pass over the lines, the tokeniser, and the
//! fields that carry meaning for the connection. Stateless: a partial head is parsed again when more is there.

use super::framing::{BodyFields, CONNECTION_OPTIONS_MAX, Coding, list};
use super::head::{Framing, Header, RequestHead, Version};
use super::path::Kept;
use super::request_line::{RequestLine, request_line};
use super::space::HeaderSpace;
use super::{lines, rules, target};
use crate::outcome::{Rejection, RejectionKind};
use std::mem::MaybeUninit;

/// Fields a head can have at most, whatever the config says.
pub const HEADERS_CAP: usize = 128;

/// What to do with `_` in a field name: CGI-like software reads it as `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Underscores {
    #[default]
    Drop,
    Refuse,
    Keep,
}

/// What to do with a path that upstreams read differently: `%2F`, or `;` parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AmbiguousPath {
    #[default]
    Refuse,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line to empty line, inclusive.
    pub head_bytes_max: usize,
    pub target_bytes_max: usize,
    /// At most [`HEADERS_CAP`] count.
    pub headers_max: usize,
    pub underscores: Underscores,
    pub encoded_slash: AmbiguousPath,
    pub path_parameters: AmbiguousPath,
}

impl HeadLimits {
    fn kept(&self) -> Kept {
        Kept {
            encoded_slash: self.encoded_slash == AmbiguousPath::Keep,
            parameters: self.path_parameters == AmbiguousPath::Keep,
        }
    }
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits {
            head_bytes_max: 16 << 10,
            target_bytes_max: 8 << 10,
            headers_max: 100,
            underscores: Underscores::Drop,
            encoded_slash: AmbiguousPath::Refuse,
            path_parameters: AmbiguousPath::Refuse,
        }
    }
}

/// Strings a head may borrow from where the client's bytes are not canonical. Reused between requests.
#[derive(Debug, Default)]
pub struct HeadScratch {
    path: String,
    host: String,
}

impl HeadScratch {
    pub fn new() -> HeadScratch {
        HeadScratch::default()
    }
}

#[derive(Debug)]
pub enum Parsed<'b> {
    /// More bytes are needed; those present could still become a head.
    Partial,
    Complete {
        head: RequestHead<'b>,
        /// Bytes of the head, its empty line included; the body starts there.
        head_len: usize,
        /// Fields with `_` in their name that were left out.
        dropped_fields: u32,
    },
}

/// One CRLF-terminated head from the start of `buf`.
pub fn parse<'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
    scratch: &'b mut HeadScratch,
    headers: &'b mut HeaderSpace<'b>,
) -> Result<Parsed<'b>, Rejection> {
    let skipped = match buf {
        [] | [b'\r'] => return Ok(Parsed::Partial),
        // One empty line before a request is tolerated (RFC 9112 section 2.2).
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    };
    let Some(line) = request_line(&buf[skipped..], limits)? else {
        return Ok(Parsed::Partial);
    };
    let Some(head_len) = lines::fields_end(buf, skipped + line.len, limits.head_bytes_max)
        .map_err(|flaw| match flaw {
            lines::Flaw::TooLarge => rules::head_kind(RejectionKind::HeadTooLarge, flaw.detail()),
            flaw => rules::head(flaw.detail()),
        })?
    else {
        return Ok(Parsed::Partial);
    };
    if line.method == "CONNECT" {
        return Err(
            rules::head_kind(RejectionKind::ConnectRefused, "CONNECT is not offered.")
                // RFC 9110 section 15.5.6: a 405 says what is allowed.
                .field("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    tokenise(&buf[skipped..head_len], &line, limits, headers)?;
    let target = target::split(line.method, line.target)?;
    let facts = Facts::read(headers, limits.underscores)?;
    let framing = facts.framing(line.version)?;
    let HeadScratch { path, host } = scratch;
    let host = target::canonical_host(
        facts.host,
        target.authority,
        line.version == Version::Http11,
        host,
    )?;
    let path = target::canonical_path(target.path, limits.kept(), path)?;
    if facts.dropped > 0 {
        headers.retain_without_underscore();
    }
    let is_http11 = line.version == Version::Http11;
    let head = RequestHead {
        method: line.method,
        version: line.version,
        path,
        query: target.query,
        host,
        framing,
        keep_alive: !facts.close && (is_http11 || facts.keep_alive),
        // A 1.0 client cannot expect (RFC 9110 section 10.1.1), and without a body there is nothing to wait for.
        expect_continue: facts.expects
            && is_http11
            && !matches!(framing, Framing::Empty | Framing::Length(0)),
        websocket: is_http11
            && line.method == "GET"
            && framing == Framing::Empty
            && facts.connection_upgrade
            && facts.upgrade_websocket,
        headers: headers.as_slice(),
    };
    Ok(Parsed::Complete {
        head,
        head_len,
        dropped_fields: facts.dropped,
    })
}

/// Runs the tokeniser and holds it against what this file read by itself: two readings that differ are one too many.
fn tokenise<'b>(
    head: &'b [u8],
    line: &RequestLine<'b>,
    limits: &HeadLimits,
    headers: &mut HeaderSpace<'b>,
) -> Result<(), Rejection> {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_CAP];
    let fields_max = limits.headers_max.min(HEADERS_CAP);
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(head, &mut room[..fields_max]) {
        Ok(httparse::Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(rules::head_kind(
                RejectionKind::HeadTooLarge,
                "The head has more fields than allowed.",
            ));
        }
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(rules::head("The head is malformed."));
        }
    };
    let agrees = length == head.len()
        && request.method == Some(line.method)
        && request.path == Some(line.target);
    if !agrees {
        return Err(rules::head("The head is malformed."));
    }
    headers.clear();
    for field in request.headers.iter() {
        headers.push(Header {
            name: field.name,
            value: field.value.trim_ascii(),
        });
    }
    Ok(())
}

/// What the fields say about the connection.
#[derive(Default)]
struct Facts<'b> {
    host: Option<&'b [u8]>,
    body: BodyFields,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade_seen: bool,
    upgrade_websocket: bool,
    expects: bool,
    dropped: u32,
    /// Elements of all Connection fields.
    options: usize,
}

impl<'b> Facts<'b> {
    fn read(headers: &HeaderSpace<'b>, underscores: Underscores) -> Result<Facts<'b>, Rejection> {
        let mut facts = Facts::default();
        for header in headers.as_slice() {
            if underscores != Underscores::Keep
                && memchr::memchr(b'_', header.name.as_bytes()).is_some()
            {
                if underscores == Underscores::Refuse {
                    return Err(rules::head(
                        "Field names with an underscore are not accepted.",
                    ));
                }
                facts.dropped += 1;
                continue;
            }
            facts.take(header)?;
        }
        Ok(facts)
    }

    fn take(&mut self, header: &Header<'b>) -> Result<(), Rejection> {
        let value = header.value;
        // By length first: most fields match none of these.
        match header.name.len() {
            4 if header.is("host") => {
                let first = self.host.replace(value);
                if first.is_some() {
                    return Err(rules::host("The Host field stands twice."));
                }
            }
            14 if header.is("content-length") => {
                self.body
                    .content_length(value)
                    .map_err(|flaw| rules::framing(flaw.detail()))?;
            }
            17 if header.is("transfer-encoding") => {
                self.body
                    .transfer_encoding(value)
                    .map_err(|flaw| rules::framing(flaw.detail()))?;
            }
            10 if header.is("connection") => {
                for option in list(value) {
                    self.options += 1;
                    if self.options > CONNECTION_OPTIONS_MAX {
                        return Err(rules::head("Connection has more options than allowed."));
                    }
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            7 if header.is("upgrade") => {
                {
                    // Two wishes are none.
                    self.upgrade_websocket =
                        !self.upgrade_seen && value.eq_ignore_ascii_case(b"websocket");
                    self.upgrade_seen = true;
                }
            }
            6 if header.is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(rules::head_kind(
                        RejectionKind::ExpectationFailed,
                        "Only 100-continue can be expected.",
                    ));
                }
                self.expects = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<Framing, Rejection> {
        match (self.body.coding, self.body.length) {
            (Some(_), Some(_)) => Err(rules::framing(
                "Content-Length and Transfer-Encoding exclude each other.",
            )),
            (Some(_), None) if version == Version::Http10 => {
                Err(rules::framing("HTTP/1.0 has no Transfer-Encoding."))
            }
            (Some(Coding::Unknown), None) => Err(rules::framing_kind(
                RejectionKind::TransferCodingUnknown,
                "The only transfer coding is chunked.",
            )),
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::Empty),
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
