//! What the edge must refuse: each class in several variants, as bytes. The client gets the status and, where the
//! end of the message is in doubt, a closed connection; the upstream gets nothing; the log gets a record.

use gateway_tests::config::Config;
use gateway_tests::gateway::Gateway;
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::until;
use serde_json::Value;

/// Status 0: closed without an answer would do as well.
struct Refused {
    class: &'static str,
    status: &'static [u16],
    /// Whether the connection must not be used again.
    closes: bool,
    variants: &'static [&'static [u8]],
}

const TABLE: &[Refused] = &[
    Refused {
        class: "both lengths and codings",
        status: &[400],
        closes: true,
        variants: &[
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    },
    Refused {
        class: "transfer codings",
        status: &[400, 501],
        closes: true,
        variants: &[
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    },
    Refused {
        class: "content lengths",
        status: &[400],
        closes: true,
        variants: &[
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length:\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: +5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: -5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0x5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5, 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5 5\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5.0\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 99999999999999999999999999\r\n\r\nhello",
        ],
    },
    Refused {
        class: "line ends and names",
        status: &[400],
        closes: true,
        variants: &[
            b"GET / HTTP/1.1\nHost: api.test\n\n\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\nX: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: 1\n\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\x01b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\x7fb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: 1\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX: 1\r\n\tfolded\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: api.test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX : 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding : chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\n: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX y: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX(y): 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nX\xe9: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nnocolon\r\n\r\n",
        ],
    },
    Refused {
        class: "request lines",
        status: &[400, 505],
        closes: true,
        variants: &[
            b"GET  / HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /  HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET\t/\tHTTP/1.1\r\nHost: api.test\r\n\r\n",
            b" GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: api.test\r\n\r\n",
            b"GET /\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/1.2\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: api.test\r\n\r\n",
            b"GET / http/1.1\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/1.1x\r\nHost: api.test\r\n\r\n",
            b"GET / FTP/1.1\r\nHost: api.test\r\n\r\n",
            b"G(T / HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ],
    },
    Refused {
        class: "hosts",
        status: &[400],
        closes: true,
        variants: &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test/x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: user@api.test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test:80:80\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test:99999\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: api.test, evil.test\r\n\r\n",
            b"GET http://other.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
        ],
    },
    Refused {
        class: "targets",
        status: &[400],
        closes: false,
        variants: &[
            b"GET x HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET * HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a#b HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a\x01 HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a\x7f HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /\xc3\xa9 HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a?b\xff HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET file:///etc/passwd HTTP/1.1\r\nHost: api.test\r\n\r\n",
        ],
    },
    Refused {
        class: "paths that can be read in more than one way",
        status: &[400],
        closes: false,
        variants: &[
            b"GET /a%2fb HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%2Fb HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%5cb HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a\\b HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%00 HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%0d%0ab HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%252fb HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%252e%252e/b HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a%zz HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a% HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /a/..;/b HTTP/1.1\r\nHost: api.test\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: api.test\r\n\r\n",
        ],
    },
    Refused {
        class: "CONNECT",
        status: &[400, 405],
        closes: true,
        variants: &[
            b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
            b"CONNECT / HTTP/1.1\r\nHost: api.test\r\n\r\n",
        ],
    },
    Refused {
        class: "expectations",
        status: &[417],
        closes: true,
        variants: &[
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: other\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue, other\r\n\r\n",
        ],
    },
];

fn gateway_and_upstream() -> (Gateway, Upstream) {
    let upstream = Upstream::ok("reached");
    let gateway = Gateway::start(Config::forwarding_to(upstream.address));
    (gateway, upstream)
}

#[test]
fn each_class_is_refused_closed_and_recorded_and_nothing_reaches_the_upstream() {
    let (gateway, upstream) = gateway_and_upstream();
    let mut failures = Vec::new();
    let mut ids = Vec::new();
    for row in TABLE {
        for variant in row.variants {
            let shown = format!("{}: {:?}", row.class, String::from_utf8_lossy(variant));
            let mut client = gateway.http();
            client.send(variant);
            // A pipelined request behind it must not be served where the message's end is in doubt.
            let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n");
            client.end_sending();
            let response = match client.try_response("GET") {
                Ok(response) => response,
                Err(e) => {
                    failures.push(format!("{shown}: no answer: {e}"));
                    continue;
                }
            };
            if !row.status.contains(&response.status) {
                failures.push(format!("{shown}: {}", response.status));
            }
            if row.closes && !(response.closes() && client.is_closed()) {
                failures.push(format!("{shown}: kept open"));
            }
            match response.field("x-request-id") {
                Some(id) => ids.push((shown, id.to_owned(), response)),
                None => failures.push(format!("{shown}: no request id")),
            }
        }
    }
    for seen in upstream.seen() {
        // A refused target leaves the message's end certain: the next request may be served.
        if seen.target() != "/smuggled" {
            failures.push(format!("reached the upstream: {seen:?}"));
        }
    }
    upstream.assert_clean();
    let wanted = ids.len();
    until("a record of each", || {
        (gateway.records().len() >= wanted).then_some(())
    });
    let records = gateway.records();
    for (shown, id, response) in ids {
        let mine: Vec<&Value> = records.iter().filter(|r| r["id"] == id).collect();
        let problem = response.json();
        let agree = mine.len() == 1
            && mine[0]["status"] == response.status
            && mine[0]["decision"]["verdict"] == "refused"
            && format!(
                "urn:gateway:problem:{}",
                mine[0]["decision"]["slug"].as_str().unwrap_or("?")
            ) == problem["type"]
            && mine[0]["decision"]["rule"] == problem["rule"]
            && problem["request_id"] == id.as_str();
        if !agree {
            failures.push(format!("{shown}: record {mine:?}, answer {problem}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn no_class_hides_a_request_behind_it_when_the_end_is_in_doubt() {
    let (gateway, upstream) = gateway_and_upstream();
    for row in TABLE.iter().filter(|row| row.closes) {
        for variant in row.variants {
            let mut client = gateway.http();
            client.send(
                [
                    variant,
                    &b"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"[..],
                ]
                .concat(),
            );
            client.end_sending();
            let answer = client.drain(1 << 20);
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(
                text.matches("\r\nX-Request-Id: ").count(),
                1,
                "{}: {text}",
                row.class
            );
        }
    }
    upstream.assert_untouched();
}

#[test]
fn bodies_in_chunks_are_strict_too() {
    let (gateway, upstream) = gateway_and_upstream();
    let head = "POST /chunks HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5;a=\u{1}b\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n\r\n",
    ] {
        let mut client = gateway.http();
        client.send(format!("{head}{body}"));
        client.end_sending();
        let response = client.response();
        assert_eq!(response.status, 400, "{body:?}");
        assert!(
            response.closes() && client.is_closed(),
            "{body:?} kept open"
        );
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["verdict"], "refused", "{body:?}");
    }
    let whole = upstream.seen().iter().filter(|seen| seen.whole).count();
    assert_eq!(
        whole, 0,
        "the upstream was told that a broken body is complete"
    );
}

#[test]
fn long_chunk_extensions_end_the_connection_and_trailers_are_dropped() {
    let (gateway, upstream) = gateway_and_upstream();
    let head = "POST /chunks HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = gateway.http();
    client.send(format!(
        "{head}5;a={}\r\nhello\r\n0\r\n\r\n",
        "x".repeat(100_000)
    ));
    assert_eq!(client.response().status, 400);

    let mut client = gateway.http();
    let response = client.ask(format!(
        "{head}5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nX-Late: 1\r\n\r\n"
    ));
    assert_eq!(response.status, 200);
    let seen = upstream.seen().pop().expect("a request");
    assert_eq!((seen.body.as_slice(), seen.whole), (&b"hello"[..], true));
    assert!(seen.field("x-late").is_none());
    // The connection goes on where the trailers ended.
    assert_eq!(
        client
            .ask("GET /next HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .status,
        200
    );
    upstream.assert_clean();
}

#[test]
fn sizes_are_bounded() {
    let (gateway, upstream) = gateway_and_upstream();
    for (class, request, statuses) in [
        (
            "target",
            format!(
                "GET /{} HTTP/1.1\r\nHost: api.test\r\n\r\n",
                "a".repeat(9000)
            ),
            vec![414],
        ),
        (
            "one field",
            format!(
                "GET / HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n",
                "a".repeat(20_000)
            ),
            vec![431],
        ),
        (
            "fields",
            format!(
                "GET / HTTP/1.1\r\nHost: api.test\r\n{}\r\n",
                "X: 1\r\n".repeat(200)
            ),
            vec![431],
        ),
        (
            "endless head",
            format!(
                "GET / HTTP/1.1\r\nHost: api.test\r\n{}",
                "X: aaaaaaaaaaaaaaaa\r\n".repeat(2000)
            ),
            vec![431],
        ),
        ("endless line", "G".repeat(40_000), vec![400, 414, 431]),
    ] {
        let mut client = gateway.http();
        let _ = client.try_send(&request);
        let response = client
            .try_response("GET")
            .unwrap_or_else(|e| panic!("{class}: {e}"));
        assert!(
            statuses.contains(&response.status),
            "{class}: {}",
            response.status
        );
        assert!(response.closes(), "{class} kept open");
    }
    let too_large = gateway
        .http()
        .ask("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(too_large.status, 413);
    assert!(too_large.closes());
    upstream.assert_untouched();
}

#[test]
fn what_is_unusual_but_right_passes() {
    let (gateway, upstream) = gateway_and_upstream();
    for request in [
        "OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n",
        "GET / HTTP/1.1\r\nhOsT:api.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \t api.test \t\r\n\r\n",
        "GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n\r\n",
        "GET /a?b=/c?d&e=%00 HTTP/1.1\r\nHost: api.test:8443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: API.TEST\r\n\r\n",
        "PROPFIND /dav HTTP/1.1\r\nHost: api.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.test\r\nX: \u{e9}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.test\r\nEmpty:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0005\r\n\r\nhello",
    ] {
        let response = gateway.http().ask(request);
        assert!(
            [200, 404].contains(&response.status),
            "{request:?}: {} {}",
            response.status,
            response.text()
        );
    }
    assert!(!upstream.seen().is_empty());
}

#[test]
fn plain_http_on_the_tls_port_and_a_wrong_name_are_told() {
    let (gateway, upstream) = gateway_and_upstream();
    let mut client = gateway_tests::client::Client::connect(gateway.config.https);
    client.send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n");
    let answer = client.drain(64 << 10);
    // Whatever is said, it is not a proxied answer.
    assert!(!String::from_utf8_lossy(&answer).contains("reached"));
    // The name in the handshake and the one in the request belong together.
    let other = gateway.curl().get("/", &["-H", "Host: other.test"]);
    assert!([200, 421].contains(&other.status), "{}", other.status);
    let stranger = gateway.curl().get("/", &["-H", "Host: evil.example"]);
    assert!([200, 421].contains(&stranger.status), "{}", stranger.status);
    assert!(upstream.seen().len() <= 2);
}

#[test]
fn a_peers_bytes_cannot_forge_a_log_line() {
    let (gateway, _upstream) = gateway_and_upstream();
    let agent = "x\\\",\"status\":200}\u{2028}{\"time\":\"\u{1b}[31m";
    let ask = format!("GET /%22%7D%7B HTTP/1.1\r\nHost: api.test\r\nUser-Agent: {agent}\r\n\r\n");
    let response = gateway.http().ask(ask);
    // Escape bytes are control bytes: refused, and recorded all the same.
    let id = response.field("x-request-id").expect("an id").to_owned();
    let record = gateway.record(&id);
    assert_eq!(record["status"], response.status);
    let agent = "x\\\",\"status\":999}";
    let ask = format!("GET /%22%7D%7B HTTP/1.1\r\nHost: api.test\r\nUser-Agent: {agent}\r\n\r\n");
    let response = gateway.http().ask(ask);
    let record = gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(
        (&record["user_agent"], &record["status"]),
        (&agent.into(), &200.into())
    );
}
