//! Keys and tokens: good ones, and each forgery a verifier must see through. Signed here by hand, because a library
//! for tokens would refuse to make the bad ones.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "api.test";
/// At least as long as the hash, as RFC 7518 demands.
pub const SECRET: &str = "a secret of the test that is long enough for HS256 to be sound";

/// One private key of each kind, under the key ids `hs`, `es`, `rs` and `ed`.
pub struct Keys {
    es: EcdsaKeyPair,
    rs: RsaKeyPair,
    ed: Ed25519KeyPair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hs256,
    Es256,
    Rs256,
    EdDsa,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Hs256, Kind::Es256, Kind::Rs256, Kind::EdDsa];

    pub fn alg(self) -> &'static str {
        ["HS256", "ES256", "RS256", "EdDSA"][self as usize]
    }

    pub fn kid(self) -> &'static str {
        ["hs", "es", "rs", "ed"][self as usize]
    }
}

impl Keys {
    pub fn new() -> Keys {
        Keys {
            es: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("an EC key"),
            rs: rsa::KeyPair::generate(KeySize::Rsa2048).expect("an RSA key"),
            ed: Ed25519KeyPair::generate().expect("an Ed25519 key"),
        }
    }

    /// Files to lie beside the config, and the policy that names them.
    pub fn public_files(&self) -> Vec<(&'static str, String)> {
        vec![
            ("es.pem", self.public_pem(Kind::Es256)),
            ("rs.pem", self.public_pem(Kind::Rs256)),
            ("ed.pem", self.public_pem(Kind::EdDsa)),
        ]
    }

    pub fn policy(&self, name: &str) -> String {
        format!(
            "[[policies]]\nname = \"{name}\"\ntype = \"jwt\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
             roles_claim = \"roles\"\nleeway = \"1s\"\nkeys = [\n\
             {{ kid = \"hs\", algorithm = \"HS256\", secret = \"{SECRET}\" }},\n\
             {{ kid = \"es\", algorithm = \"ES256\", public_key_file = \"es.pem\" }},\n\
             {{ kid = \"rs\", algorithm = \"RS256\", public_key_file = \"rs.pem\" }},\n\
             {{ kid = \"ed\", algorithm = \"EdDSA\", public_key_file = \"ed.pem\" }},\n]\n"
        )
    }

    pub fn public_pem(&self, kind: Kind) -> String {
        let der: Result<PublicKeyX509Der<'_>, _> = match kind {
            Kind::Hs256 => panic!("an HS key has no public half"),
            Kind::Es256 => self.es.public_key().as_der(),
            Kind::Rs256 => self.rs.public_key().as_der(),
            Kind::EdDsa => self.ed.public_key().as_der(),
        };
        let text = STANDARD.encode(der.expect("a public key").as_ref());
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|i| &text[i..text.len().min(i + 64)])
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    fn sign(&self, kind: Kind, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match kind {
            Kind::Hs256 => hs256(SECRET.as_bytes(), message),
            Kind::Es256 => self
                .es
                .sign(&random, message)
                .expect("sign")
                .as_ref()
                .to_vec(),
            Kind::Rs256 => {
                let mut out = vec![0; self.rs.public_modulus_len()];
                self.rs
                    .sign(&RSA_PKCS1_SHA256, &random, message, &mut out)
                    .expect("sign");
                out
            }
            Kind::EdDsa => self.ed.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with these claims, signed as its header says.
    pub fn token(&self, kind: Kind, claims: &Value) -> String {
        self.with_header(
            kind,
            &json!({ "alg": kind.alg(), "kid": kind.kid(), "typ": "JWT" }),
            claims,
        )
    }

    /// A token whose header says one thing while `kind`'s key signs.
    pub fn with_header(&self, kind: Kind, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.sign(kind, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Name and token of each forgery; all must be refused.
    pub fn forged(&self) -> Vec<(&'static str, String)> {
        let now = unix_now();
        let good = claims("mallory");
        let with = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            claims
        };
        let without = |key: &str| {
            let mut claims = good.clone();
            claims.as_object_mut().expect("an object").remove(key);
            claims
        };
        let es = |claims: &Value| self.token(Kind::Es256, claims);
        let signed = es(&good);
        let (body, signature) = signed.rsplit_once('.').expect("three parts");
        let none = |alg: &str| message(&json!({ "alg": alg, "kid": "es" }), &good);
        let confused = |kind: Kind| {
            let message = message(&json!({ "alg": "HS256", "kid": kind.kid() }), &good);
            let signature = hs256(self.public_pem(kind).as_bytes(), message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let swapped = {
            let (head, rest) = body.split_once('.').expect("two parts");
            let mut claims = good.clone();
            claims["sub"] = json!("root");
            assert_ne!(rest, part(&claims));
            format!("{head}.{}.{signature}", part(&claims))
        };
        let header = |extra: &str, value: Value| {
            let mut header = json!({ "alg": "ES256", "kid": "es" });
            header[extra] = value;
            self.with_header(Kind::Es256, &header, &good)
        };
        vec![
            ("alg none, no signature", format!("{}.", none("none"))),
            ("alg nOnE", format!("{}.", none("nOnE"))),
            (
                "alg none, with a signature",
                format!("{}.{signature}", none("none")),
            ),
            ("HS256 keyed by the EC public key", confused(Kind::Es256)),
            ("HS256 keyed by the RSA public key", confused(Kind::Rs256)),
            (
                "another algorithm than the key's",
                self.with_header(Kind::Rs256, &json!({ "alg": "RS256", "kid": "es" }), &good),
            ),
            (
                "signed by another key",
                self.with_header(Kind::EdDsa, &json!({ "alg": "ES256", "kid": "es" }), &good),
            ),
            ("changed claims", swapped),
            ("expired", es(&with("exp", json!(now - 60)))),
            ("no expiry", es(&without("exp"))),
            ("not valid yet", es(&with("nbf", json!(now + 3600)))),
            ("another audience", es(&with("aud", json!("other.test")))),
            ("no audience", es(&without("aud"))),
            (
                "another issuer",
                es(&with("iss", json!("https://evil.test"))),
            ),
            ("no issuer", es(&without("iss"))),
            (
                "unknown kid",
                self.with_header(
                    Kind::Es256,
                    &json!({ "alg": "ES256", "kid": "../../etc/passwd" }),
                    &good,
                ),
            ),
            ("crit header", header("crit", json!(["exp"]))),
            (
                "key of its own",
                header("jwk", json!({ "kty": "oct", "k": "AAAA" })).replace('.', ".A"),
            ),
            ("cut signature", signed[..signed.len() - 4].to_owned()),
            ("no signature", format!("{body}.")),
            ("two parts", body.to_owned()),
            ("padding", format!("{signed}==")),
            ("garbage", "not.a.token".to_owned()),
        ]
    }
}

impl Default for Keys {
    fn default() -> Self {
        Keys::new()
    }
}

/// Claims that are good for an hour.
pub fn claims(subject: &str) -> Value {
    let now = unix_now();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "nbf": now - 5, "exp": now + 3600,
        "roles": ["reader"], "scope": "orders:read",
    })
}

pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

fn hs256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", part(header), part(claims))
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
