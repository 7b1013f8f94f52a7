//! Our own answers: problem details (RFC 9457), small, never cached, never echoing the client.

use super::fields;
use crate::outcome::Rejection;
use std::fmt::{Display, Write as _};

/// Tells a client that waits that its body is wanted.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Errors listed in one problem at most.
const ERRORS_MAX: usize = 32;

/// Appends the answer to a refusal. `extra` are response fields of policies, such as `RateLimit`.
pub fn problem(
    rejection: &Rejection,
    request_id: &dyn Display,
    extra: &[(&'static str, String)],
    head_request: bool,
    close: bool,
    out: &mut Vec<u8>,
) {
    let kind = rejection.kind;
    let mut json = String::with_capacity(320);
    begin(kind.slug(), kind.title(), kind.status(), &mut json);
    member("detail", &rejection.detail, &mut json);
    member("rule", &rejection.rule, &mut json);
    json.push_str(",\"request_id\":");
    let _ = write!(json, "\"{}\"", Escaped(request_id));
    if !rejection.errors.is_empty() {
        json.push_str(",\"errors\":[");
        for (i, (pointer, reason)) in rejection.errors.iter().take(ERRORS_MAX).enumerate() {
            json.push_str(if i == 0 {
                "{\"pointer\":"
            } else {
                ",{\"pointer\":"
            });
            string(pointer, &mut json);
            member("reason", reason, &mut json);
            json.push('}');
        }
        json.push(']');
    }
    json.push('}');
    let reply = Reply {
        status: kind.status(),
        request_id,
        close: close || rejection.close,
        head_request,
    };
    reply.encode(&[&rejection.fields, extra], &json, out);
}

/// What went wrong, of a kind in the table of outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub status: u16,
    pub slug: &'static str,
    pub title: &'static str,
}

/// Appends the answer to a fault of the upstream or of ours.
pub fn fault(
    problem: Problem,
    request_id: &dyn Display,
    extra: &[(&'static str, String)],
    close: bool,
    head_request: bool,
    out: &mut Vec<u8>,
) {
    let mut json = String::with_capacity(200);
    begin(problem.slug, problem.title, problem.status, &mut json);
    let _ = write!(json, ",\"request_id\":\"{}\"}}", Escaped(request_id));
    Reply {
        status: problem.status,
        request_id,
        close,
        head_request,
    }
    .encode(&[extra], &json, out);
}

struct Reply<'a> {
    status: u16,
    request_id: &'a dyn Display,
    close: bool,
    head_request: bool,
}

impl Reply<'_> {
    fn encode(&self, field_lists: &[&[(&'static str, String)]], json: &str, out: &mut Vec<u8>) {
        status_line(self.status, out);
        out.extend_from_slice(
            b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
        );
        fields::push_body(super::BodyOut::Length(json.len() as u64), out);
        fields::push_display("X-Request-Id", self.request_id, out);
        for (name, value) in field_lists.iter().copied().flatten() {
            fields::push_field(name, value.as_bytes(), out);
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_request {
            out.extend_from_slice(json.as_bytes());
        }
    }
}

fn begin(slug: &str, title: &str, status: u16, json: &mut String) {
    json.push_str("{\"type\":\"urn:gateway:problem:");
    let _ = write!(json, "{}\"", Escaped(&slug));
    member("title", title, json);
    let _ = write!(json, ",\"status\":{status}");
}

fn member(name: &str, value: &str, json: &mut String) {
    let _ = write!(json, ",\"{name}\":");
    string(value, json);
}

fn string(value: &str, json: &mut String) {
    let _ = write!(json, "\"{}\"", Escaped(&value));
}

/// The text inside a JSON string (RFC 8259 section 7).
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

struct Escaper<'a, 'f>(&'a mut std::fmt::Formatter<'f>);

impl std::fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        for c in s.chars() {
            match c {
                '"' => self.0.write_str("\\\"")?,
                '\\' => self.0.write_str("\\\\")?,
                c if c.is_control() => write!(self.0, "\\u{:04x}", c as u32)?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub(super) fn status_line(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    fields::push_number(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of RFC 9110 section 15; empty for statuses it does not know.
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
