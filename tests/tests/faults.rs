//! What an upstream does wrong, and what becomes of it: status, record, and connections that are not used again.

use gateway_tests::client::{get, post};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before};
use gateway_tests::upstream::{Step, Upstream, ok, raw};
use std::time::{Duration, Instant};

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
