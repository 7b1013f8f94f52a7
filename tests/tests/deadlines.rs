//! Every wait has an end: short ones are configured, and each must come soon after it and not before.

use gateway_tests::client::{Client, get};
use gateway_tests::config::Config;
use gateway_tests::gateway::Gateway;
use gateway_tests::upstream::{Step, Upstream, ok, raw};
use gateway_tests::wait::within;
use std::time::{Duration, Instant};

/// On a busy machine.
const LATE: Duration = Duration::from_secs(6);

fn gateway(upstream: &Upstream, timeouts: &str) -> Gateway {
    let config = Config::default()
        .listener(&format!("timeouts = {{ {timeouts} }}"))
        .upstream("up", &[upstream.address])
        .section("response_timeout = \"400ms\"")
        .section("[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\n");
    Gateway::start(config)
}

fn assert_between(what: &str, begun: Instant, least: Duration) {
    let took = begun.elapsed();
    assert!(took >= least && took < LATE, "{what} took {took:?}");
}

#[test]
fn a_slow_head_is_408_or_closed_and_recorded() {
    let upstream = Upstream::ok("x");
    let gateway = gateway(&upstream, "head = \"300ms\"");
    for part in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: api.test\r\nX: 1\r\n",
    ] {
        let begun = Instant::now();
        let mut client = gateway.http();
        client.send(part);
        let response = client.response();
        assert_between(part, begun, Duration::from_millis(250));
        assert_eq!(response.status, 408, "{part:?}");
        assert!(client.is_closed());
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["slug"], "request-timeout");
    }
    // Sending a byte now and then does not help.
    let begun = Instant::now();
    let mut client = gateway.http();
    let head = get("/slow");
    let trickled = head.bytes().take_while(|byte| {
        std::thread::sleep(Duration::from_millis(60));
        client.try_send([*byte]).is_ok() && begun.elapsed() < LATE
    });
    let trickled = trickled.count();
    assert!(
        trickled < head.len(),
        "the whole head was let in over {:?}",
        begun.elapsed()
    );
    upstream.assert_untouched();
}

#[test]
fn a_connection_that_never_speaks_is_closed() {
    let upstream = Upstream::ok("x");
    let gateway = gateway(&upstream, "head = \"300ms\", handshake = \"300ms\"");
    for address in [gateway.config.http, gateway.config.https] {
        let begun = Instant::now();
        let mut client = Client::connect(address);
        let said = client.drain(64 << 10);
        assert_between("silence", begun, Duration::from_millis(250));
        assert!(said.len() < 2048, "{} bytes", said.len());
    }
    let begun = Instant::now();
    let mut client = Client::connect(gateway.config.https);
    client.send(b"\x16\x03\x01\x02\x00\x01\x00"); // the beginning of a ClientHello
    client.drain(64 << 10);
    assert_between("half a handshake", begun, Duration::from_millis(250));
}

#[test]
fn a_slow_body_ends_the_exchange() {
    let upstream = Upstream::start(|_| ok("x"));
    let gateway = gateway(&upstream, "body = \"300ms\"");
    let begun = Instant::now();
    let mut client = gateway.http();
    client.send("POST /body HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000\r\n\r\n0123456789");
    let answer = client.drain(64 << 10);
    assert_between("a stalled body", begun, Duration::from_millis(250));
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
    let record = gateway.record_where("the stalled upload", |r| r["path"] == "/body");
    assert!(record["us"]["total"].as_u64().expect("a time") >= 250_000);
    assert!(upstream.seen().iter().all(|seen| !seen.whole));
}

#[test]
fn a_body_slower_than_the_least_rate_ends_too() {
    let upstream = Upstream::start(|_| ok("x"));
    let gateway = gateway(&upstream, "body = \"500ms\", body_rate_min = \"1000B\"");
    let begun = Instant::now();
    let mut client = gateway.http();
    client.send("POST /drip HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000\r\n\r\n");
    // Never silent for long, but at about 25 bytes a second.
    let mut sent = 0;
    while begun.elapsed() < LATE && client.try_send("x").is_ok() {
        sent += 1;
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(
        sent < 140,
        "{sent} bytes were let in over {:?}",
        begun.elapsed()
    );
    gateway.record_where("the dripping upload", |r| r["path"] == "/drip");
}

#[test]
fn a_slow_body_under_validation_is_408() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .listener("timeouts = { body = \"300ms\" }")
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"s\"\ntype = \"json_schema\"\nschema = '{}'\n")
        .section(
            "[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\npolicies = [\"s\"]\n",
        );
    let gateway = Gateway::start(config);
    let begun = Instant::now();
    let mut client = gateway.http();
    client.send("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{");
    let response = client.response();
    assert_between("a stalled JSON body", begun, Duration::from_millis(250));
    assert_eq!(response.status, 408);
    assert!(response.closes() && client.is_closed());
    upstream.assert_untouched();
}

#[test]
fn an_idle_connection_is_closed_but_not_too_soon() {
    let upstream = Upstream::ok("x");
    let gateway = gateway(&upstream, "idle = \"600ms\"");
    let mut client = gateway.http();
    assert_eq!(client.ask(get("/")).status, 200);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(client.ask(get("/")).status, 200);
    let begun = Instant::now();
    assert!(client.is_closed());
    assert_between("idleness", begun, Duration::from_millis(500));
    // Nothing was asked, so nothing is recorded but the two.
    assert_eq!(
        within(Duration::from_secs(3), || (gateway.records().len() >= 2)
            .then_some(gateway.records().len())),
        Some(2)
    );
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    const BYTES: usize = 64 << 20;
    let upstream = Upstream::start(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        vec![Step::Send(head.into_bytes()), Step::Send(vec![b'x'; BYTES])]
    });
    let gateway = gateway(&upstream, "send = \"400ms\"");
    let begun = Instant::now();
    let mut client = gateway.http();
    client.send(get("/big"));
    let record = gateway.record_where("the slow reader", |r| r["path"] == "/big");
    assert!(begun.elapsed() < LATE, "{:?}", begun.elapsed());
    assert!(record["bytes_out"].as_u64().expect("bytes") < BYTES as u64);
    // What was on its way can be read; the rest does not come.
    assert!(client.drain(BYTES * 2).len() < BYTES);
}

#[test]
fn an_upstream_that_does_not_answer_is_504_and_one_that_stalls_cuts_the_body() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/silent" => vec![Step::ReadBody, Step::Stall],
        "/half-head" => vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec()),
            Step::Stall,
        ],
        _ => {
            let mut steps = raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
            steps.push(Step::Stall);
            steps
        }
    });
    let gateway = gateway(&upstream, "idle = \"30s\"");
    for path in ["/silent", "/half-head"] {
        let begun = Instant::now();
        let response = gateway.http().ask(get(path));
        assert_between(path, begun, Duration::from_millis(350));
        assert_eq!(response.status, 504, "{path}");
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(
            record["decision"]["slug"], "upstream-response-timeout",
            "{path}"
        );
    }
    let begun = Instant::now();
    let mut client = gateway.http();
    client.send(get("/half-body"));
    let head = client.head().expect("a head");
    client
        .body(&head, |_| {})
        .expect_err("the body is not whole");
    assert_between("half a body", begun, Duration::from_millis(350));
    let record = gateway.record(head.field("x-request-id").expect("an id"));
    assert_eq!(record["decision"]["slug"], "upstream-response-timeout");
}

#[test]
fn many_slow_heads_do_not_keep_others_out() {
    let upstream = Upstream::ok("x");
    let gateway = gateway(&upstream, "head = \"5s\"");
    let slow: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = gateway.http();
            client.send("GET / HTTP/1.1\r\nHost: api.test\r\n");
            client
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(gateway.http().ask(get("/")).status, 200);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    drop(slow);
}
