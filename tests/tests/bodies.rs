//! Bodies through the running gateway: every framing, both ways, large ones at the pace of whoever reads, and the
//! answers that come without one or before one is complete.

use gateway_tests::client::{get, post};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Step, Upstream, ok, raw};
use std::time::Duration;

#[test]
fn bodies_pass_by_length_and_in_chunks_both_ways() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/length" => ok("by length"),
        "/chunks" => raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nby \r\n6\r\nchunks\r\n0\r\n\r\n",
        ),
        "/close" => {
            let mut steps = raw("HTTP/1.1 200 OK\r\n\r\nuntil close");
            steps.push(Step::Close);
            steps
        }
        _ => {
            let text =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ntrickle\r\n0\r\n\r\n";
            vec![Step::ReadBody, Step::Trickle(text.to_vec())]
        }
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    for (path, body) in [
        ("/length", "by length"),
        ("/chunks", "by chunks"),
        ("/close", "until close"),
        ("/trickle", "trickle"),
        ("/length", "by length"),
    ] {
        let response = client.ask(format!(
            "POST {path} HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n"
        ));
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, body),
            "{path}"
        );
    }
    for seen in upstream.seen() {
        assert_eq!(seen.body, b"wikipedia");
        assert!(seen.whole);
        let raw = String::from_utf8_lossy(&seen.raw_head).into_owned();
        assert!(!raw.contains("a=b"), "{raw}");
    }
    let response = client.ask(post("/length", "text/plain", "12345"));
    assert_eq!(response.text(), "by length");
    let last = upstream.seen().pop().expect("a request");
    assert_eq!(last.field("content-length"), Some("5"));
    assert_eq!(last.body, b"12345");
    upstream.assert_clean();
}

#[test]
fn twenty_megabytes_down_to_a_slow_reader_are_not_held_in_memory() {
    const BYTES: usize = 20 << 20;
    let upstream = Upstream::start(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        vec![
            Step::ReadBody,
            Step::Send(head.into_bytes()),
            Step::Send(pattern(BYTES)),
        ]
    });
    let gateway = before(upstream.address);
    let pid = gateway.worker_pid();
    let mut client = gateway.http();
    client.send(get("/big"));
    let head = client.head().expect("a head");
    assert_eq!(
        head.field("content-length"),
        Some(BYTES.to_string().as_str())
    );
    let before_kib = peak_kib(pid);
    // The upstream pushes as fast as it is let; the client does not read yet.
    std::thread::sleep(Duration::from_millis(700));
    let (mut at, mut wrong) = (0usize, 0usize);
    client
        .body(&head, |part| {
            wrong += part
                .iter()
                .enumerate()
                .filter(|(i, b)| **b != byte_at(at + i))
                .count();
            at += part.len();
        })
        .expect("the whole body");
    assert_eq!((at, wrong), (BYTES, 0));
    let grown_kib = peak_kib(pid).saturating_sub(before_kib);
    assert!(grown_kib < 6 << 10, "the worker grew by {grown_kib} KiB");
    let record = gateway.record(head.field("x-request-id").expect("an id"));
    assert!(record["bytes_out"].as_u64().expect("bytes") >= BYTES as u64);
}

#[test]
fn twenty_megabytes_up_to_a_slow_upstream_are_not_held_in_memory() {
    const BYTES: usize = 20 << 20;
    let upstream = Upstream::start(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(700))];
        steps.extend(ok("got it"));
        steps
    });
    let config =
        Config::forwarding_to(upstream.address).listener("limits = { body_bytes = \"64MiB\" }");
    let gateway = Gateway::start(config);
    let pid = gateway.worker_pid();
    let before_kib = peak_kib(pid);
    let mut client = gateway.http();
    client.send(format!(
        "PUT /big HTTP/1.1\r\nHost: api.test\r\nContent-Length: {BYTES}\r\n\r\n"
    ));
    client.send(pattern(BYTES));
    assert_eq!(client.response().text(), "got it");
    let seen = upstream.only();
    assert_eq!((seen.body_bytes, seen.whole), (BYTES as u64, true));
    assert!(seen.body.iter().enumerate().all(|(i, b)| *b == byte_at(i)));
    let grown_kib = peak_kib(pid).saturating_sub(before_kib);
    assert!(grown_kib < 6 << 10, "the worker grew by {grown_kib} KiB");
}

#[test]
fn responses_without_a_body_leave_the_connection_usable() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/204" => raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => raw("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n"),
        _ if seen.method() == "HEAD" => raw("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        _ => ok("after"),
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send("HEAD /head HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let head = client.try_response("HEAD").expect("a response");
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("1234"))
    );
    assert_eq!(client.ask(get("/204")).status, 204);
    let not_modified = client.ask(get("/304"));
    assert_eq!(
        (not_modified.status, not_modified.field("etag")),
        (304, Some("\"x\""))
    );
    assert_eq!(client.ask(get("/after")).text(), "after");
}

#[test]
fn an_early_answer_reaches_the_client_and_ends_the_upload() {
    let upstream = Upstream::start(|_| {
        let text = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        vec![Step::Send(text.into()), Step::Stall]
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(
        "POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\n0123456789",
    );
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    assert!(
        response.closes(),
        "the body's rest would be taken for a request"
    );
    client.end_sending();
    assert!(client.is_closed());
    let record = gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(
        (&record["status"], &record["upstream_status"]),
        (&403.into(), &403.into())
    );
}

#[test]
fn a_client_that_expects_100_gets_it_before_it_sends() {
    let upstream = Upstream::ok("stored");
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(
        "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.head().expect("an interim head").status, 100);
    client.send("12345");
    assert_eq!(client.response().text(), "stored");
    let seen = upstream.only();
    assert_eq!(
        (seen.body.as_slice(), seen.field("expect")),
        (&b"12345"[..], None)
    );
    // And the connection goes on.
    assert_eq!(client.ask(get("/next")).status, 200);

    let refused = gateway.http().ask(
        "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 200-maybe\r\n\r\n",
    );
    assert_eq!(refused.status, 417);
    assert!(refused.closes());
    assert_eq!(upstream.seen().len(), 2);
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(byte_at).collect()
}

fn byte_at(i: usize) -> u8 {
    (i % 251) as u8
}

/// Most memory the process has ever held.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker lives");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .expect("VmHWM")
}
