//! Requests through the running gateway: what the client gets, what the upstream got, what is recorded.

use gateway_tests::client::{Client, get, post};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Seen, Step, Upstream, answer, ok, raw};
use gateway_tests::wait::until;
use std::io::Write;
use std::time::Duration;

#[test]
fn plain_and_tls_requests_are_forwarded_and_recorded() {
    let upstream = Upstream::ok("hello");
    let gateway = before(upstream.address);

    let plain = gateway.http().ask(get("/a/b?token=secret"));
    assert_eq!((plain.status, plain.text().as_str()), (200, "hello"));
    let tls = gateway.curl().get("/tls", &["-H", "User-Agent: e2e"]);
    assert_eq!((tls.status, tls.text().as_str()), (200, "hello"));

    let seen = upstream.seen();
    assert_eq!(seen[0].head.first_line, "GET /a/b?token=secret HTTP/1.1");
    assert_eq!(seen[1].target(), "/tls");
    upstream.assert_clean();

    let record = gateway.record(plain.field("x-request-id").expect("an id"));
    assert_eq!(record["method"], "GET");
    assert_eq!(record["host"], "api.test");
    assert_eq!(record["path"], "/a/b");
    assert_eq!(record["route"], "all");
    assert_eq!(record["status"], 200);
    assert_eq!(record["upstream_status"], 200);
    assert_eq!(record["upstream"], upstream.address.to_string());
    assert_eq!(record["decision"]["verdict"], "allowed");
    assert_eq!(record["client"], "127.0.0.1");
    assert_eq!(record["listener"], "http");
    assert!(record["tls"].is_null());
    assert!(record["us"]["total"].as_u64().expect("a time") > 0);

    let record = gateway.record(tls.field("x-request-id").expect("an id"));
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["sni"], "api.test");
    assert_eq!(record["listener"], "https");
    assert_eq!(record["user_agent"], "e2e");
}

#[test]
fn tls_1_2_is_offered_unless_refused_and_both_verify() {
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let old = gateway.curl().get("/", &["--tls-max", "1.2"]);
    let record = gateway.record(old.field("x-request-id").expect("an id"));
    assert_eq!(record["tls"]["version"], "1.2");
    let older = gateway.curl().run("/", &["--tls-max", "1.1"]);
    assert_ne!(older.exit, 0, "TLS 1.1 was taken");
}

#[test]
fn a_connection_is_kept_and_so_is_the_upstreams() {
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    for i in 0..20 {
        let response = client.ask(get(&format!("/{i}")));
        assert_eq!(response.status, 200);
        assert!(!response.closes());
    }
    let targets: Vec<String> = upstream
        .seen()
        .iter()
        .map(|s| s.target().to_owned())
        .collect();
    let wanted: Vec<String> = (0..20).map(|i| format!("/{i}")).collect();
    assert_eq!(targets, wanted);
    assert_eq!(
        upstream.connections(),
        1,
        "the pooled connection was not used"
    );

    let last = client.ask("GET /last HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n");
    assert!(last.closes());
    assert!(client.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|seen| {
        // The first one is the slowest: answers must not overtake each other.
        let wait = if seen.target() == "/1" { 80 } else { 0 };
        let mut steps = vec![Step::Wait(Duration::from_millis(wait))];
        steps.extend(ok(&format!("{} {}", seen.method(), seen.target())));
        steps
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(
        get("/1") + &post("/2", "text/plain", "GET /x HTTP/1.1\r\nHost: y\r\n\r\n") + &get("/3"),
    );
    for wanted in ["GET /1", "POST /2", "GET /3"] {
        assert_eq!(client.response().text(), wanted);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3, "a body was taken for a request");
    assert_eq!(seen[1].body, b"GET /x HTTP/1.1\r\nHost: y\r\n\r\n");
    upstream.assert_clean();
    until("three records", || {
        (gateway.records().len() == 3).then_some(())
    });
}

#[test]
fn http_1_0_clients_are_served_and_closed() {
    let upstream = Upstream::start(|_| {
        raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    let response = client.ask("GET /old HTTP/1.0\r\nHost: api.test\r\n\r\n");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(
        response.field("transfer-encoding"),
        None,
        "chunks sent to HTTP/1.0"
    );
    assert!(client.is_closed());
    assert_eq!(upstream.only().head.first_line, "GET /old HTTP/1.1");
}

#[test]
fn fields_of_the_hop_are_removed_both_ways() {
    let upstream = Upstream::start(|_| {
        answer(
            "200 OK",
            &[
                "Connection: X-Hop",
                "X-Hop: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Authenticate: Basic",
                "X-Stays: yes",
                "Set-Cookie: a=1",
                "Set-Cookie: b=2",
            ],
            "x",
        )
    });
    let gateway = before(upstream.address);
    let response = gateway.http().ask(
        "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, X-Mine, Authorization, X-Forwarded-For\r\n\
         X-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: x\r\n\
         Authorization: Bearer t\r\nX-Stays: yes\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nx_under: 1\r\n\r\n",
    );
    let seen = upstream.only();
    for gone in [
        "x-mine",
        "keep-alive",
        "te",
        "proxy-authorization",
        "proxy-connection",
        "upgrade",
        "http2-settings",
        "x_under",
        "connection",
    ] {
        assert_eq!(seen.head.all(gone), [""; 0], "{gone} reached the upstream");
    }
    assert_eq!(seen.field("x-stays"), Some("yes"));
    assert_eq!(
        seen.field("authorization"),
        Some("Bearer t"),
        "`Connection` took an end-to-end field away"
    );
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    for gone in ["x-hop", "keep-alive", "proxy-authenticate", "connection"] {
        assert_eq!(
            response.head.all(gone),
            [""; 0],
            "{gone} reached the client"
        );
    }
    assert_eq!(response.field("x-stays"), Some("yes"));
    assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn who_the_client_is_only_the_gateway_says() {
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let lies = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\
                X-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\nX-Gateway-Subject: root\r\nX_Forwarded_For: 6.6.6.6\r\n\
                X-Forwarded-Prefix: /admin\r\nX-Original-URL: /admin\r\n";
    let response = gateway
        .http()
        .ask(format!("GET /p HTTP/1.1\r\nHost: api.test\r\n{lies}\r\n"));
    let seen = upstream.only();
    let id = response.field("x-request-id").expect("an id");
    assert_eq!(id.len(), 32);
    for (name, value) in [
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("api.test")),
        (
            "forwarded",
            Some("for=127.0.0.1;proto=http;host=\"api.test\""),
        ),
        ("x-request-id", Some(id)),
        ("x-gateway-subject", None),
        ("x-forwarded-prefix", None),
        ("x-original-url", None),
        ("x_forwarded_for", None),
        ("host", Some("api.test")),
    ] {
        assert_eq!(seen.field(name), value, "{name}");
    }
    assert_eq!(gateway.record(id)["client"], "127.0.0.1");

    let over_tls = gateway.curl().get("/p", &["-H", "X-Forwarded-Proto: http"]);
    assert_eq!(over_tls.status, 200);
    let seen = upstream.seen().pop().expect("a request");
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn a_trusted_proxy_is_believed_and_the_chain_kept() {
    let upstream = Upstream::ok("x");
    let config = Config::forwarding_to(upstream.address)
        .listener("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    let gateway = Gateway::start(config);
    let response = gateway.http().ask(
        "GET / HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.9, 10.1.1.1\r\n\r\n",
    );
    let seen = upstream.only();
    assert_eq!(seen.field("x-real-ip"), Some("192.0.2.9"));
    let record = gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(
        (&record["client"], &record["peer"]),
        (&"192.0.2.9".into(), &"127.0.0.1".into())
    );
}

#[test]
fn web_sockets_pass_where_the_route_says_so() {
    let upstream = Upstream::start(|seen: &Seen| {
        if seen.field("upgrade").is_none() {
            return ok("no upgrade");
        }
        let mut steps = raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        steps.push(Step::Echo);
        steps
    });
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[routes]]\nname = \"ws\"\npath = \"/ws\"\nupstream = \"up\"\nwebsocket = true\n")
        .section("[[routes]]\nname = \"rest\"\npath = \"/*\"\nupstream = \"up\"\n");
    let gateway = Gateway::start(config);
    let handshake = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut client = gateway.http();
    client.send(handshake("/ws"));
    let response = client.head().expect("a head");
    assert_eq!(response.status, 101);
    assert_eq!(response.field("upgrade"), Some("websocket"));
    // Frames are not looked into: any bytes come back, in both small and large pieces.
    for size in [1usize, 5, 70_000] {
        let bytes = pattern(size);
        let mut sender = client.socket().try_clone().expect("a copy");
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || sender.write_all(&sent).expect("send"));
        assert_eq!(read_exactly(&mut client, size), bytes);
        sending.join().expect("the sender");
    }
    client.end_sending();
    assert!(client.is_closed());
    let record = gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(
        (&record["status"], &record["route"]),
        (&101.into(), &"ws".into())
    );

    // Elsewhere the upgrade is not offered to the upstream, and the request is an ordinary one or refused.
    let mut client = gateway.http();
    let response = client.ask(handshake("/other"));
    assert_ne!(response.status, 101);
    let upgrades = upstream
        .seen()
        .iter()
        .filter(|s| s.field("upgrade").is_some())
        .count();
    assert_eq!(upgrades, 1);
}

#[test]
fn a_prefix_can_be_stripped_and_paths_are_canonical() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[routes]]\nname = \"v1\"\npath = \"/api/v1/*\"\nupstream = \"up\"\nstrip_prefix = true\n")
        .section("[[routes]]\nname = \"rest\"\npath = \"/*\"\nupstream = \"up\"\n");
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    for (sent, forwarded) in [
        ("/api/v1/users?a=%2f", "/users?a=%2f"),
        ("/x/%41%7e", "/x/A~"),
        ("/x/./y", "/x/y"),
        ("/x/../y", "/y"),
    ] {
        let response = client.ask(get(sent));
        assert_eq!(response.status, 200, "{sent}: {}", response.text());
        assert_eq!(
            upstream.seen().pop().expect("a request").target(),
            forwarded,
            "{sent}"
        );
    }
    let record = gateway.record_where("the stripped request", |r| r["route"] == "v1");
    assert_eq!(record["path"], "/api/v1/users");
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(byte_at).collect()
}

fn byte_at(i: usize) -> u8 {
    (i % 251) as u8
}

fn read_exactly(client: &mut Client, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut part = [0; 8192];
    while out.len() < bytes {
        let n = client.read_some(&mut part).expect("bytes back");
        assert!(n > 0, "closed after {} of {bytes}", out.len());
        out.extend_from_slice(&part[..n]);
    }
    out
}
