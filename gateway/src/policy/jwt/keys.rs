//! Keys that verify tokens, each with its one algorithm.

use super::{Refused, invalid};
use crate::diagnose::Compiler;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};

/// A secret in the config: never in a log, an error or a dump.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJwtKey {
    /// The id that tokens name. Without: the key is for tokens that name none, or an unknown one.
    pub kid: Option<String>,
    /// HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA.
    pub algorithm: String,
    /// The shared secret of an HS algorithm. Prefer `secret_file`.
    pub secret: Option<Secret>,
    /// File with the shared secret of an HS algorithm; one newline at its end is dropped.
    pub secret_file: Option<PathBuf>,
    /// PEM file with the public key of any other algorithm.
    pub public_key_file: Option<PathBuf>,
}

pub(super) struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Key {
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.key, self.algorithm).unwrap_or(false)
    }
}

pub(super) struct KeyRing(Vec<Key>);

const KEYS_MAX: usize = 256;

impl KeyRing {
    pub(super) fn compile(
        raws: &[RawJwtKey],
        jwks_file: Option<&Path>,
        c: &mut Compiler<'_>,
    ) -> Option<KeyRing> {
        let errors = c.errors.len();
        let mut ring = KeyRing(Vec::new());
        for (i, raw) in raws.iter().enumerate() {
            c.at("keys", |c| {
                c.at(format!("[{i}]"), |c| {
                    if let Some(key) = raw.compile(c) {
                        ring.add(key, c);
                    }
                })
            });
        }
        if let Some(path) = jwks_file {
            c.at("jwks_file", |c| ring.add_jwks(path, c));
        }
        if ring.0.is_empty() && c.errors.len() == errors {
            c.error(
                "there is no key to verify tokens with",
                "add keys or jwks_file",
            );
        }
        (c.errors.len() == errors).then_some(ring)
    }

    fn add(&mut self, key: Key, c: &mut Compiler<'_>) {
        // Two keys of one id and algorithm would make the look-up ambiguous; so would two without id.
        let same = |old: &Key| old.kid == key.kid && old.algorithm == key.algorithm;
        if self.0.iter().any(same) {
            c.error(
                "there is a key of this kid and algorithm already",
                "give each key its own kid",
            );
        } else if self.0.len() >= KEYS_MAX {
            c.error("more than 256 keys", "remove those that are out of use");
        } else {
            self.0.push(key);
        }
    }

    fn add_jwks(&mut self, path: &Path, c: &mut Compiler<'_>) {
        let Some(bytes) = c.read(path) else { return };
        let set: JwkSet = match serde_json::from_slice(&bytes) {
            Ok(set) => set,
            Err(e) => {
                return c.error(
                    format!("not a JSON Web Key Set: {e}"),
                    "{\"keys\": [ … ]}, RFC 7517 section 5",
                );
            }
        };
        for (i, jwk) in set.keys.iter().enumerate() {
            if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
                continue;
            }
            c.at(format!("keys[{i}]"), |c| {
                if let Some(key) = from_jwk(jwk, c) {
                    self.add(key, c);
                }
            });
        }
    }

    /// The key for a token's header. The token's `alg` must be the key's own; it never chooses how a
    /// key is used.
    pub(super) fn choose(&self, header: &Map<String, Value>) -> Result<&Key, Refused> {
        const UNKNOWN: Refused = invalid("The token is not signed by a key known here.");
        if header.contains_key("crit") {
            // RFC 7515 section 4.1.11: what is critical must be understood, and nothing is.
            return Err(invalid(
                "The token demands an extension that is not supported.",
            ));
        }
        let alg = header.get("alg").and_then(Value::as_str).unwrap_or("none");
        let of_alg = |key: &&Key| name(key.algorithm) == alg;
        match header.get("kid") {
            Some(Value::String(kid)) => {
                let mut named = self
                    .0
                    .iter()
                    .filter(|key| key.kid() == Some(kid))
                    .peekable();
                if named.peek().is_some() {
                    return named
                        .find(of_alg)
                        .ok_or(invalid("The token's algorithm is not its key's."));
                }
                let mut unnamed = self.0.iter().filter(|key| key.kid.is_none());
                unnamed.find(of_alg).ok_or(UNKNOWN)
            }
            Some(_) => Err(invalid("The token's key id is malformed.")),
            None => {
                // Only where there is no choice: trying keys in turn would let a caller multiply our work.
                let mut candidates = self.0.iter().filter(of_alg);
                match (candidates.next(), candidates.next()) {
                    (Some(only), None) => Ok(only),
                    (Some(_), Some(_)) => {
                        Err(invalid("The token does not say which key signed it."))
                    }
                    (None, _) => Err(UNKNOWN),
                }
            }
        }
    }
}

impl RawJwtKey {
    fn compile(&self, c: &mut Compiler<'_>) -> Option<Key> {
        let Ok(algorithm) = self.algorithm.parse::<Algorithm>() else {
            c.at("algorithm", |c| {
                c.error(
                    format!("there is no algorithm \"{}\"", self.algorithm),
                    "HS256/384/512, RS256/384/512, PS256/384/512, ES256, ES384 or EdDSA; never none",
                )
            });
            return None;
        };
        let key = match (&self.secret, &self.secret_file, &self.public_key_file) {
            (Some(secret), None, None) => {
                c.at("secret", |c| hmac(algorithm, secret.0.as_bytes(), c))
            }
            (None, Some(path), None) => c.at("secret_file", |c| {
                let bytes = c.read(path)?;
                let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                hmac(algorithm, secret.strip_suffix(b"\r").unwrap_or(secret), c)
            }),
            (None, None, Some(path)) => c.at("public_key_file", |c| {
                let pem = c.read(path)?;
                public(algorithm, &pem, c)
            }),
            _ => {
                c.error(
                    "a key has exactly one of secret, secret_file and public_key_file",
                    "HS algorithms take a secret, all others a public key",
                );
                None
            }
        };
        Some(Key {
            kid: self.kid.clone(),
            algorithm,
            key: key?,
        })
    }
}

fn hmac(algorithm: Algorithm, secret: &[u8], c: &mut Compiler<'_>) -> Option<DecodingKey> {
    // RFC 7518 section 3.2: a key at least as long as the hash. The crate itself takes any length.
    let bytes_min = match algorithm {
        Algorithm::HS256 => 32,
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        other => {
            c.error(
                format!("{} does not take a secret", name(other)),
                "use public_key_file",
            );
            return None;
        }
    };
    if secret.len() < bytes_min {
        c.error(
            format!("the secret has {} bytes, {} needs at least {bytes_min}", secret.len(), name(algorithm)),
            "a short secret can be searched offline from any token: `openssl rand -hex 32` makes a good one",
        );
        return None;
    }
    if secret.starts_with(b"-----BEGIN") {
        c.error(
            "this is a PEM key, not a secret",
            "a public key used as an HMAC secret lets anybody sign",
        );
        return None;
    }
    Some(DecodingKey::from_secret(secret))
}

fn public(algorithm: Algorithm, pem: &[u8], c: &mut Compiler<'_>) -> Option<DecodingKey> {
    let parsed = match algorithm.family() {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => {
            c.error(
                format!("{} takes a secret, not a public key", name(algorithm)),
                "use secret_file",
            );
            return None;
        }
    };
    match parsed {
        Ok(key) => fits(algorithm, key, c),
        Err(_) => {
            c.error(
                format!("no public key for {} in this file", name(algorithm)),
                "a PEM file that begins with -----BEGIN PUBLIC KEY-----, of the algorithm's type",
            );
            None
        }
    }
}

/// A key of the wrong curve or size would verify nothing: better said at load.
fn fits(algorithm: Algorithm, key: DecodingKey, c: &mut Compiler<'_>) -> Option<DecodingKey> {
    const RSA_BYTES_MIN: usize = 256;
    let ok = match (algorithm, key.kind()) {
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == 65,
        (Algorithm::ES384, DecodingKeyKind::SecretOrDer(point)) => point.len() == 97,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32,
        (_, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            n.iter().skip_while(|b| **b == 0).count() >= RSA_BYTES_MIN
        }
        (_, DecodingKeyKind::SecretOrDer(der)) => der.len() >= RSA_BYTES_MIN,
    };
    if !ok {
        c.error(
            format!("the key does not fit {}", name(algorithm)),
            "ES256 needs P-256, ES384 P-384, EdDSA Ed25519, RSA at least 2048 bits",
        );
    }
    ok.then_some(key)
}

fn from_jwk(jwk: &Jwk, c: &mut Compiler<'_>) -> Option<Key> {
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => {
            Algorithm::ES384
        }
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKey(_) => {
            c.error(
                "a shared secret in a key set",
                "key sets are public: put it under keys with secret_file",
            );
            return None;
        }
        _ => {
            c.warn(
                "a key of a type or curve that is not supported, passed over",
                "EC P-256/P-384, RSA and Ed25519 are",
            );
            return None;
        }
    };
    let algorithm = match jwk.common.key_algorithm {
        None => by_type,
        Some(named) => match named.to_string().parse::<Algorithm>() {
            Ok(algorithm) if algorithm.family() == by_type.family() => algorithm,
            Ok(_) => {
                c.error("the key's alg does not fit its type", "correct the key set");
                return None;
            }
            Err(_) => {
                c.warn(
                    "a key whose alg is not supported, passed over",
                    "it verifies no tokens here",
                );
                return None;
            }
        },
    };
    let key = match DecodingKey::from_jwk(jwk) {
        Ok(key) => fits(algorithm, key, c)?,
        Err(_) => {
            c.error(
                "the key is malformed",
                "its numbers are base64url without padding",
            );
            return None;
        }
    };
    Some(Key {
        kid: jwk.common.key_id.clone(),
        algorithm,
        key,
    })
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::EdDSA => "EdDSA",
        // The enum may grow; a name no token can carry keeps such a key unused.
        _ => "",
    }
}
