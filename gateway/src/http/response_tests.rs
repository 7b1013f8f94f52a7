//! Upstream heads: framing, refusals, and what the client gets.

use super::*;
use proptest::prelude::*;

type Seen = (u16, ResponseFraming, bool, usize);

fn run(bytes: &[u8], method: &str) -> Result<Option<Seen>, UpstreamFaultKind> {
    let mut space = HeaderSpace::new();
    let parsed = parse_response(bytes, method, &HeadLimits::default(), &mut space)?;
    Ok(parsed.map(|(head, len)| (head.status, head.framing, head.keep_alive, len)))
}

#[test]
fn framing_by_status_method_and_fields() {
    use ResponseFraming::*;
    let table = [
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            200,
            Length(5),
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n",
            200,
            Length(5),
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n",
            200,
            Chunked,
            true,
        ),
        ("GET", "HTTP/1.1 200 OK\r\n\r\n", 200, UntilClose, false),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
            200,
            Length(5),
            false,
        ),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            200,
            Length(5),
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            200,
            Length(5),
            false,
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            200,
            Empty,
            true,
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            304,
            Empty,
            true,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, Empty, true),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            204,
            Empty,
            false,
        ),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\n", 100, Empty, true),
        (
            "GET",
            "HTTP/1.1 599 \u{e9}\r\nContent-Length: 0\r\n\r\n",
            599,
            Length(0),
            true,
        ),
    ];
    for (method, head, status, framing, keep) in table {
        assert_eq!(
            run(head.as_bytes(), method),
            Ok(Some((status, framing, keep, head.len()))),
            "{head:?}"
        );
        for cut in 0..head.len() {
            assert_eq!(
                run(&head.as_bytes()[..cut], method),
                Ok(None),
                "{head:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn refuses() {
    for head in [
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(
            run(head.as_bytes(), "GET"),
            Err(UpstreamFaultKind::MalformedResponse),
            "{head:?}"
        );
    }
}

fn encoded(
    head: &str,
    method: &str,
    extra: &[(&'static str, String)],
    version: Version,
    close: bool,
) -> String {
    let mut space = HeaderSpace::new();
    let (head, _) = parse_response(head.as_bytes(), method, &HeadLimits::default(), &mut space)
        .unwrap()
        .unwrap();
    let mut out = Vec::new();
    encode_response(
        &head,
        extra,
        head.body_for(version).0,
        version,
        close,
        &"id",
        &mut out,
    );
    String::from_utf8(out).unwrap()
}

#[test]
fn what_the_client_gets() {
    let upstream = "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Request-Id: theirs\r\nRateLimit: 9\r\nTransfer-Encoding: chunked\r\nTrailer: t\r\nUpgrade: h2c\r\n\r\n";
    let extra = [("RateLimit", "1".to_owned())];
    assert_eq!(
        encoded(upstream, "GET", &extra, Version::Http11, false),
        "HTTP/1.1 200 OK\r\nServer: s\r\nRateLimit: 1\r\nX-Request-Id: id\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        encoded(upstream, "GET", &extra, Version::Http10, true),
        "HTTP/1.1 200 OK\r\nServer: s\r\nRateLimit: 1\r\nX-Request-Id: id\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        encoded(
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            "HEAD",
            &[],
            Version::Http11,
            false
        ),
        "HTTP/1.1 200 OK\r\nX-Request-Id: id\r\nContent-Length: 7\r\n\r\n"
    );
    assert_eq!(
        encoded(
            "HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\n",
            "GET",
            &[],
            Version::Http10,
            false
        ),
        "HTTP/1.1 204 No Content\r\nX-Request-Id: id\r\nConnection: keep-alive\r\n\r\n"
    );
    let switched = encoded(
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: k\r\n\r\n",
        "GET",
        &[],
        Version::Http11,
        false,
    );
    assert!(
        switched.contains("Sec-WebSocket-Accept: k\r\n")
            && switched.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    );
}

#[test]
fn problems_are_json_whatever_they_hold() {
    use crate::outcome::{Rejection, RejectionKind};
    let mut rejection = Rejection::new(
        RejectionKind::BodyInvalid,
        "a\"b\\c".into(),
        "line\nbreak \u{7}",
    )
    .closing();
    rejection.errors.push(("/a\"".into(), "x\u{1}".into()));
    let rejection = rejection.field("Retry-After", "3");
    let mut out = Vec::new();
    reply::problem(
        &rejection,
        &"i\"d",
        &[("RateLimit", "1".into())],
        false,
        false,
        &mut out,
    );
    let text = String::from_utf8(out).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["rule"], "a\"b\\c");
    assert_eq!(json["detail"], "line\nbreak \u{7}");
    assert_eq!(json["errors"][0]["pointer"], "/a\"");
    assert_eq!(json["type"], "urn:gateway:problem:body-invalid");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert!(head.contains("Retry-After: 3\r\nRateLimit: 1\r\nConnection: close"));
    let mut out = Vec::new();
    let problem = reply::Problem {
        status: 503,
        slug: "overloaded",
        title: "t",
    };
    reply::fault(problem, &1, &[], false, true, &mut out);
    assert!(out.ends_with(b"\r\n\r\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = run(&bytes, "GET");
        let _ = run(&[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat(), "GET");
        let mut decoder = crate::http::ChunkedDecoder::new();
        let _ = decoder.feed(&bytes);
    }
}
