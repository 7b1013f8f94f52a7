//! What a request may be, over TLS with the real client: schemas, types, sizes, parameters, limits, addresses, routes.

use gateway_tests::client::get;
use gateway_tests::config::Config;
use gateway_tests::gateway::Gateway;
use gateway_tests::site::{Site, header};
use gateway_tests::upstream::Upstream;

#[test]
fn schema_content_type_size_and_parameters() {
    let site = Site::start();
    let json = ["-H", "Content-Type: application/json"];
    let send = |body: &'static str| [&json[..], &["-d", body]].concat();
    site.passes(
        "a good order",
        "/schema",
        &send(r#"{"item":"lamp","quantity":2}"#),
    );
    assert_eq!(
        site.upstream.only().body,
        br#"{"item":"lamp","quantity":2}"#
    );
    for body in [
        r#"{"quantity":2}"#,
        r#"{"item":5}"#,
        r#"{"item":"lamp","quantity":0}"#,
        r#"{"item":"lamp","evil":1}"#,
        r#"["item"]"#,
        "null",
    ] {
        let refused = site.refused(
            body,
            "/schema",
            &send(body),
            400,
            "body-invalid",
            "order-schema",
        );
        assert!(
            refused.json()["errors"][0]["pointer"].is_string(),
            "{}",
            refused.text()
        );
        assert!(
            !refused.text().contains("evil\":1"),
            "the answer echoes the body"
        );
    }
    for body in [
        r#"{"item":"lamp""#,
        "",
        r#"{"item":"a","item":"b"}"#,
        r#"{"item":"lamp"} x"#,
    ] {
        let response = site.ask("/schema", &send(body));
        assert_eq!(response.status, 400, "{body:?}: {}", response.text());
    }
    site.refused(
        "a form",
        "/schema",
        &["-d", "item=lamp"],
        415,
        "unsupported-media-type",
        "order-schema",
    );

    site.passes("small", "/small", &send("{}"));
    site.passes("page 100", "/small?page=100", &[]);
    site.refused(
        "page 101",
        "/small?page=101",
        &[],
        400,
        "parameter-invalid",
        "small-json",
    );
    site.refused(
        "page twice",
        "/small?page=1&page=2",
        &[],
        400,
        "parameter-invalid",
        "small-json",
    );
    site.refused(
        "text",
        "/small",
        &["-H", "Content-Type: text/plain", "-d", "x"],
        415,
        "unsupported-media-type",
        "small-json",
    );
    let large = "x".repeat(1025);
    let declared = [&json[..], &["-d", &large]].concat();
    let response = site.ask("/small", &declared);
    assert_eq!(response.status, 413, "{}", response.text());
    let in_chunks = [
        &json[..],
        &["-H", "Transfer-Encoding: chunked", "-d", &large],
    ]
    .concat();
    let response = site.ask("/small", &in_chunks);
    assert_eq!(response.status, 413, "in chunks: {}", response.text());
    let whole = site
        .upstream
        .seen()
        .iter()
        .filter(|s| s.target() == "/small" && s.body_bytes > 1024)
        .count();
    assert_eq!(whole, 0, "a body over the limit reached the upstream");
}

#[test]
fn limits_tell_what_is_left_and_when_to_come_back() {
    let site = Site::start();
    let mut remaining = Vec::new();
    for _ in 0..3 {
        let response = site.ask("/limited", &[]);
        assert_eq!(response.status, 200);
        let policy = response
            .field("ratelimit-policy")
            .expect("RateLimit-Policy")
            .to_owned();
        assert!(policy.starts_with("\"per-client\";q=3;w=60"), "{policy}");
        let state = response.field("ratelimit").expect("RateLimit").to_owned();
        let r = state
            .split(";r=")
            .nth(1)
            .and_then(|s| s.split(';').next()?.parse::<u64>().ok());
        remaining.push(r.unwrap_or_else(|| panic!("{state}")));
    }
    assert_eq!(remaining, [2, 1, 0]);
    let refused = site.refused(
        "the fourth",
        "/limited",
        &[],
        429,
        "rate-limited",
        "per-client",
    );
    let after: u64 = refused
        .field("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((1..=21).contains(&after), "{after}");
    assert!(refused.field("ratelimit").is_some());
    // Nobody else's limit.
    site.passes(
        "another route",
        "/either",
        &["-H", &header("X-Api-Key", &site.plain.key)],
    );
}

#[test]
fn a_limit_is_exact_over_all_cores() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"l\"\ntype = \"rate_limit\"\nrate = \"50/h\"\nburst = 50\n")
        .section(
            "[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\npolicies = [\"l\"]\n",
        );
    let gateway = Gateway::start(config);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.http();
                    let ask = get("/");
                    (0..20).map(|_| client.ask(&ask).status).collect::<Vec<_>>()
                })
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
            .collect()
    });
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 50);
    assert_eq!(statuses.iter().filter(|s| **s == 429).count(), 110);
    assert_eq!(upstream.seen().len(), 50);
}

#[test]
fn addresses_and_shadow_mode() {
    let site = Site::start();
    site.refused(
        "denied",
        "/denied",
        &[],
        403,
        "address-denied",
        "nobody-from-here",
    );
    site.refused(
        "not allowed",
        "/elsewhere",
        &[],
        403,
        "address-denied",
        "only-elsewhere",
    );
    site.refused(
        "a lie",
        "/elsewhere",
        &["-H", "X-Forwarded-For: 192.0.2.7"],
        403,
        "address-denied",
        "only-elsewhere",
    );

    let record = site.passes(
        "shadow",
        "/shadow",
        &["-H", "Content-Type: application/json", "-d", "[]"],
    );
    let shadowed: Vec<(&str, &str)> = record["shadowed"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|hit| {
            (
                hit["rule"].as_str().unwrap_or(""),
                hit["slug"].as_str().unwrap_or(""),
            )
        })
        .collect();
    assert_eq!(
        shadowed,
        [
            ("shadow-ip", "address-denied"),
            ("shadow-schema", "body-invalid")
        ]
    );
    for slug in ["address-denied", "body-invalid"] {
        let series = format!("gateway_shadow_hits_total{{reason=\"{slug}\"}}");
        site.gateway.await_metric(&series, 1.0);
    }
    assert_eq!(site.upstream.only().body, b"[]");
}

#[test]
fn unknown_routes_and_methods() {
    let site = Site::start();
    let unknown = site.refused("no route", "/nowhere", &[], 404, "no-route", "route");
    assert!(!unknown.text().contains("nowhere"));
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[routes]]\nname = \"get\"\npath = \"/only\"\nmethods = [\"GET\"]\nupstream = \"up\"\n");
    let gateway = Gateway::start(config);
    let response = gateway.curl().get("/only", &["-X", "PUT"]);
    assert_eq!(response.status, 405);
    assert!(
        response
            .field("allow")
            .is_some_and(|allow| allow.contains("GET")),
        "{response:?}"
    );
    upstream.assert_untouched();
}
