//! Who may do what, over TLS with the real client: each allowed and each refused case, its answer, its record, and
//! that nothing refused reaches the upstream and no secret any log.

use gateway_tests::client::Client;
use gateway_tests::site::{Site, header};
use gateway_tests::tokens::{Kind, claims};
use serde_json::json;

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
    let malformed = Client::connect(site.gateway.config.http).ask(format!(
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
