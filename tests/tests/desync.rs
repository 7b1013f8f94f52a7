//! Where two messages could be taken for each other: each of these once went wrong, or does in other
//! gateways. What belongs to one exchange must never reach the next.

use gateway_tests::client::{Client, get};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Step, Upstream, ok, raw};
use std::time::Duration;

/// A gateway whose timeouts are short, so that a hang shows.
fn hasty(upstream: &Upstream) -> Gateway {
    let mut config = Config::default()
        .upstream("up", &[upstream.address])
        .section("response_timeout = \"800ms\"")
        .section(
            "[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\nwebsocket = true\n",
        );
    config.server = "workers = 1".into(); // one pool, so that a poisoned connection is met again
    config.listener = "timeouts = { body = \"800ms\" }".into();
    Gateway::start(config)
}

#[test]
fn what_an_upstream_says_unasked_reaches_nobody() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    let upstream = Upstream::start(move |seen| match seen.target() {
        "/twice" => {
            let mut steps = ok("first");
            steps.extend([
                Step::Wait(Duration::from_millis(50)),
                Step::Send(poison.into()),
            ]);
            steps
        }
        "/head" => {
            let mut steps = raw("HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n");
            steps.extend([
                Step::Wait(Duration::from_millis(50)),
                Step::Send(poison.into()),
            ]);
            steps
        }
        "/idle-408" => {
            let mut steps = ok("first");
            let late =
                "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            steps.extend([
                Step::Wait(Duration::from_millis(50)),
                Step::Send(late.into()),
                Step::Close,
            ]);
            steps
        }
        _ => ok("clean"),
    });
    let gateway = hasty(&upstream);
    for (path, method) in [("/twice", "GET"), ("/head", "HEAD"), ("/idle-408", "GET")] {
        let mut attacker = gateway.http();
        attacker.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"
        ));
        assert_eq!(
            attacker.try_response(method).expect("a response").status,
            200,
            "{path}"
        );
        std::thread::sleep(Duration::from_millis(120)); // the upstream's unasked bytes are on their way
        let victim = gateway.http().ask(get("/victim"));
        assert_eq!(
            (victim.status, victim.text().as_str()),
            (200, "clean"),
            "after {path}"
        );
    }
}

#[test]
fn a_body_keeps_its_order_however_large_its_head() {
    let body: String = (0..500).map(|i| format!("{i:03}.")).collect();
    let wire_body = body.clone();
    let upstream = Upstream::start(move |seen| {
        let filler = "x".repeat(15_000);
        let mut head = String::from("HTTP/1.1 200 OK\r\n");
        for i in 0..4 {
            head.push_str(&format!("X-Filler-{i}: {filler}\r\n"));
        }
        let chunked = seen.target() == "/chunked";
        let tail = if chunked {
            "Transfer-Encoding: chunked\r\n"
        } else {
            "Content-Length: 2000\r\n"
        };
        head.push_str(tail);
        let missing = 65_500usize.saturating_sub(head.len() + 14);
        head.push_str(&format!("X-Last: {}\r\n\r\n", "y".repeat(missing)));
        let body = if chunked {
            format!("7d0\r\n{wire_body}\r\n0\r\n\r\n")
        } else {
            wire_body.clone()
        };
        raw(head + &body)
    });
    let gateway = hasty(&upstream);
    for path in ["/length", "/chunked"] {
        let response = gateway.http().ask(get(path));
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.text(), body, "{path}");
    }
}

#[test]
fn a_shadow_schema_lets_a_body_larger_than_it_reads_pass_whole() {
    let upstream = Upstream::ok("taken");
    let schema = "[[policies]]\nname = \"shape\"\ntype = \"json_schema\"\nmode = \"shadow\"\nmax_body = \"100KiB\"\nschema = '{\"type\":\"object\"}'\n";
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section(schema)
        .section("[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\npolicies = [\"shape\"]\n");
    let gateway = Gateway::start(config);
    for size in [100usize, 102_400, 103_000, 111_000, 300_000] {
        let body = "z".repeat(size);
        let mut wire = String::from(
            "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for part in body.as_bytes().chunks(20_000) {
            wire.push_str(&format!(
                "{:x}\r\n{}\r\n",
                part.len(),
                String::from_utf8_lossy(part)
            ));
        }
        wire.push_str("0\r\n\r\n");
        let response = gateway.http().ask(wire);
        assert_eq!(response.status, 200, "{size}");
        let seen = upstream.seen().pop().expect("it arrived");
        assert_eq!((seen.body_bytes as usize, seen.whole), (size, true));
        assert!(seen.body == body.as_bytes(), "{size}: another body arrived");
    }
}

#[test]
fn an_upstream_that_breaks_an_upload_off_is_told_apart_from_a_client_that_does() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/closes" => vec![Step::Close],
        "/garbage" => vec![Step::Send(b"ZZZ\r\n\r\n".to_vec()), Step::Stall],
        "/starts" => vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nSTART".to_vec()),
            Step::Stall,
        ],
        _ => ok("x"),
    });
    let gateway = hasty(&upstream);
    for path in ["/closes", "/garbage"] {
        let mut client = gateway.http();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\nabc"
        ));
        let response = client.response();
        assert_eq!(response.status, 502, "{path}");
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["verdict"], "upstream-fault", "{path}");
    }
    // The client breaks its chunks in the middle of a response: no second head in the first body.
    let mut client = gateway.http();
    client.send(
        "POST /starts HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    );
    assert_eq!(client.head().expect("a head").status, 200);
    client.send("ZZ\r\n");
    let rest = client.drain(4096);
    assert!(
        !String::from_utf8_lossy(&rest).contains("HTTP/1.1"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    // A body that trickles is answered with 408 whichever way it is relayed.
    let mut client = gateway.http();
    client.send("POST /slow HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\nabc");
    assert_eq!(client.response().status, 408);
}

#[test]
fn what_is_cut_off_does_not_look_complete() {
    let upstream = Upstream::start(|_| {
        let mut steps = raw("HTTP/1.1 200 OK\r\n\r\npartial");
        steps.push(Step::Stall);
        steps
    });
    let gateway = hasty(&upstream);
    let mut client = gateway.http();
    client.send(get("/until-close"));
    assert!(
        client.try_response("GET").is_err(),
        "a cut body was ended in order"
    );
    let record = gateway.record_where("the cut response", |r| r["status"] == 200);
    assert_eq!(record["decision"]["slug"], "upstream-response-timeout");
}

#[test]
fn a_websocket_server_may_greet_first() {
    let upstream = Upstream::start(|_| {
        let mut steps = raw(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nFIRST",
        );
        steps.extend([
            Step::Wait(Duration::from_millis(30)),
            Step::Send(b"SECOND".to_vec()),
            Step::Echo,
        ]);
        steps
    });
    let gateway = hasty(&upstream);
    let mut client = gateway.http();
    client.send(
        "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.head().expect("a head").status, 101);
    assert_eq!(read(&mut client, 11), b"FIRSTSECOND");
}

#[test]
fn a_line_break_too_many_is_no_request() {
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send("POST /a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nhi\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.ask(get("/b")).status, 200);
    assert_eq!(upstream.seen().len(), 2);
}

fn read(client: &mut Client, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 256];
    while all.len() < n {
        match client.read_some(&mut part).expect("bytes") {
            0 => break,
            got => all.extend_from_slice(&part[..got]),
        }
    }
    all
}
