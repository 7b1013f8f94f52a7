//! Two sides must never disagree about where a message ends: unasked bytes of an upstream, clients that leave,
//! refusals with a body on its way.

use gateway_tests::client::{Client, get};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Step, Upstream, ok, raw};
use gateway_tests::wait::until;
use std::time::Duration;

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

#[test]
fn bytes_behind_a_response_are_nobodys_response() {
    let upstream = Upstream::start(|seen| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
        match seen.target() {
            "/at-once" => raw(format!("{answer}{EVIL}")),
            "/head" => raw("HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n".to_owned() + EVIL),
            "/204" => raw("HTTP/1.1 204 No Content\r\n\r\n".to_owned() + EVIL),
            "/chunks" => raw(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n{EVIL}"
            )),
            _ => raw(answer),
        }
    });
    let gateway = before(upstream.address);
    for (method, path) in [
        ("GET", "/at-once"),
        ("HEAD", "/head"),
        ("GET", "/204"),
        ("GET", "/chunks"),
    ] {
        // Both cores, and their pools.
        for _ in 0..6 {
            let mut client = gateway.http();
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"
            ));
            let first = client.try_response(method).expect("an answer");
            assert!(
                first.status < 300 && first.text() != "evil",
                "{path}: {first:?}"
            );
            let next = client.ask(get("/next"));
            assert_eq!(next.text(), "good", "after {path}");
        }
    }
}

#[test]
fn what_an_upstream_says_later_unasked_is_nobodys_response_either() {
    // Many servers say 408 before they close an idle connection; a bad one says worse.
    let upstream = Upstream::start(|seen| match seen.target() {
        "/first" => {
            let mut steps = raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
            steps.push(Step::Wait(Duration::from_millis(100)));
            steps.push(Step::Send(EVIL.into()));
            steps
        }
        _ => raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"),
    });
    let mut config = Config::forwarding_to(upstream.address);
    config.server = "workers = 1".into();
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    for round in 0..3 {
        assert_eq!(client.ask(get("/first")).text(), "good");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(
            client.ask(get("/next")).text(),
            "good",
            "GET, round {round}"
        );
        assert_eq!(client.ask(get("/first")).text(), "good");
        std::thread::sleep(Duration::from_millis(300));
        let posted =
            client.ask("POST /next HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(posted.text(), "good", "POST, round {round}");
    }
}

#[test]
fn refusals_of_requests_with_bodies_keep_the_connection_only_where_the_end_is_known() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[routes]]\nname = \"one\"\npath = \"/one\"\nupstream = \"up\"\n");
    let gateway = Gateway::start(config);
    // The body came with the head: the next request may follow.
    let mut client = gateway.http();
    let inner = "GET /one HTTP/1.1\r\nHost: api.test\r\n\r\n";
    client.send(format!(
        "POST /none HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    ));
    let refused = client.response();
    assert_eq!(refused.status, 404);
    if !refused.closes() {
        assert_eq!(client.ask(get("/one")).status, 200);
        assert_eq!(upstream.seen().len(), 1, "a body was taken for a request");
    }
    // It has not come: the connection ends, whatever comes later.
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = gateway.http();
        client.send(format!(
            "POST /none HTTP/1.1\r\nHost: api.test\r\n{framing}\r\n\r\n"
        ));
        let refused = client.response();
        assert_eq!(refused.status, 404);
        assert!(refused.closes(), "{framing}");
        let _ = client.try_send(inner);
        client.end_sending();
        assert!(client.is_closed());
    }
    // A client that waits for 100 is refused without having been told to send.
    let mut client = gateway.http();
    client.send("POST /none HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let refused = client.head().expect("a head");
    assert_eq!(refused.status, 404, "the body was asked for first");
    // A large upload that is refused: its sender gets to read why.
    let mut client = gateway.http();
    client.send("POST /none HTTP/1.1\r\nHost: api.test\r\nContent-Length: 8000000\r\n\r\n");
    let mut sender = client.socket().try_clone().expect("a copy");
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let _ = sender.write_all(&vec![b'x'; 8_000_000]);
    });
    assert_eq!(client.response().status, 404);
    drop(client);
    sending.join().expect("the sender");
    let mut head = gateway.http();
    head.send("HEAD /none HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert_eq!(head.try_response("HEAD").expect("an answer").status, 404);
    assert_eq!(
        head.ask(get("/one")).status,
        200,
        "a refused HEAD had a body"
    );
    assert!(upstream.seen().iter().all(|s| s.target() == "/one"));
}

#[test]
fn clients_that_leave_are_recorded_and_complete_nothing() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/wait" => {
            let mut steps = vec![Step::ReadBody, Step::Wait(Duration::from_millis(300))];
            steps.extend(ok("late"));
            steps
        }
        _ => ok("x"),
    });
    let gateway = before(upstream.address);
    // In the head.
    let mut client = gateway.http();
    client.send("GET /half HTTP/1.1\r\nHost:");
    drop(client);
    let record = gateway.record_where("the half head", |r| {
        r["decision"]["verdict"] == "incomplete" && r["method"] == ""
    });
    assert_eq!(record["status"], 0);
    // In the body.
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = gateway.http();
        client.send(format!(
            "PUT /body HTTP/1.1\r\nHost: api.test\r\n{framing}\r\n\r\n5\r\nhello\r\n"
        ));
        until("the upload at the upstream", || {
            upstream
                .seen()
                .iter()
                .any(|s| s.target() == "/body")
                .then_some(())
        });
        drop(client);
    }
    until("records of both", || {
        let records = gateway.records();
        (records.iter().filter(|r| r["path"] == "/body").count() == 2).then_some(())
    });
    for record in gateway.records().iter().filter(|r| r["path"] == "/body") {
        assert_ne!(record["decision"]["verdict"], "refused", "{record}");
        assert_eq!(record["status"], 0, "{record}");
    }
    assert!(
        upstream
            .seen()
            .iter()
            .filter(|s| s.target() == "/body")
            .all(|s| !s.whole),
        "a cut body was completed"
    );
    // While it waits.
    let mut client = gateway.http();
    client.send(get("/wait"));
    until("the request at the upstream", || {
        upstream
            .seen()
            .iter()
            .any(|s| s.target() == "/wait")
            .then_some(())
    });
    gateway_tests::upstream::reset_on_close(client.socket());
    drop(client);
    gateway.record_where("the one that waited", |r| r["path"] == "/wait");
    assert_eq!(gateway.http().ask(get("/after")).status, 200);
    until("no connection left open", || {
        (gateway.metric("gateway_connections_open") <= 1.0).then_some(())
    });
}

#[test]
fn heads_of_upstreams_are_bounded_and_bad_chunks_cut() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/endless" => raw(format!(
            "HTTP/1.1 200 OK\r\n{}",
            "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(20_000)
        )),
        "/fields" => raw(format!(
            "HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n",
            "X: a\r\n".repeat(1000)
        )),
        "/interim" => raw("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000)),
        "/size" => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        _ => raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nfffffffffffffffff\r\n",
        ),
    });
    let gateway = before(upstream.address);
    for path in ["/endless", "/fields", "/interim"] {
        let response = gateway.http().ask(get(path));
        assert_eq!(response.status, 502, "{path}");
        let record = gateway.record(response.field("x-request-id").expect("an id"));
        assert_eq!(
            record["decision"]["slug"], "upstream-malformed-response",
            "{path}"
        );
    }
    // Broken before anything was sent: a clean answer. Broken later: cut.
    let broken = gateway.http().ask(get("/size"));
    assert_eq!(broken.status, 502);
    let record = gateway.record(broken.field("x-request-id").expect("an id"));
    assert_eq!(
        (&record["status"], &record["upstream_status"]),
        (&502.into(), &200.into())
    );
    let mut client = gateway.http();
    client.send(get("/overflow"));
    let head = client.head().expect("a head");
    if head.status == 200 {
        client
            .body(&head, |_| {})
            .expect_err("a broken body came to an end");
    } else {
        assert_eq!(head.status, 502);
    }
}

#[test]
fn connections_and_requests_on_them_are_bounded() {
    let upstream = Upstream::ok("x");
    let mut config = Config::forwarding_to(upstream.address)
        .listener("limits = { requests_per_connection = 3 }");
    config.server = "workers = 2\nconnections_max = 5".into();
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    let closes: Vec<bool> = (0..3).map(|_| client.ask(get("/")).closes()).collect();
    assert_eq!(closes, [false, false, true]);
    assert!(client.is_closed());
    drop(client);
    until("no connection open", || {
        (gateway.status()["connections"] == 0).then_some(())
    });
    let mut held: Vec<Client> = (0..5).map(|_| gateway.http()).collect();
    for client in &mut held {
        assert_eq!(client.ask(get("/")).status, 200);
    }
    // Reset, possibly before the client knows that it is connected.
    let sixth = Client::try_connect(gateway.config.http)
        .and_then(|mut c| c.try_send(get("/")).and_then(|()| c.try_response("GET")));
    assert!(sixth.is_err(), "a sixth connection was served: {sixth:?}");
    gateway.await_metric("gateway_connections_refused_total", 1.0);
    drop(held.pop());
    until("room again", || {
        let mut client = Client::try_connect(gateway.config.http).ok()?;
        client.try_send(get("/")).ok()?;
        client.try_response("GET").ok()
    });
}

#[test]
fn a_reload_to_another_upstream_leaves_the_old_pool() {
    let (old, new) = (Upstream::ok("old"), Upstream::ok("new"));
    let mut gateway = before(old.address);
    let mut clients: Vec<Client> = (0..6).map(|_| gateway.http()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(get("/")).text(), "old");
    }
    let fresh = Config::forwarding_to(new.address);
    let moved = Config {
        sections: fresh.sections,
        ..gateway.config.clone()
    };
    gateway.rewrite(moved);
    gateway.cli_ok(&["reload"]);
    for client in &mut clients {
        assert_eq!(client.ask(get("/")).text(), "new");
    }
}

#[test]
fn large_bodies_pass_over_tls_unchanged() {
    const BYTES: usize = 12 << 20;
    let upstream = Upstream::start(|seen| match seen.method() {
        "GET" => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
            vec![Step::Send(head.into_bytes()), Step::Send(pattern(BYTES))]
        }
        _ => ok("got it"),
    });
    let config =
        Config::forwarding_to(upstream.address).listener("limits = { body_bytes = \"64MiB\" }");
    let gateway = Gateway::start(config);
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let version: Vec<&str> = version.split('=').collect();
        let response = gateway.curl().get("/down", &version);
        assert!(
            response.body == pattern(BYTES),
            "{version:?}: {} bytes, changed",
            response.body.len()
        );
        let file = gateway.path("upload");
        std::fs::write(&file, pattern(BYTES)).expect("write the upload");
        for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
            let data = format!("@{}", file.display());
            let arguments = [&version[..], &["-X", "PUT", "--data-binary", &data], more].concat();
            assert_eq!(
                gateway.curl().get("/up", &arguments).text(),
                "got it",
                "{arguments:?}"
            );
            let seen = upstream.seen().pop().expect("an upload");
            assert_eq!(seen.body_bytes, BYTES as u64);
            assert!(
                seen.body == pattern(seen.body.len()),
                "{arguments:?}: changed"
            );
        }
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}
