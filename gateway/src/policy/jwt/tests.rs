//! Table tests of the whole policy: one good token, and every way to be a bad one.

use super::super::Named;
use super::super::testing::{Case, NOW, error, files, policy_with};
use crate::diagnose::Files;
use crate::outcome::{Rejection, RejectionKind};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// A token with any header and claims, signed by `key` as `alg`.
fn token(header: &Value, claims: &Value, key: &EncodingKey, alg: Algorithm) -> String {
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, alg).unwrap();
    format!("{message}.{signature}")
}

fn hs(header: Value, claims: Value) -> String {
    token(
        &header,
        &claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::HS256,
    )
}

fn claims() -> Value {
    json!({"iss": "issuer", "aud": "api", "sub": "alice", "exp": NOW.wall_secs() + 60})
}

fn with(changes: Value) -> Value {
    let mut all = claims();
    for (k, v) in changes.as_object().unwrap() {
        all[k] = v.clone();
    }
    all
}

fn without(name: &str) -> Value {
    let mut all = claims();
    all.as_object_mut().unwrap().remove(name);
    all
}

fn jwt(rest: &str) -> Arc<Named> {
    jwt_with(rest, &Files::default())
}

fn jwt_with(rest: &str, files: &Files) -> Arc<Named> {
    policy_with(
        &format!(
            "type = \"jwt\"\nname = \"j\"\nissuer = \"issuer\"\naudience = \"api\"\nleeway = \"10s\"\n{rest}"
        ),
        files,
    )
}

fn hs_policy() -> Arc<Named> {
    jwt(&format!(
        "keys = [{{ algorithm = \"HS256\", secret = \"{SECRET}\" }}]\nroles_claim = \"realm_access.roles\""
    ))
}

fn bearer(token: &str) -> Case {
    Case::get().header("Authorization", format!("Bearer {token}"))
}

#[track_caller]
fn refused(p: &Named, mut case: Case, kind: RejectionKind) -> Rejection {
    let r = case.check(&*p.policy).expect_err("refused");
    assert_eq!(r.kind, kind, "{}", r.detail);
    assert!(case.identity.is_none() && case.strip.is_empty());
    assert!(r.fields[0].1.starts_with("Bearer realm=\"j\""));
    let names_error = r.fields[0].1.contains("error=\"invalid_token\"");
    assert_eq!(names_error, kind != RejectionKind::CredentialsMissing);
    r
}

#[test]
fn a_good_token_is_an_identity() {
    let p = hs_policy();
    let claims = with(
        json!({"aud": ["other", "api"], "jti": "t1", "scope": "read write", "realm_access": {"roles": ["admin"]}}),
    );
    let mut case = bearer(&hs(json!({"alg": "HS256"}), claims));
    for _ in 0..2 {
        // The second time from the cache.
        case.check(&*p.policy).unwrap();
        let who = case.identity.take().unwrap();
        assert_eq!((&*who.subject, who.method), ("alice", "jwt"));
        assert_eq!(who.credential_id.as_deref(), Some("t1"));
        assert_eq!(
            (who.roles.as_slice(), who.scopes.as_slice()),
            (
                &["admin".to_string()][..],
                &["read".to_string(), "write".into()][..]
            )
        );
    }
    assert_eq!(&*case.strip[0], "authorization");
    let mut lower = Case::get().header(
        "authorization",
        format!(
            "bEARER  {}",
            hs(json!({"alg": "HS256"}), with(json!({"scope": ["a"]})))
        ),
    );
    lower.check(&*p.policy).unwrap();
    assert_eq!(lower.identity.unwrap().scopes, ["a"]);
}

#[test]
fn time_to_the_second() {
    let p = hs_policy();
    let now = NOW.wall_secs();
    let at = |claims: Value| bearer(&hs(json!({"alg": "HS256"}), claims));
    let expired = RejectionKind::CredentialsExpired;
    // Leeway is 10 s; a token is dead from `exp` on, not after it.
    at(with(json!({"exp": now - 9}))).check(&*p.policy).unwrap();
    refused(&p, at(with(json!({"exp": now - 10}))), expired);
    at(with(json!({"nbf": now + 10})))
        .check(&*p.policy)
        .unwrap();
    refused(
        &p,
        at(with(json!({"nbf": now + 11}))),
        RejectionKind::CredentialsInvalid,
    );
    at(with(json!({"exp": now as f64 + 0.5})))
        .check(&*p.policy)
        .unwrap();
    // A cached verdict ends with the token.
    let mut case = at(claims());
    case.check(&*p.policy).unwrap();
    case.now = case.now.plus(std::time::Duration::from_secs(69));
    case.check(&*p.policy).unwrap();
    case.now = case.now.plus(std::time::Duration::from_secs(1));
    assert_eq!(case.check(&*p.policy).unwrap_err().kind, expired);
}

#[test]
fn bad_claims() {
    let p = hs_policy();
    for claims in [
        without("iss"),
        with(json!({"iss": "other"})),
        with(json!({"iss": ["issuer"]})),
        without("aud"),
        with(json!({"aud": "other"})),
        with(json!({"aud": []})),
        with(json!({"aud": {"api": 1}})),
        without("exp"),
        with(json!({"exp": "9999999999"})),
        with(json!({"exp": -1})),
        with(json!({"exp": null})),
        with(json!({"nbf": "x"})),
        without("sub"),
        with(json!({"sub": ""})),
        with(json!({"sub": 7})),
        json!([]),
    ] {
        refused(
            &p,
            bearer(&hs(json!({"alg": "HS256"}), claims)),
            RejectionKind::CredentialsInvalid,
        );
    }
}

#[test]
fn bad_fields() {
    use RejectionKind::*;
    let p = hs_policy();
    let good = hs(json!({"alg": "HS256"}), claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    for (case, kind) in [
        (Case::get(), CredentialsMissing),
        (
            Case::get().header("authorization", "Basic YTpi"),
            CredentialsMissing,
        ),
        (Case::get().header("authorization", ""), CredentialsMissing),
        (
            Case::get().header("authorization", "Bearer"),
            CredentialsInvalid,
        ),
        (
            Case::get().header("authorization", "Bearer "),
            CredentialsInvalid,
        ),
        (
            Case::get().header("authorization", b"Bearer \xff"),
            CredentialsInvalid,
        ),
        (
            bearer(&good).header("authorization", format!("Bearer {good}")),
            CredentialsInvalid,
        ),
        (
            bearer(&good).header("authorization", "Basic YTpi"),
            CredentialsInvalid,
        ),
        (bearer(&format!("{good},x")), CredentialsInvalid),
        (bearer(&format!("{good} x")), CredentialsInvalid),
        (bearer(message), CredentialsInvalid),
        (bearer(&format!("{message}.")), CredentialsInvalid),
        (bearer(&format!("{good}.{signature}")), CredentialsInvalid),
        (bearer(&format!("{good}=")), CredentialsInvalid),
        (bearer("a.b.c"), CredentialsInvalid),
        (bearer("..."), CredentialsInvalid),
        (bearer(&"x".repeat(8193)), CredentialsInvalid),
    ] {
        refused(&p, case, kind);
    }
    // Whatever was cached, a changed byte is another token.
    bearer(&good).check(&*p.policy).unwrap();
    for i in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        refused(&p, bearer(&changed), CredentialsInvalid);
    }
}

#[test]
fn bad_headers() {
    let p = hs_policy();
    let invalid = RejectionKind::CredentialsInvalid;
    for header in [
        json!({}),
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": ""}),
        json!({"alg": "hs256"}),
        json!({"alg": "HS512"}),
        json!({"alg": "RS256"}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
        json!({"alg": "HS256", "kid": 7}),
        json!({"alg": "HS256", "kid": null}),
    ] {
        refused(&p, bearer(&hs(header, claims())), invalid);
    }
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let unsigned = format!(
        "{}.{}.",
        part("{\"alg\":\"none\"}"),
        part(&claims().to_string())
    );
    refused(&p, bearer(&unsigned), invalid);
    let doubled = format!(
        "{}.{}",
        part("{\"alg\":\"HS256\",\"alg\":\"HS256\"}"),
        part(&claims().to_string())
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(doubled.as_bytes(), &key, Algorithm::HS256).unwrap();
    refused(&p, bearer(&format!("{doubled}.{signature}")), invalid);
    // A key or an address of one inside the token changes nothing: the signature is by another key.
    let attacker = EncodingKey::from_secret(OTHER.as_bytes());
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(OTHER)});
    for header in [
        json!({"alg": "HS256", "jwk": jwk}),
        json!({"alg": "HS256", "jku": "https://attacker.example/jwks"}),
        json!({"alg": "HS256", "x5u": "https://attacker.example/cert", "x5c": ["AAAA"]}),
        json!({"alg": "HS256", "kid": "../../dev/null"}),
    ] {
        refused(
            &p,
            bearer(&token(&header, &claims(), &attacker, Algorithm::HS256)),
            invalid,
        );
    }
}

#[test]
fn kid_is_a_look_up() {
    let key = |kid: &str, secret: &str| {
        format!("{{ {kid}algorithm = \"HS256\", secret = \"{secret}\" }}")
    };
    let two = jwt(&format!(
        "keys = [{}, {}]",
        key("kid = \"a\", ", SECRET),
        key("kid = \"b\", ", OTHER)
    ));
    let named = |kid: &str| bearer(&hs(json!({"alg": "HS256", "kid": kid}), claims()));
    let mut case = named("a");
    case.check(&*two.policy).unwrap();
    assert_eq!(case.identity.unwrap().credential_id.as_deref(), Some("a"));
    let invalid = RejectionKind::CredentialsInvalid;
    refused(&two, named("b"), invalid); // signed by a's key
    refused(&two, named("c"), invalid);
    refused(
        &two,
        bearer(&hs(json!({"alg": "HS256"}), claims())),
        invalid,
    ); // which of the two?
    let fallback = jwt(&format!(
        "keys = [{}, {}]",
        key("kid = \"b\", ", OTHER),
        key("", SECRET)
    ));
    named("any").check(&*fallback.policy).unwrap();
    refused(&fallback, named("b"), invalid); // b exists, so it and no other key decides
}

struct Pair {
    public_pem: String,
    private: EncodingKey,
}

fn pair(algorithm: Algorithm) -> Pair {
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    };
    let make = |alg| KeyPair::generate_for(alg).unwrap();
    let (pair, private): (KeyPair, fn(&[u8]) -> EncodingKey) = match algorithm {
        Algorithm::ES256 => (make(&PKCS_ECDSA_P256_SHA256), |pem| {
            EncodingKey::from_ec_pem(pem).unwrap()
        }),
        Algorithm::ES384 => (make(&PKCS_ECDSA_P384_SHA384), |pem| {
            EncodingKey::from_ec_pem(pem).unwrap()
        }),
        Algorithm::EdDSA => (make(&PKCS_ED25519), |pem| {
            EncodingKey::from_ed_pem(pem).unwrap()
        }),
        _ => (make(&PKCS_RSA_SHA256), |pem| {
            EncodingKey::from_rsa_pem(pem).unwrap()
        }),
    };
    Pair {
        private: private(pair.serialize_pem().as_bytes()),
        public_pem: pair.public_key_pem(),
    }
}

#[test]
fn every_public_key_algorithm_and_none_for_another() {
    let rsa = pair(Algorithm::RS256);
    let others = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA].map(|alg| (alg, pair(alg)));
    let all = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ]
    .map(|alg| (alg, &rsa))
    .into_iter()
    .chain(others.iter().map(|(alg, pair)| (*alg, pair)));
    for (alg, pair) in all {
        let name = format!("{alg:?}");
        let files = files(&[("key.pem", pair.public_pem.as_bytes())]);
        let p = jwt_with(
            &format!("keys = [{{ algorithm = \"{name}\", public_key_file = \"key.pem\" }}]"),
            &files,
        );
        let good = token(&json!({"alg": name}), &claims(), &pair.private, alg);
        bearer(&good).check(&*p.policy).unwrap();
        // The classic confusion: the public key, which all know, as an HMAC secret.
        let forged = EncodingKey::from_secret(pair.public_pem.as_bytes());
        for header in [json!({"alg": "HS256"}), json!({"alg": name})] {
            let bad = token(&header, &claims(), &forged, Algorithm::HS256);
            refused(&p, bearer(&bad), RejectionKind::CredentialsInvalid);
        }
        if alg == Algorithm::RS256 {
            let bad = token(
                &json!({"alg": "PS256"}),
                &claims(),
                &pair.private,
                Algorithm::PS256,
            );
            refused(&p, bearer(&bad), RejectionKind::CredentialsInvalid);
        }
    }
}

#[test]
fn key_sets() {
    let es = pair(Algorithm::ES256);
    let mut jwk = serde_json::to_value(
        jsonwebtoken::jwk::Jwk::from_encoding_key(&es.private, Algorithm::ES256).unwrap(),
    )
    .unwrap();
    jwk["kid"] = json!("k1");
    let set =
        json!({"keys": [jwk, {"kty": "EC", "crv": "P-256", "use": "enc", "x": "AA", "y": "AA"}]})
            .to_string();
    let p = jwt_with(
        "jwks_file = \"jwks.json\"",
        &files(&[("jwks.json", set.as_bytes())]),
    );
    let good = token(
        &json!({"alg": "ES256", "kid": "k1"}),
        &claims(),
        &es.private,
        Algorithm::ES256,
    );
    let mut case = bearer(&good);
    case.check(&*p.policy).unwrap();
    assert_eq!(case.identity.unwrap().credential_id.as_deref(), Some("k1"));
}

#[test]
fn bad_configs_say_where() {
    let p384 = pair(Algorithm::ES384);
    let oct = json!({"keys": [{"kty": "oct", "k": "AAAA"}]}).to_string();
    let small = json!({"keys": [{"kty": "RSA", "alg": "RS256", "n": URL_SAFE_NO_PAD.encode([0x81; 128]), "e": "AQAB"}]}).to_string();
    let files = files(&[
        ("p384.pem", p384.public_pem.as_bytes()),
        ("short", b"short\n"),
        ("oct.json", oct.as_bytes()),
        ("small.json", small.as_bytes()),
        ("text", b"hello"),
    ]);
    let head = "type = \"jwt\"\nname = \"j\"\n";
    let hs = format!("keys = [{{ algorithm = \"HS256\", secret = \"{SECRET}\" }}]\n");
    let who = "issuer = \"i\"\naudience = \"a\"\n";
    for (body, says) in [
        (format!("audience = \"a\"\n{hs}"), "missing field `issuer`"),
        (format!("issuer = \"i\"\n{hs}"), "missing field `audience`"),
        (
            format!("issuer = \"\"\naudience = \"a\"\n{hs}"),
            "issuer: the issuer is empty",
        ),
        (
            format!("issuer = \"i\"\naudience = []\n{hs}"),
            "audience: no audience",
        ),
        (format!("{who}{hs}leeway = \"1h\""), "leeway: more than"),
        (format!("{who}{hs}max_token = \"1MiB\""), "max_token"),
        (format!("{who}{hs}cache = 99999999"), "cache"),
        (who.into(), "there is no key"),
        (
            format!("{who}keys = [{{ algorithm = \"none\" }}]"),
            "keys[0].algorithm: there is no algorithm \"none\"",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS256\" }}]"),
            "exactly one of",
        ),
        (
            format!(
                "{who}keys = [{{ algorithm = \"HS256\", secret = \"a\", secret_file = \"b\" }}]"
            ),
            "exactly one of",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS256\", secret = \"short\" }}]"),
            "keys[0].secret: the secret has 5 bytes",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS512\", secret = \"{SECRET}\" }}]"),
            "needs at least 64",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS256\", secret_file = \"short\" }}]"),
            "has 5 bytes",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS256\", secret_file = \"p384.pem\" }}]"),
            "this is a PEM key",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"HS256\", public_key_file = \"p384.pem\" }}]"),
            "takes a secret",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"ES256\", secret = \"{SECRET}\" }}]"),
            "does not take a secret",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"ES256\", public_key_file = \"p384.pem\" }}]"),
            "does not fit ES256",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"RS256\", public_key_file = \"p384.pem\" }}]"),
            "no public key for RS256",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"EdDSA\", public_key_file = \"text\" }}]"),
            "no public key for EdDSA",
        ),
        (
            format!("{who}keys = [{{ algorithm = \"ES256\", public_key_file = \"none\" }}]"),
            "cannot read",
        ),
        (
            format!(
                "{who}keys = [{{ algorithm = \"HS256\", secret = \"{SECRET}\" }}, {{ algorithm = \"HS256\", secret = \"{OTHER}\" }}]"
            ),
            "keys[1]: there is a key",
        ),
        (
            format!("{who}jwks_file = \"text\""),
            "not a JSON Web Key Set",
        ),
        (
            format!("{who}jwks_file = \"oct.json\""),
            "jwks_file.keys[0]: a shared secret",
        ),
        (
            format!("{who}jwks_file = \"small.json\""),
            "does not fit RS256",
        ),
    ] {
        let found = error(&format!("{head}{body}"), &files);
        assert!(found.contains(says), "{body}: {found}");
        assert!(!found.contains(SECRET), "{found}");
    }
    let raw: super::RawJwt = toml::from_str(&format!("name = \"j\"\n{who}{hs}")).unwrap();
    assert!(!format!("{raw:?}").contains(SECRET));
}
