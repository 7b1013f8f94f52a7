//! What the upstream gets, and that it reads back as what was decided on.

use super::*;
use crate::http::{Framing, HeadLimits, HeadScratch, HeaderSpace, Parsed, Underscores, parse};

fn forward<'a>(strip: &'a [Arc<str>], extra: &'a [(&'a str, &'a str)]) -> ForwardFields<'a> {
    ForwardFields {
        client: "192.0.2.1".parse().unwrap(),
        host: "",
        tls: true,
        request_id: &"id",
        inherited_xff: None,
        extra,
        strip,
        upstream_path: None,
    }
}

fn encoded(head: &str, forward: &ForwardFields<'_>, body: BodyOut, websocket: bool) -> String {
    let (mut scratch, mut space) = (HeadScratch::new(), HeaderSpace::new());
    let limits = HeadLimits {
        underscores: Underscores::Keep,
        ..HeadLimits::default()
    };
    let Ok(Parsed::Complete { head, .. }) =
        parse(head.as_bytes(), &limits, &mut scratch, &mut space)
    else {
        panic!("{head:?}")
    };
    let mut out = Vec::new();
    encode_request(&head, forward, body, websocket, &mut out);
    String::from_utf8(out).unwrap()
}

const OURS: &str = "X-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: A.b:80\r\nForwarded: for=192.0.2.1;proto=https;host=\"A.b:80\"\r\nX-Request-Id: id\r\n";

#[test]
fn only_what_may_pass_passes() {
    let lies = [
        "Connection: close, x-hop, authorization, X-Request-Id, cookie, x-gateway-subject",
        "X-Hop: 1",
        "Keep-Alive: 5",
        "Proxy-Connection: x",
        "Proxy-Authorization: x",
        "TE: trailers",
        "Trailer: x",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "Forwarded: for=1",
        "X-Forwarded-For: 1",
        "x-forwarded-anything: 1",
        "X_Forwarded_For: 1",
        "X-Real-IP: 1",
        "X_Real_IP: 1",
        "X-Request-Id: 1",
        "X-Gateway-Subject: root",
        "X-Gateway-Other: 1",
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-Api-Key: secret",
        "Expect: 100-continue",
        "Transfer-Encoding: chunked",
        "X-Tenant: 9",
    ];
    let head = format!(
        "POST /a/../b?q HTTP/1.1\r\nHost: A.b:80\r\nAuthorization: t\r\nCookie: c\r\n{}\r\nAccept: */*\r\n\r\n",
        lies.join("\r\n")
    );
    let strip = ["x-api-key".into()];
    let extra = [("X-Gateway-Subject", "alice"), ("X-Tenant", "7")];
    let got = encoded(&head, &forward(&strip, &extra), BodyOut::Chunked, false);
    let expected = format!(
        "POST /b?q HTTP/1.1\r\nHost: A.b:80\r\nAuthorization: t\r\nCookie: c\r\nAccept: */*\r\n{OURS}X-Gateway-Subject: alice\r\nX-Tenant: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(got, expected);
}

#[test]
fn addresses_hosts_and_paths() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut fwd = forward(&[], &[]);
    fwd.client = "2001:db8::1".parse().unwrap();
    fwd.inherited_xff = Some(b"1.1.1.1, 2.2.2.2");
    fwd.host = "inner:8080";
    fwd.upstream_path = Some("/v2/");
    let got = encoded(head, &fwd, BodyOut::Length(0), false);
    assert!(got.starts_with("GET /v2/ HTTP/1.1\r\nHost: inner:8080\r\nX-Real-IP: 2001:db8::1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 2001:db8::1\r\n"), "{got}");
    assert!(got.contains("Forwarded: for=\"[2001:db8::1]\";proto=https;host=\"a\"\r\n"));
    assert!(got.ends_with("Content-Length: 0\r\n\r\n"));
    fwd.client = "2.2.2.2".parse().unwrap();
    assert!(
        encoded(head, &fwd, BodyOut::None, false).contains("X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n")
    );
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    let got = encoded(upgrade, &fwd, BodyOut::None, true);
    assert!(
        got.contains("Sec-WebSocket-Key: k\r\n")
            && got.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    );
    assert!(!encoded(upgrade, &fwd, BodyOut::None, false).contains("pgrade"));
}

#[test]
fn reads_back_as_what_was_decided_on() {
    let head =
        "PUT /a%20b/./c?d=%41 HTTP/1.1\r\nHost: a.b\r\nContent-Length: 3\r\nX: \u{e9}\ty\r\n\r\n";
    let text = encoded(head, &forward(&[], &[]), BodyOut::Length(3), false);
    let (mut scratch, mut space) = (HeadScratch::new(), HeaderSpace::new());
    let parsed = parse(
        text.as_bytes(),
        &HeadLimits::default(),
        &mut scratch,
        &mut space,
    );
    let Ok(Parsed::Complete { head, head_len, .. }) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(
        (head.method, head.path, head.query, head.host),
        ("PUT", "/a%20b/c", Some("d=%41"), "a.b")
    );
    assert_eq!((head.framing, head_len), (Framing::Length(3), text.len()));
    assert_eq!(head.header("x"), Some("\u{e9}\ty".as_bytes()));
}
