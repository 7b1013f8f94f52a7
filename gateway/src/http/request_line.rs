//! The request line (RFC 9112 section 3), byte by byte: tokens and single spaces, nothing else.

use super::head::Version;
use super::parse::HeadLimits;
use super::{lines, rules};
use crate::outcome::{Rejection, RejectionKind};

const METHOD_BYTES_MAX: usize = 32;

pub(super) struct RequestLine<'b> {
    pub(super) method: &'b str,
    pub(super) target: &'b str,
    pub(super) version: Version,
    /// With its line end.
    pub(super) len: usize,
}

/// `method SP target SP HTTP-version CRLF`, each separator exactly one space. Finds the first impossible byte of a prefix.
pub(super) fn request_line<'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
) -> Result<Option<RequestLine<'b>>, Rejection> {
    let method_len = match buf
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|&b| !lines::is_tchar(b))
    {
        Some(at) if at > 0 && buf[at] == b' ' => at,
        None if buf.len() <= METHOD_BYTES_MAX => return Ok(None),
        _ => {
            return Err(rules::head(
                "The request line does not start with a method and a space.",
            ));
        }
    };
    let rest = &buf[method_len + 1..];
    let target_len = rest.iter().position(|b| !b.is_ascii_graphic());
    if target_len.unwrap_or(rest.len()) > limits.target_bytes_max {
        return Err(rules::head_kind(
            RejectionKind::TargetTooLong,
            "The request target is longer than allowed.",
        ));
    }
    let Some(target_len) = target_len else {
        return if buf.len() >= limits.head_bytes_max {
            Err(rules::head_kind(
                RejectionKind::HeadTooLarge,
                lines::Flaw::TooLarge.detail(),
            ))
        } else {
            Ok(None)
        };
    };
    if target_len == 0 || rest[target_len] != b' ' {
        return Err(rules::head(
            "The request line is not a method, a target and a version between single spaces.",
        ));
    }
    let Some(version) = version(&rest[target_len + 1..])? else {
        return Ok(None);
    };
    let text = |bytes: &'b [u8]| {
        std::str::from_utf8(bytes).map_err(|_| rules::head("The request line is not ASCII."))
    };
    Ok(Some(RequestLine {
        method: text(&buf[..method_len])?,
        target: text(&rest[..target_len])?,
        version,
        len: method_len + 1 + target_len + 1 + VERSION_LINE.len(),
    }))
}

/// The shape of what follows the target; `0` stands for a digit.
const VERSION_LINE: &[u8; 10] = b"HTTP/0.0\r\n";

fn version(bytes: &[u8]) -> Result<Option<Version>, Rejection> {
    for (&b, &shape) in bytes.iter().zip(VERSION_LINE) {
        let fits = if shape == b'0' {
            b.is_ascii_digit()
        } else {
            b == shape
        };
        if !fits {
            return Err(rules::head(
                "The request line does not end with an HTTP version and CR LF.",
            ));
        }
    }
    match bytes.get(..VERSION_LINE.len()) {
        None => Ok(None),
        Some(line) => match &line[5..8] {
            b"1.1" => Ok(Some(Version::Http11)),
            b"1.0" => Ok(Some(Version::Http10)),
            _ => Err(rules::head_kind(
                RejectionKind::VersionNotSupported,
                "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
            )),
        },
    }
}
