//! Requests through the running gateway: what the client gets, what the upstream got, what is recorded.

use gateway_tests::client::{Client, get, post};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Seen, Step, Upstream, answer, ok, raw};
use gateway_tests::wait::until;
use std::io::Write;
use std::time::{Duration, Instant};

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
fn interim_responses_are_not_taken_for_the_answer() {
    let upstream = Upstream::start(|_| {
        raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(get("/"));
    let mut response = client.head().expect("a head");
    if response.status == 103 {
        response = client.head().expect("the final head");
    }
    assert_eq!(response.status, 200);
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
fn faults_of_the_upstream_get_their_status_and_a_record() {
    let reset_in_body = |reply: &'static str| {
        let mut steps = raw(reply);
        steps.push(Step::Reset);
        steps
    };
    let upstream = Upstream::start(move |seen| match seen.target() {
        "/reset-at-once" => vec![Step::Reset],
        "/close-at-once" => vec![Step::ReadBody, Step::Close],
        "/reset-in-head" => reset_in_body("HTTP/1.1 200 OK\r\nConte"),
        "/malformed" => raw("HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nhi"),
        "/not-http" => raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        "/two-lengths" => {
            raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi")
        }
        "/both" => raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        "/bare-lf" => raw("HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2\r\nContent-Length: 0\r\n\r\n"),
        "/nul" => raw(b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n"),
        "/split" => raw("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n"),
        "/unasked-101" => raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ),
        "/slow" => vec![Step::ReadBody, Step::Stall],
        other => panic!("{other}"),
    });
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("response_timeout = \"400ms\"")
        .section("[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\n");
    let gateway = Gateway::start(config);
    for (path, status, slug) in [
        ("/reset-at-once", 502, "upstream-reset"),
        ("/close-at-once", 502, "upstream-reset"),
        ("/reset-in-head", 502, "upstream-reset"),
        ("/malformed", 502, "upstream-malformed-response"),
        ("/not-http", 502, "upstream-malformed-response"),
        ("/two-lengths", 502, "upstream-malformed-response"),
        ("/both", 502, "upstream-malformed-response"),
        ("/bare-lf", 502, "upstream-malformed-response"),
        ("/nul", 502, "upstream-malformed-response"),
        ("/split", 502, "upstream-malformed-response"),
        ("/unasked-101", 502, "upstream-malformed-response"),
        ("/slow", 504, "upstream-response-timeout"),
    ] {
        let begun = Instant::now();
        let response = gateway.http().ask(get(path));
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert!(begun.elapsed() < Duration::from_secs(8), "{path}");
        let problem = response.json();
        assert_eq!(
            problem["type"],
            format!("urn:gateway:problem:{slug}"),
            "{path}"
        );
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["verdict"], "upstream-fault", "{path}");
        assert_eq!(record["decision"]["slug"], slug, "{path}");
        assert_eq!(record["status"], status, "{path}");
    }
    // A connection that failed is not used again.
    for seen in upstream.seen() {
        let same = upstream
            .seen()
            .iter()
            .filter(|s| s.connection == seen.connection)
            .count();
        assert_eq!(same, 1, "connection {} was used again", seen.connection);
    }
}

#[test]
fn a_response_cut_in_its_body_is_cut_for_the_client_too() {
    let upstream = Upstream::start(|seen| {
        let mut steps = match seen.target() {
            "/length" => raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
            "/chunks" => {
                raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this")
            }
            _ => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        };
        steps.push(Step::Close);
        steps
    });
    let gateway = before(upstream.address);
    for path in ["/length", "/chunks", "/no-last-chunk"] {
        let mut client = gateway.http();
        client.send(get(path));
        let head = client.head().expect("a head");
        let cut = client
            .body(&head, |_| {})
            .expect_err("the client cannot tell that it is cut");
        let expected = [
            std::io::ErrorKind::UnexpectedEof,
            std::io::ErrorKind::ConnectionReset,
        ];
        assert!(expected.contains(&cut.kind()), "{path}: {cut}");
        let record = gateway.record(head.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["slug"], "upstream-reset", "{path}");
    }
}

#[test]
fn a_refused_upstream_is_502() {
    let gone = Upstream::ok("");
    let address = gone.address;
    drop(gone);
    let gateway = before(address);
    let response = gateway.http().ask(get("/"));
    assert_eq!(response.status, 502);
    let record = gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(record["decision"]["slug"], "upstream-connect-failed");
    assert_eq!(record["upstream_status"], 0);
}

#[test]
fn targets_take_turns_and_one_that_is_down_costs_no_request() {
    let (one, two) = (Upstream::ok("one"), Upstream::ok("two"));
    let gone = Upstream::ok("");
    let down = gone.address;
    drop(gone);
    let config = Config::default()
        .upstream("both", &[one.address, two.address])
        .upstream("half", &[one.address, down])
        .section("[[routes]]\nname = \"both\"\npath = \"/both\"\nupstream = \"both\"\n")
        .section("[[routes]]\nname = \"half\"\npath = \"/half\"\nupstream = \"half\"\n");
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    let answers: Vec<String> = (0..20).map(|_| client.ask(get("/both")).text()).collect();
    let ones = answers.iter().filter(|a| *a == "one").count();
    assert!((8..=12).contains(&ones), "{answers:?}");
    for i in 0..20 {
        let response = client.ask(get("/half"));
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "one"),
            "request {i}"
        );
    }
}

#[test]
fn a_stale_pooled_connection_costs_no_request() {
    // Closes after each answer without saying so: what every keep-alive upstream does sooner or later.
    let upstream = Upstream::start(|_| {
        let mut steps = ok("x");
        steps.push(Step::Close);
        steps
    });
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    for i in 0..50 {
        let response = client.ask(get(&format!("/{i}")));
        assert_eq!(response.status, 200, "GET {i}: {}", response.text());
    }
    // What may not be sent twice never is.
    for i in 0..50 {
        let response = client.ask(post(&format!("/post{i}"), "text/plain", "once"));
        assert!([200, 502].contains(&response.status), "{}", response.status);
    }
    let posts = upstream.seen().into_iter().filter(|s| s.method() == "POST");
    let mut targets: Vec<String> = posts.map(|s| s.target().to_owned()).collect();
    let all = targets.len();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), all, "a POST was sent twice");
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

/// Most memory the process has ever held.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker lives");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .expect("VmHWM")
}
