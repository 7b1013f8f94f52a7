//! The request target: origin form, absolute form and `*` (RFC 9112 section 3.2).

use super::{host, path, rules};
use crate::outcome::Rejection;

/// A target taken apart; the path is not yet canonical.
#[derive(Debug)]
pub(super) struct Target<'b> {
    /// `uri-host [":" port]` of an absolute form.
    pub(super) authority: Option<&'b [u8]>,
    pub(super) path: &'b str,
    pub(super) query: Option<&'b str>,
}

/// `raw` is visible ASCII, as the request line was checked.
pub(super) fn split<'b>(method: &str, raw: &'b str) -> Result<Target<'b>, Rejection> {
    if raw == "*" {
        return if method == "OPTIONS" {
            Ok(Target {
                authority: None,
                path: "*",
                query: None,
            })
        } else {
            Err(rules::head("Only OPTIONS may have the target *."))
        };
    }
    if raw.contains('#') {
        return Err(rules::head("A request target has no fragment."));
    }
    let (before, query) = match raw.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (raw, None),
    };
    if let Some(query) = query {
        check_query(query.as_bytes())?;
    }
    if before.starts_with('/') {
        return Ok(Target {
            authority: None,
            path: before,
            query,
        });
    }
    let Some((scheme, rest)) = before.split_once("://") else {
        return Err(rules::head("The request target must start with a slash."));
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(rules::head(
            "The scheme of the request target is not http or https.",
        ));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = match path {
        "" if method == "OPTIONS" && query.is_none() => "*",
        "" => "/",
        path => path,
    };
    Ok(Target {
        authority: Some(authority.as_bytes()),
        path,
        query,
    })
}

fn check_query(query: &[u8]) -> Result<(), Rejection> {
    for at in memchr::memchr_iter(b'%', query) {
        let digits = query.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(rules::head("The query holds an invalid percent-encoding."));
        }
    }
    Ok(())
}

/// The canonical path: borrowed where the client's is canonical already.
pub(super) fn canonical_path<'b>(
    raw: &'b str,
    kept: path::Kept,
    out: &'b mut String,
) -> Result<&'b str, Rejection> {
    if raw == "*" || path::is_plain(raw.as_bytes()) {
        return Ok(raw);
    }
    path::canonicalize(raw.as_bytes(), kept, out)?;
    Ok(out)
}

/// The canonical host, after the Host field and an absolute form's authority agree.
pub(super) fn canonical_host<'b>(
    field: Option<&[u8]>,
    authority: Option<&[u8]>,
    required: bool,
    out: &'b mut String,
) -> Result<&'b str, Rejection> {
    out.clear();
    let Some(field) = field else {
        return if required || authority.is_some() {
            Err(rules::host("The Host field is missing."))
        } else {
            Ok(out)
        };
    };
    let port = host::canonical_host(field, out)?;
    if let Some(authority) = authority {
        let host_len = out.len();
        let authority_port = host::canonical_host(authority, out)?;
        if out[..host_len] != out[host_len..] || port != authority_port {
            return Err(rules::host(
                "The Host field differs from the request target.",
            ));
        }
        out.truncate(host_len);
    }
    Ok(out)
}
