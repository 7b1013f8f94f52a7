//! The certificate that every TLS subject shows, and a client that accepts no other.

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const HOST: &str = "localhost";

/// ECDSA P-256, self-signed, in the three shapes that the subjects want.
pub struct Material {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Certificate and key in one file.
    pub both: PathBuf,
    pub client: Arc<ClientConfig>,
}

impl Material {
    pub fn write(dir: &Path) -> Result<Material> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = CertificateParams::new(vec![HOST.to_owned()])?.self_signed(&key)?;
        let material = Material {
            cert: dir.join("server.pem"),
            key: dir.join("server.key"),
            both: dir.join("server-both.pem"),
            client: client(cert.der().clone())?,
        };
        fs::write(&material.cert, cert.pem())?;
        fs::write(&material.key, key.serialize_pem())?;
        fs::write(&material.both, cert.pem() + &key.serialize_pem())?;
        Ok(material)
    }
}

/// TLS 1.3 with one suite and one group, so that every subject does the same work.
fn client(cert: rustls::pki_types::CertificateDer<'static>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(cert)?;
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3 client")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A new session with the subject.
pub fn session(client: &Arc<ClientConfig>) -> Result<ClientConnection> {
    let name = ServerName::try_from(HOST).context("server name")?;
    Ok(ClientConnection::new(client.clone(), name)?)
}
