//! Ways around a policy that must not exist: other spellings of its path or host, a cached token, somebody else's
//! address, shadow mode taken for a pass.

use gateway_tests::client::get;
use gateway_tests::config::{Config, free_port};
use gateway_tests::gateway::Gateway;
use gateway_tests::tokens::{Keys, Kind, claims, unix_now};
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::until;
use serde_json::json;
use std::net::SocketAddr;

const SHUT: &str = "[[policies]]\nname = \"keys\"\ntype = \"api_key\"\n";

fn route(name: &str, lines: &str) -> String {
    format!("[[routes]]\nname = \"{name}\"\nupstream = \"up\"\n{lines}\n")
}

#[test]
fn no_spelling_of_a_path_gets_around_its_policy() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section(SHUT)
        .section(&route(
            "admin",
            "path = \"/admin/*\"\npolicies = [\"keys\"]",
        ))
        .section(&route("open", "path = \"/*\""));
    let gateway = Gateway::start(config);
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "//admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/x/.%2E/admin/x",
        "/%61dmin/x",
        "/%61%64%6d%69%6e/x",
        "/admin%2fx",
        "/admin%2Fx",
        "/admin%5cx",
        "/admin\\x",
        "/admin;a=b/x",
        "/admin/..;/admin/x",
        "/x/..;/admin/x",
        "/admin%00/x",
        "/admin%20/x",
        "/admin./x",
        "/admin?/../x",
        "/%2561dmin/x",
        "/x/..%2fadmin/x",
        "/x/..%5cadmin/x",
        "/admin/.",
        "/admin/x/..",
        "http://api.test/admin/x",
        "http://api.test//admin/x",
        "http://API.test:80/admin/x",
    ] {
        for method in ["GET", "POST", "get"] {
            let response = gateway.http().ask(format!(
                "{method} {target} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nContent-Length: 0\r\n\
                 X-Original-URL: /admin/x\r\nX-Rewrite-URL: /admin/x\r\nX-HTTP-Method-Override: PUT\r\n\r\n"
            ));
            assert!(
                [200, 400, 401].contains(&response.status),
                "{method} {target}: {}",
                response.status
            );
        }
    }
    for seen in upstream.seen() {
        let path = seen
            .target()
            .split('?')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        // What the most lenient server would make of it.
        let loose = path
            .replace("%2f", "/")
            .replace("%5c", "/")
            .replace('\\', "/")
            .replace("%2e", ".")
            .replace("%61", "a");
        let segments: Vec<&str> = loose
            .split('/')
            .map(|s| s.split(';').next().unwrap_or_default())
            .filter(|s| !s.is_empty() && *s != ".")
            .collect();
        assert_ne!(segments.first(), Some(&"admin"), "{seen:?}");
        assert!(!segments.contains(&".."), "{seen:?}");
        assert!(seen.field("x-original-url").is_none() && seen.field("x-rewrite-url").is_none());
    }
}

#[test]
fn no_spelling_of_a_host_gets_around_its_policy() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section(SHUT)
        .section(&route(
            "shut",
            "path = \"/*\"\nhosts = [\"shut.test\", \"*.shut.test\"]\npolicies = [\"keys\"]",
        ))
        .section(&route("open", "path = \"/*\""));
    let gateway = Gateway::start(config);
    for (line, host) in [
        ("/", "shut.test"),
        ("/", "SHUT.test"),
        ("/", "shut.test."),
        ("/", "shut.test:80"),
        ("/", "shut.test.:8443"),
        ("/", "a.shut.test"),
        ("/", "a.b.shut.test"),
        ("http://shut.test/", "shut.test"),
        ("http://SHUT.TEST./", "shut.test."),
        ("http://api.test/", "shut.test"),
        ("http://shut.test/", "api.test"),
    ] {
        let response = gateway.http().ask(format!(
            "GET {line} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: api.test\r\n\r\n"
        ));
        assert!(
            [400, 401].contains(&response.status),
            "{line} of {host:?}: {}",
            response.status
        );
    }
    upstream.assert_untouched();
    assert_eq!(gateway.http().ask(get("/")).status, 200);
}

#[test]
fn a_token_that_was_good_is_refused_once_it_has_expired() {
    let upstream = Upstream::ok("x");
    let keys = Keys::new();
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section(&keys.policy("tokens"))
        .section(&route("all", "path = \"/*\"\npolicies = [\"tokens\"]"));
    let public = keys.public_files();
    let files: Vec<(&str, &str)> = public.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let gateway = Gateway::start_with(config, &files, None);
    let mut short = claims("carol");
    short["exp"] = json!(unix_now() + 1); // and a second of leeway
    let token = keys.token(Kind::Es256, &short);
    let ask = format!("GET / HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut client = gateway.http();
    assert_eq!(client.ask(&ask).status, 200);
    let refused = until("the token's end", || {
        let response = client.ask(&ask);
        (response.status != 200).then_some(response)
    });
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.json()["type"],
        "urn:gateway:problem:credentials-expired"
    );
    assert!(unix_now() >= short["exp"].as_u64().expect("a time"));
}

#[test]
fn a_removed_key_is_refused_after_a_reload_though_its_tokens_are_cached() {
    let upstream = Upstream::ok("x");
    let keys = Keys::new();
    let policy = keys.policy("tokens");
    let rest = route("all", "path = \"/*\"\npolicies = [\"tokens\"]");
    let config = |policy: &str| {
        Config::default()
            .upstream("up", &[upstream.address])
            .section(policy)
            .section(&rest)
    };
    let public = keys.public_files();
    let files: Vec<(&str, &str)> = public.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let mut gateway = Gateway::start_with(config(&policy), &files, None);
    let token = keys.token(Kind::Es256, &claims("carol"));
    let ask = format!("GET / HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut client = gateway.http();
    assert_eq!(client.ask(&ask).status, 200);
    let without: Vec<&str> = policy.lines().filter(|l| !l.contains("ES256")).collect();
    let sections = config(&(without.join("\n") + "\n")).sections;
    gateway.rewrite(Config {
        sections,
        ..gateway.config.clone()
    });
    gateway.cli_ok(&["reload"]);
    assert_eq!(client.ask(&ask).status, 401);
}

#[test]
fn shadow_authentication_is_no_authentication() {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"keys\"\ntype = \"api_key\"\nmode = \"shadow\"\n")
        .section("[[policies]]\nname = \"members\"\ntype = \"access\"\nroles_any = [\"member\"]\n")
        .section(&route("open", "path = \"/open\"\npolicies = [\"keys\"]"))
        .section(&route(
            "members",
            "path = \"/members\"\npolicies = [\"keys\", \"members\"]",
        ));
    let gateway = Gateway::start(config);
    let wrong =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: gwk_a_b\r\n\r\n");
    let passed = gateway.http().ask(wrong("/open"));
    assert_eq!(passed.status, 200);
    let record = gateway.record(passed.field("x-request-id").expect("an id"));
    assert_eq!(record["shadowed"][0]["slug"], "credentials-invalid");
    assert!(record["identity"].is_null());
    assert_eq!(upstream.only().field("x-gateway-subject"), None);
    let refused = gateway.http().ask(wrong("/members"));
    assert!([401, 403].contains(&refused.status), "{}", refused.status);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_trusted_proxy_is_not_banned_for_what_comes_through_it() {
    let upstream = Upstream::ok("x");
    let mut config =
        Config::forwarding_to(upstream.address).listener("trusted_proxies = [\"127.0.0.1\"]");
    config.strikes = "threshold = 30\nban_ttl = \"1m\"".into();
    let gateway = Gateway::start(config);
    let ask = |client: &str, path: &str| {
        let mut connection = gateway.http();
        connection.ask(format!(
            "GET {path} HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: {client}\r\n\r\n"
        ))
    };
    // A path that can be read in two ways is refused before the address in the head is believed: it is the proxy's
    // doing as far as anybody knows, and the proxy speaks for many.
    for _ in 0..30 {
        assert_eq!(ask("192.0.2.66", "/a%2fb").status, 400);
    }
    assert!(gateway.bans().is_empty(), "{:?}", gateway.bans());
    for client in ["192.0.2.66", "192.0.2.67"] {
        assert_eq!(ask(client, "/").status, 200);
    }
}

#[test]
fn wrong_keys_behind_a_trusted_proxy_ban_the_client() {
    let upstream = Upstream::ok("x");
    let mut config = Config::default()
        .upstream("up", &[upstream.address])
        .section(SHUT)
        .section(&route("in", "path = \"/in\"\npolicies = [\"keys\"]"))
        .section(&route("open", "path = \"/*\""))
        .listener("trusted_proxies = [\"127.0.0.1\"]");
    config.strikes = "threshold = 30\nban_ttl = \"1m\"".into();
    let gateway = Gateway::start(config);
    // One kept connection for all clients, as proxies do.
    let mut proxy = gateway.http();
    let mut ask = |client: &str, path: &str| {
        let response = proxy.ask(format!(
            "GET {path} HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 6.6.6.6, {client}\r\nX-Api-Key: gwk_a_b\r\n\r\n"
        ));
        if response.closes() {
            proxy = gateway.http();
        }
        response.status
    };
    let statuses: Vec<u16> = (0..6).map(|_| ask("192.0.2.66", "/in")).collect();
    assert_eq!(statuses[..3], [401, 401, 401]);
    assert!(statuses.contains(&403), "{statuses:?}");
    assert_eq!(ask("192.0.2.66", "/"), 403);
    assert_eq!(ask("192.0.2.67", "/"), 200);
    let bans = gateway.bans();
    assert_eq!(
        (bans.len(), &bans[0]["target"]),
        (1, &"192.0.2.66/32".into())
    );
}

#[test]
fn an_upstream_over_tls_is_verified() {
    let upstream = Upstream::ok("behind two");
    let behind = gateway_tests::gateway::before(upstream.address);
    let authority = std::fs::read_to_string(behind.path("ca.pem")).expect("an authority");
    let tls = |server_name: &str, ca: &str| {
        format!("tls = {{ server_name = \"{server_name}\", ca = \"{ca}\" }}")
    };
    let config = Config::default()
        .upstream("good", &[behind.config.https])
        .section(&tls("api.test", "behind.pem"))
        .upstream("name", &[behind.config.https])
        .section(&tls("evil.test", "behind.pem"))
        .upstream("authority", &[behind.config.https])
        .section(&tls("api.test", "ca.pem"))
        .upstream("plain", &[behind.config.http])
        .section(&tls("api.test", "behind.pem"))
        .section("[[routes]]\nname = \"good\"\npath = \"/good\"\nupstream = \"good\"\n")
        .section("[[routes]]\nname = \"name\"\npath = \"/name\"\nupstream = \"name\"\n")
        .section(
            "[[routes]]\nname = \"authority\"\npath = \"/authority\"\nupstream = \"authority\"\n",
        )
        .section("[[routes]]\nname = \"plain\"\npath = \"/plain\"\nupstream = \"plain\"\n");
    let front = Gateway::start_with(config, &[("behind.pem", &authority)], None);
    let mut client = front.http();
    for _ in 0..5 {
        assert_eq!(client.ask(get("/good")).text(), "behind two");
    }
    for path in ["/name", "/authority", "/plain"] {
        let response = front.http().ask(get(path));
        assert_eq!(response.status, 502, "{path}: {}", response.text());
        let record = front.record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["slug"], "upstream-tls-failed", "{path}");
    }
    assert!(upstream.seen().iter().all(|s| s.target() == "/good"));
    let handshakes = behind.metric("gateway_tls_handshakes_total{outcome=\"ok\"}");
    assert!(
        handshakes <= 2.0,
        "{handshakes} handshakes for five requests on a kept connection"
    );
}

#[test]
fn ipv6_clients_are_named_as_the_standards_say() {
    let upstream = Upstream::ok("x");
    let address: SocketAddr = format!("[::1]:{}", free_port())
        .parse()
        .expect("an address");
    let config = Config::forwarding_to(upstream.address).section(&format!(
        "[[listeners]]\nname = \"v6\"\naddress = \"{address}\"\n"
    ));
    let gateway = Gateway::start(config);
    let response = gateway_tests::client::Client::connect(address).ask(get("/"));
    let seen = upstream.only();
    assert_eq!(seen.field("x-forwarded-for"), Some("::1"));
    assert_eq!(
        seen.field("forwarded"),
        Some("for=\"[::1]\";proto=http;host=\"api.test\"")
    );
    assert_eq!(
        gateway.record(response.field("x-request-id").expect("an id"))["client"],
        "::1"
    );
}
