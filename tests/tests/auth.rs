//! Who may do what, over TLS with the real client: each allowed and each refused case, its answer, its record, and
//! that nothing refused reaches the upstream and no secret any log.

use gateway_tests::client::Response;
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, command};
use gateway_tests::tokens::{Keys, Kind, claims};
use gateway_tests::upstream::Upstream;
use serde_json::{Value, json};

/// What `gateway key new` prints: the key, and its entry for a key file.
struct Minted {
    key: String,
    entry: String,
}

fn mint(owner: &str, more: &[&str]) -> Minted {
    let mut arguments = vec!["key", "new", "--owner", owner];
    arguments.extend(more);
    let output = command(&arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let key = text
        .lines()
        .map(str::trim)
        .find(|l| l.starts_with("gwk_"))
        .expect("a key");
    let entry = text
        .find("[[keys]]")
        .map(|at| text[at..].to_owned())
        .expect("an entry");
    assert!(!entry.contains(key), "the entry holds the key itself");
    Minted {
        key: key.to_owned(),
        entry,
    }
}

const POLICIES: &str = r#"
[[policies]]
name = "keys"
type = "api_key"
file = "keys.toml"

[[policies]]
name = "either"
type = "any_of"
of = ["keys", "tokens"]

[[policies]]
name = "readers"
type = "access"
roles_any = ["reader"]
methods.DELETE = { roles_any = ["admin"] }

[[policies]]
name = "scoped"
type = "access"
scopes_all = ["orders:write"]

[[policies]]
name = "order-schema"
type = "json_schema"
schema = '''{"type":"object","required":["item"],"additionalProperties":false,
  "properties":{"item":{"type":"string","maxLength":20},"quantity":{"type":"integer","minimum":1}}}'''

[[policies]]
name = "small-json"
type = "request"
max_body = "1KiB"
content_types = ["application/json"]
query = [{ name = "page", type = "integer", max = 100 }]

[[policies]]
name = "per-client"
type = "rate_limit"
rate = "3/m"
burst = 3

[[policies]]
name = "nobody-from-here"
type = "ip"
deny = ["127.0.0.0/8"]

[[policies]]
name = "only-elsewhere"
type = "ip"
allow = ["192.0.2.0/24"]

[[policies]]
name = "shadow-ip"
type = "ip"
mode = "shadow"
deny = ["127.0.0.0/8"]

[[policies]]
name = "shadow-schema"
type = "json_schema"
mode = "shadow"
schema = '''{"type":"object","required":["item"]}'''
"#;

const ROUTES: &[(&str, &str)] = &[
    ("keys", r#"["keys"]"#),
    ("tokens", r#"["tokens"]"#),
    ("either", r#"["either"]"#),
    ("readers", r#"["either", "readers"]"#),
    ("scoped", r#"["either", "scoped"]"#),
    ("schema", r#"["order-schema"]"#),
    ("small", r#"["small-json"]"#),
    ("limited", r#"["per-client"]"#),
    ("denied", r#"["nobody-from-here"]"#),
    ("elsewhere", r#"["only-elsewhere"]"#),
    ("shadow", r#"["shadow-ip", "shadow-schema"]"#),
];

struct Site {
    gateway: Gateway,
    upstream: Upstream,
    tokens: Keys,
    reader: Minted,
    expired: Minted,
    plain: Minted,
}

impl Site {
    fn start() -> Site {
        let upstream = Upstream::ok("reached");
        let tokens = Keys::new();
        let reader = mint("ann", &["--role", "reader", "--scope", "orders:write"]);
        let expired = mint("old", &[]);
        let plain = mint("bob", &[]);
        let keys = format!(
            "{}\n{}\nexpires = \"2020-01-01\"\n{}",
            reader.entry,
            expired.entry.trim_end(),
            plain.entry
        );
        let mut config = Config::default()
            .upstream("up", &[upstream.address])
            .section(POLICIES)
            .section(&tokens.policy("tokens"));
        for (name, policies) in ROUTES {
            config = config.section(&format!(
                "[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"up\"\npolicies = {policies}\n"
            ));
        }
        let public = tokens.public_files();
        let mut files: Vec<(&str, &str)> = public.iter().map(|(n, t)| (*n, t.as_str())).collect();
        files.push(("keys.toml", &keys));
        let gateway = Gateway::start_with(config, &files, None);
        Site {
            gateway,
            upstream,
            tokens,
            reader,
            expired,
            plain,
        }
    }

    fn ask(&self, path: &str, arguments: &[&str]) -> Response {
        self.gateway.curl().get(path, arguments)
    }

    /// Passes, reaches the upstream, and is recorded as allowed. The record.
    fn passes(&self, what: &str, path: &str, arguments: &[&str]) -> Value {
        let before = self.upstream.seen().len();
        let response = self.ask(path, arguments);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "reached"),
            "{what}: {}",
            response.text()
        );
        assert_eq!(self.upstream.seen().len(), before + 1, "{what}");
        let record = self
            .gateway
            .record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["verdict"], "allowed", "{what}");
        record
    }

    /// Is refused with these, reaches nobody; answer and record agree. The answer.
    fn refused(
        &self,
        what: &str,
        path: &str,
        arguments: &[&str],
        status: u16,
        slug: &str,
        rule: &str,
    ) -> Response {
        let before = self.upstream.seen().len();
        let response = self.ask(path, arguments);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        assert_eq!(
            self.upstream.seen().len(),
            before,
            "{what}: it reached the upstream"
        );
        assert_eq!(
            response.field("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        let id = response.field("x-request-id").expect("an id");
        let problem = response.json();
        assert_eq!(
            problem["type"],
            format!("urn:gateway:problem:{slug}"),
            "{what}"
        );
        assert_eq!(problem["rule"], rule, "{what}");
        assert_eq!(problem["status"], status, "{what}");
        assert_eq!(problem["request_id"], id, "{what}");
        let record = self.gateway.record(id);
        assert_eq!(
            record["decision"],
            json!({"verdict": "refused", "slug": slug, "rule": rule}),
            "{what}"
        );
        assert_eq!(record["status"], status, "{what}");
        response
    }
}

fn header(name: &str, value: &str) -> String {
    format!("{name}: {value}")
}

#[test]
fn api_keys() {
    let site = Site::start();
    let key = |key: &str| header("X-Api-Key", key);
    let good = site.passes("the right key", "/keys", &["-H", &key(&site.reader.key)]);
    assert_eq!(good["identity"]["subject"], "ann");
    let seen = site.upstream.only();
    assert_eq!(
        seen.field("x-api-key"),
        None,
        "the key went to the upstream"
    );
    assert_eq!(seen.field("x-gateway-subject"), Some("ann"));
    assert_eq!(seen.field("x-gateway-roles"), Some("reader"));

    let missing = site.refused("no key", "/keys", &[], 401, "credentials-missing", "keys");
    assert!(missing.field("www-authenticate").is_some());
    let mut wrong = site.reader.key.clone();
    let last = wrong.pop().expect("a key");
    wrong.push(if last == 'A' { 'B' } else { 'A' });
    for (what, key) in [
        ("a wrong secret", key(&wrong)),
        (
            "another key's id",
            key(&site
                .plain
                .key
                .replace(id_of(&site.plain.key), id_of(&site.reader.key))),
        ),
        (
            "an unknown id",
            key("gwk_nobody_0123456789012345678901234567890123456789012"),
        ),
        ("garbage", key("x")),
        (
            "the hash in place of the key",
            key(hash_of(&site.reader.entry)),
        ),
    ] {
        site.refused(
            what,
            "/keys",
            &["-H", &key],
            401,
            "credentials-invalid",
            "keys",
        );
    }
    let twice = site.ask(
        "/keys",
        &["-H", &key(&site.reader.key), "-H", &key(&site.plain.key)],
    );
    assert!(
        [400, 401].contains(&twice.status),
        "two keys: {}",
        twice.status
    );
    site.refused(
        "an expired key",
        "/keys",
        &["-H", &key(&site.expired.key)],
        401,
        "credentials-expired",
        "keys",
    );
}

fn id_of(key: &str) -> &str {
    key.split('_').nth(1).expect("gwk_ID_SECRET")
}

fn hash_of(entry: &str) -> &str {
    let line = entry
        .lines()
        .find(|l| l.starts_with("hash"))
        .expect("a hash");
    line.split('"').nth(1).expect("quoted")
}

#[test]
fn tokens_good_and_forged() {
    let site = Site::start();
    let bearer = |token: &str| header("Authorization", &format!("Bearer {token}"));
    for kind in Kind::ALL {
        let token = site.tokens.token(kind, &claims("carol"));
        let record = site.passes(kind.alg(), "/tokens", &["-H", &bearer(&token)]);
        assert_eq!(record["identity"]["subject"], "carol");
    }
    let seen = site.upstream.seen().pop().expect("a request");
    assert_eq!(
        seen.field("authorization"),
        None,
        "the token went to the upstream"
    );
    assert_eq!(seen.field("x-gateway-scopes"), Some("orders:read"));

    site.refused(
        "no token",
        "/tokens",
        &[],
        401,
        "credentials-missing",
        "tokens",
    );
    for (what, token) in site.tokens.forged() {
        // Twice: what a cache remembers must not differ from what was decided.
        for _ in 0..2 {
            let before = site.upstream.seen().len();
            let response = site.ask("/tokens", &["-H", &bearer(&token)]);
            assert_eq!(response.status, 401, "{what}: {}", response.text());
            assert_eq!(
                site.upstream.seen().len(),
                before,
                "{what}: it reached the upstream"
            );
            let slug = if what == "expired" {
                "credentials-expired"
            } else {
                "credentials-invalid"
            };
            assert_eq!(
                response.json()["type"],
                format!("urn:gateway:problem:{slug}"),
                "{what}"
            );
            let record = site
                .gateway
                .record(response.field("x-request-id").expect("an id"));
            assert_eq!(record["decision"]["rule"], "tokens", "{what}");
        }
    }
    let good = site.tokens.token(Kind::Es256, &claims("carol"));
    let basic = site.ask(
        "/tokens",
        &["-H", &header("Authorization", &format!("Basic {good}"))],
    );
    assert_eq!(basic.status, 401);
    let two = site.ask("/tokens", &["-H", &bearer(&good), "-H", &bearer(&good)]);
    assert!(
        [400, 401].contains(&two.status),
        "two tokens: {}",
        two.status
    );
}

#[test]
fn roles_scopes_and_either_credential() {
    let site = Site::start();
    let reader = header("X-Api-Key", &site.reader.key);
    let plain = header("X-Api-Key", &site.plain.key);
    let token = site.tokens.token(Kind::EdDsa, &claims("carol"));
    let bearer = header("Authorization", &format!("Bearer {token}"));
    site.passes("a key", "/either", &["-H", &plain]);
    site.passes("a token", "/either", &["-H", &bearer]);
    // By the first member that was not met.
    site.refused(
        "neither",
        "/either",
        &[],
        401,
        "credentials-missing",
        "keys",
    );

    site.passes("reader by key", "/readers", &["-H", &reader]);
    site.passes("reader by token", "/readers", &["-H", &bearer]);
    site.refused(
        "no role",
        "/readers",
        &["-H", &plain],
        403,
        "forbidden",
        "readers",
    );
    site.refused(
        "not for DELETE",
        "/readers",
        &["-X", "DELETE", "-H", &reader],
        403,
        "forbidden",
        "readers",
    );
    site.passes("scope by key", "/scoped", &["-H", &reader]);
    site.refused(
        "another scope",
        "/scoped",
        &["-H", &bearer],
        403,
        "forbidden",
        "scoped",
    );
    let admin = {
        let mut claims = claims("root");
        claims["roles"] = json!(["admin"]);
        site.tokens.token(Kind::Rs256, &claims)
    };
    let admin = header("Authorization", &format!("Bearer {admin}"));
    site.passes("admin deletes", "/readers", &["-X", "DELETE", "-H", &admin]);
}

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
                    let ask = gateway_tests::client::get("/");
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
    let hits = |slug: &str| {
        site.gateway
            .metric(&format!("gateway_shadow_hits_total{{reason=\"{slug}\"}}"))
    };
    assert_eq!((hits("address-denied"), hits("body-invalid")), (1.0, 1.0));
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

#[test]
fn no_secret_reaches_a_log() {
    let mut site = Site::start();
    let token = site.tokens.token(Kind::Es256, &claims("carol"));
    let wrong = "gwk_nobody_SECRETSECRETSECRETSECRETSECRETSECRETSECRETSEC";
    let secrets = [
        site.reader.key.as_str(),
        &token,
        wrong,
        "cookie-secret",
        "query-secret",
        "basic-secret",
    ];
    let bearer = header("Authorization", &format!("Bearer {token}"));
    site.passes(
        "a key",
        "/keys",
        &[
            "-H",
            &header("X-Api-Key", &site.reader.key),
            "-b",
            "session=cookie-secret",
        ],
    );
    site.passes(
        "a token",
        "/tokens?access_token=query-secret",
        &["-H", &bearer],
    );
    let _ = site.ask(
        "/keys?access_token=query-secret",
        &[
            "-H",
            &header("X-Api-Key", wrong),
            "-b",
            "session=cookie-secret",
        ],
    );
    let _ = site.ask("/tokens", &["-H", "Authorization: Basic basic-secret"]);
    let _ = site.ask(
        "/tokens",
        &[
            "-H",
            &header("Authorization", &format!("Bearer {}x", token)),
        ],
    );
    let malformed = gateway_tests::client::Client::connect(site.gateway.config.http).ask(format!(
        "GET / HTTP/1.1\r\nHost: api.test\r\n{bearer}\r\nbroken line cookie-secret\r\n\r\n"
    ));
    assert_eq!(malformed.status, 400);
    site.gateway
        .record(malformed.field("x-request-id").expect("an id"));
    let (dir, stderr) = (site.gateway.path("log"), site.gateway.stderr());
    site.gateway.stop();
    let mut texts = vec![("stderr".to_owned(), stderr + &site.gateway.stderr())];
    for entry in std::fs::read_dir(dir).expect("the logs") {
        let path = entry.expect("an entry").path();
        let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a log")).into_owned();
        texts.push((path.display().to_string(), text));
    }
    assert!(texts.len() >= 3);
    for (place, text) in &texts {
        for secret in secrets {
            // The signature of a token is as good as the whole.
            let tail = &secret[secret.len().saturating_sub(20)..];
            assert!(
                !text.contains(secret) && !text.contains(tail),
                "{secret} stands in {place}"
            );
        }
    }
}
