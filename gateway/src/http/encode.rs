//! The request as the upstream gets it: canonical path, fields of this hop removed, ours set last.

use super::fields::{self, Fate};
use super::head::RequestHead;
use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// How the body of an encoded message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOut {
    /// No body, or (a response to HTTP/1.0) one that ends with the connection.
    None,
    Length(u64),
    Chunked,
}

/// What the gateway says about the client, whatever the client said itself.
pub struct ForwardFields<'a> {
    /// The client: `X-Real-IP`, `Forwarded`, and the last element of `X-Forwarded-For`.
    pub client: IpAddr,
    /// The Host the upstream gets. Empty: the client's, port included, as it was sent.
    pub host: &'a str,
    pub tls: bool,
    pub request_id: &'a dyn Display,
    /// `X-Forwarded-For` as received, only where the peer is a trusted proxy: kept in front.
    pub inherited_xff: Option<&'a [u8]>,
    /// Fields of our own, such as `X-Gateway-Subject`; client copies of the same name are dropped.
    pub extra: &'a [(&'a str, &'a str)],
    /// Names (lower case) of consumed credentials.
    pub strip: &'a [Arc<str>],
    /// In place of the head's path; canonical.
    pub upstream_path: Option<&'a str>,
}

/// Appends request line and fields to `out`.
pub fn encode_request(
    head: &RequestHead<'_>,
    forward: &ForwardFields<'_>,
    body: BodyOut,
    websocket: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    fields::push_value(forward.upstream_path.unwrap_or(head.path).as_bytes(), out);
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let sent_host = head.header("host").unwrap_or_default();
    fields::push_field(
        "Host",
        if forward.host.is_empty() {
            sent_host
        } else {
            forward.host.as_bytes()
        },
        out,
    );
    push_clients(head, forward, out);
    push_ours(forward, sent_host, out);
    if websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    fields::push_body(body, out);
    out.extend_from_slice(b"\r\n");
}

fn push_clients(head: &RequestHead<'_>, forward: &ForwardFields<'_>, out: &mut Vec<u8>) {
    let connection_names_fields = fields::names_fields(head.headers);
    for header in head.headers {
        let forwarded = match fields::fate(header.name) {
            Fate::Hop | Fate::Ours => false,
            // Host stands first already; 100-continue is answered by us.
            Fate::Protected => !header.is("host") && !header.is("expect"),
            Fate::Forward => {
                !connection_names_fields || !fields::is_named(header.name, head.headers)
            }
        };
        let replaced = || forward.extra.iter().any(|(name, _)| header.is(name));
        let stripped = || forward.strip.iter().any(|name| header.is(name));
        if forwarded && !stripped() && !replaced() {
            fields::push_field(header.name, header.value, out);
        }
    }
}

fn push_ours(forward: &ForwardFields<'_>, sent_host: &[u8], out: &mut Vec<u8>) {
    let proto = if forward.tls { "https" } else { "http" };
    // The address is formatted once; the other fields copy it.
    out.extend_from_slice(b"X-Real-IP: ");
    let start = out.len();
    let _ = write!(out, "{}", forward.client);
    let client = start..out.len();
    out.extend_from_slice(b"\r\nX-Forwarded-For: ");
    if let Some(inherited) = forward.inherited_xff.filter(|xff| !xff.is_empty()) {
        fields::push_value(inherited, out);
        // A proxy that already named this client is not repeated.
        let last = inherited.rsplit(|&b| b == b',').next().unwrap_or_default();
        if last.trim_ascii() != &out[client.clone()] {
            out.extend_from_slice(b", ");
            out.extend_from_within(client.clone());
        }
    } else {
        out.extend_from_within(client.clone());
    }
    out.extend_from_slice(b"\r\n");
    fields::push_field("X-Forwarded-Proto", proto.as_bytes(), out);
    if !sent_host.is_empty() {
        fields::push_field("X-Forwarded-Host", sent_host, out);
    }
    let (open, close): (&[u8], &[u8]) = match forward.client {
        IpAddr::V4(_) => (b"Forwarded: for=", b";proto="),
        IpAddr::V6(_) => (b"Forwarded: for=\"[", b"]\";proto="),
    };
    out.extend_from_slice(open);
    out.extend_from_within(client);
    out.extend_from_slice(close);
    out.extend_from_slice(proto.as_bytes());
    if !sent_host.is_empty() {
        out.extend_from_slice(b";host=\"");
        fields::push_value(sent_host, out);
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
    fields::push_display("X-Request-Id", forward.request_id, out);
    for (name, value) in forward.extra {
        fields::push_field(name, value.as_bytes(), out);
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
