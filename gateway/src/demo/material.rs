//! Certificates, keys, tokens and a schema of the demo: made anew on each run, valid for a week.

use anyhow::{Context, Result};
use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// The name that the demo's client asks for.
pub const SERVER_NAME: &str = "api.demo.test";
pub const ISSUER: &str = "https://issuer.demo.test";
pub const AUDIENCE: &str = "gateway-demo";
const SERVER_NAMES: &[&str] = &[
    "localhost",
    SERVER_NAME,
    "127.0.0.1",
    "::1",
    "10.203.0.1",
    "fd00:cb::1",
];
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks of client and server may differ a little.
const BACKDATED: Duration = Duration::from_secs(3600);

const ORDER_SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["item", "quantity"],
  "additionalProperties": false,
  "properties": {
    "item": { "type": "string", "minLength": 1, "maxLength": 64 },
    "quantity": { "type": "integer", "minimum": 1, "maximum": 1000 }
  }
}
"#;

/// An API key as its owner holds it, and as the config stores it.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub id: String,
    pub secret: String,
    /// `sha256:` and the hex digest of the whole key.
    pub hash: String,
}

/// What the config and the command lines quote. The rest is in files.
#[derive(Clone, Debug)]
pub struct Material {
    /// May read and write orders.
    pub writer_key: ApiKey,
    /// May do neither: a known caller without the role.
    pub guest_key: ApiKey,
    /// Signed with ES256 by `jwt.key.pem`, key id `demo`.
    pub token: String,
    /// Signed with HS256 by `jwt.hs256.secret`, key id `demo-hs`.
    pub hs256_token: String,
}

/// Writes all files to `dir`, which must be private.
pub fn write(dir: &Path, now_secs: u64) -> Result<Material> {
    write_certificates(dir, now_secs).context("make the demo's certificates")?;
    write_file(dir, "order.schema.json", ORDER_SCHEMA)?;
    let (token, hs256_token) = write_tokens(dir, now_secs).context("make the demo's tokens")?;
    let material = Material {
        writer_key: api_key("alice")?,
        guest_key: api_key("bob")?,
        token,
        hs256_token,
    };
    write_file(dir, "alice.apikey", &material.writer_key.secret)?;
    write_file(dir, "bob.apikey", &material.guest_key.secret)?;
    write_file(dir, "demo.jwt", &material.token)?;
    write_file(dir, "demo-hs.jwt", &material.hs256_token)?;
    Ok(material)
}

/// `N` random bytes as text for names and keys.
pub fn random_base64url<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn api_key(id: &str) -> Result<ApiKey> {
    let secret = format!("gwk_{id}_{}", random_base64url::<32>()?);
    let digest = digest::digest(&digest::SHA256, secret.as_bytes());
    let mut hash = String::from("sha256:");
    for byte in digest.as_ref() {
        let _ = write!(hash, "{byte:02x}"); // a String takes everything
    }
    Ok(ApiKey {
        id: id.to_owned(),
        secret,
        hash,
    })
}

/// A certificate authority, its key thrown away after one signature, and the server's certificate chain.
fn write_certificates(dir: &Path, now_secs: u64) -> Result<()> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca = certificate(&[], "Gateway demo authority", now_secs)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write_file(dir, "ca.pem", &ca.self_signed(&ca_key)?.pem())?;

    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut server = certificate(SERVER_NAMES, SERVER_NAME, now_secs)?;
    server.use_authority_key_identifier_extension = true;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = Issuer::new(ca, ca_key);
    let signed = server.signed_by(&server_key, &issuer)?;
    write_file(dir, "server.pem", &signed.pem())?;
    write_file(dir, "server.key", &server_key.serialize_pem())
}

fn certificate(names: &[&str], common_name: &str, now_secs: u64) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names)?;
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_secs);
    params.not_before = now - BACKDATED;
    params.not_after = now + VALID;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(params)
}

/// An ES256 key pair with a token, and a shared secret with a token for the HS256 example.
fn write_tokens(dir: &Path, now_secs: u64) -> Result<(String, String)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write_file(dir, "jwt.key.pem", &key.serialize_pem())?;
    write_file(dir, "jwt.pub.pem", &key.public_key_pem())?;
    let claims = serde_json::json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "roles": ["writer"],
        "scope": "orders:read orders:write",
        "iat": now_secs,
        "nbf": now_secs.saturating_sub(60),
        "exp": now_secs + VALID.as_secs(),
    });
    let signing = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes())?;
    let token = jsonwebtoken::encode(&token_header(Algorithm::ES256, "demo"), &claims, &signing)?;

    let secret = random_base64url::<32>()?;
    write_file(dir, "jwt.hs256.secret", &secret)?;
    let signing = EncodingKey::from_secret(secret.as_bytes());
    let header = token_header(Algorithm::HS256, "demo-hs");
    let hs256_token = jsonwebtoken::encode(&header, &claims, &signing)?;
    Ok((token, hs256_token))
}

fn token_header(algorithm: Algorithm, kid: &str) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    header
}

/// 0600 from the start, replacing what an earlier run left.
pub(super) fn write_file(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use std::fs;
    use std::sync::Arc;

    const NOW_SECS: u64 = 1_790_000_000;

    fn verify(dir: &Path, name: &str, at_secs: u64) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap())
            .unwrap();
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
        let server = CertificateDer::from_pem_file(dir.join("server.pem")).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at_secs));
        verifier
            .verify_server_cert(&server, &[], &name, &[], at)
            .is_ok()
    }

    #[test]
    fn the_certificate_holds_for_its_names_and_its_week() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), NOW_SECS).unwrap();
        for name in SERVER_NAMES {
            assert!(verify(dir.path(), name, NOW_SECS), "{name}");
        }
        assert!(!verify(dir.path(), "other.demo.test", NOW_SECS));
        assert!(verify(
            dir.path(),
            SERVER_NAME,
            NOW_SECS + VALID.as_secs() - 1
        ));
        assert!(!verify(
            dir.path(),
            SERVER_NAME,
            NOW_SECS + VALID.as_secs() + 1
        ));

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_file(dir.path().join("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key) // refuses a key that is not the certificate's
            .unwrap();
    }

    #[test]
    fn tokens_verify_with_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let now_secs = crate::clock::Now::read().wall_secs(); // the library reads the real clock
        let material = write(dir.path(), now_secs).unwrap();
        let public = fs::read(dir.path().join("jwt.pub.pem")).unwrap();
        let secret = fs::read(dir.path().join("jwt.hs256.secret")).unwrap();
        let table = [
            (
                &material.token,
                Algorithm::ES256,
                DecodingKey::from_ec_pem(&public).unwrap(),
            ),
            (
                &material.hs256_token,
                Algorithm::HS256,
                DecodingKey::from_secret(&secret),
            ),
        ];
        for (token, algorithm, key) in table {
            let mut validation = Validation::new(algorithm);
            validation.set_audience(&[AUDIENCE]);
            validation.set_issuer(&[ISSUER]);
            let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation)
                .unwrap()
                .claims;
            assert_eq!(claims["sub"], "alice");
        }
    }

    #[test]
    fn keys_are_stored_hashed() {
        let key = api_key("alice").unwrap();
        assert!(
            key.secret.starts_with("gwk_alice_") && key.secret.len() == "gwk_alice_".len() + 43
        );
        let digest = digest::digest(&digest::SHA256, key.secret.as_bytes());
        assert!(
            key.hash
                .starts_with(&format!("sha256:{:02x}", digest.as_ref()[0]))
        );
        assert_eq!(key.hash.len(), 7 + 64);
        assert_ne!(key.secret, api_key("alice").unwrap().secret);
    }
}
