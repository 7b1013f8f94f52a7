//! Certificates by server name, compiled from PEM into a rustls server or client config.

use super::names;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A listener's side of TLS.
#[derive(Clone)]
pub struct ServerTls(pub(super) Arc<ServerConfig>);

/// The side of TLS towards an upstream: always verified.
#[derive(Clone)]
pub struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// What is wrong with TLS material, for the operator.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsConfigError {
    #[error("no certificate in the file")]
    NoCertificate,
    #[error("not valid PEM: {0}")]
    Pem(String),
    #[error("no usable private key in the file: {0}")]
    Key(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    #[error("`{0}` is not a name a certificate can be issued for")]
    ServerName(String),
    #[error("{0}")]
    Other(String),
}

/// One chain and its key, checked to belong together.
pub struct Identity {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl Identity {
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Identity, TlsConfigError> {
        let chain = certificates(chain)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsConfigError::Key(e.to_string()))?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|e| TlsConfigError::Key(e.to_string()))?;
        let names = names::of_certificate(&chain[0]).map_err(TlsConfigError::Certificate)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A key type whose public half cannot be read is let through: the handshake will tell.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(TlsConfigError::KeyMismatch),
        }
        Ok(Identity {
            key: Arc::new(certified),
            names,
        })
    }

    /// DNS names the certificate is valid for, wildcards as `*.example.com`.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| TlsConfigError::Pem(e.to_string()))?;
    if all.is_empty() {
        Err(TlsConfigError::NoCertificate)
    } else {
        Ok(all)
    }
}

impl ServerTls {
    /// `identities` must not be empty; its first entry answers clients without a known server name.
    pub fn new(identities: Vec<Identity>, only_tls13: bool) -> Result<ServerTls, TlsConfigError> {
        let by_name = ByName::new(identities).ok_or(TlsConfigError::NoCertificate)?;
        let versions: &[&rustls::SupportedProtocolVersion] = if only_tls13 {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(versions)
                .map_err(|e| TlsConfigError::Other(e.to_string()))?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(by_name));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Stateless tickets whose key rotates by itself; no shared session cache to lock.
        config.ticketer =
            aws_lc_rs::Ticketer::new().map_err(|e| TlsConfigError::Other(e.to_string()))?;
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        Ok(ServerTls(Arc::new(config)))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ClientTls {
    /// `ca`: a PEM bundle; absent: the public web's roots.
    pub fn new(server_name: &str, ca: Option<&[u8]>) -> Result<ClientTls, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        match ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(pem) => {
                for certificate in certificates(pem)? {
                    roots
                        .add(certificate)
                        .map_err(|e| TlsConfigError::Certificate(e.to_string()))?;
                }
            }
        }
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsConfigError::ServerName(server_name.to_owned()))?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| TlsConfigError::Other(e.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ClientTls {
            config: Arc::new(config),
            server_name,
        })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({:?})", self.server_name)
    }
}

/// Exact name, then wildcard of one label, then the default.
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByName {
    fn new(identities: Vec<Identity>) -> Option<ByName> {
        let default = identities.first()?.key.clone();
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for identity in identities {
            for name in identity.names {
                // The first certificate of a name wins, as the operator wrote them.
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard
                        .entry(parent.to_owned())
                        .or_insert_with(|| identity.key.clone()),
                    None => exact.entry(name).or_insert_with(|| identity.key.clone()),
                };
            }
        }
        Some(ByName {
            exact,
            wildcard,
            default,
        })
    }

    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        self.exact
            .get(&name)
            .or_else(|| {
                name.split_once('.')
                    .and_then(|(_, parent)| self.wildcard.get(parent))
            })
            .unwrap_or(&self.default)
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} names, {} wildcards",
            self.exact.len(),
            self.wildcard.len()
        )
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            hello
                .server_name()
                .map_or(&self.default, |name| self.find(name))
                .clone(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::issue;
    use super::*;

    #[test]
    fn a_name_finds_its_certificate() {
        let identities = [
            &["default.test"][..],
            &["a.test", "b.test"],
            &["*.wild.test"],
        ]
        .iter()
        .map(|names| {
            let (cert, key) = issue(names);
            Identity::from_pem(cert.as_bytes(), key.as_bytes()).unwrap()
        })
        .collect();
        let by_name = ByName::new(identities).unwrap();
        let default = by_name.default.clone();
        for (name, expect) in [
            ("a.test", "a.test"),
            ("B.TEST", "b.test"),
            ("x.wild.test", "*.wild.test"),
            ("wild.test", "default.test"),
            ("x.y.wild.test", "default.test"),
            ("unknown", "default.test"),
        ] {
            let found = by_name.find(name);
            let names = names::of_certificate(&found.cert[0]).unwrap();
            assert!(names.contains(&expect.to_string()), "{name} -> {names:?}");
            assert_eq!(
                Arc::ptr_eq(found, &default),
                expect == "default.test",
                "{name}"
            );
        }
    }

    #[test]
    fn bad_material_is_explained() {
        let (cert, key) = issue(&["a.test"]);
        let (_, other_key) = issue(&["a.test"]);
        let err = |c: &str, k: &str| {
            Identity::from_pem(c.as_bytes(), k.as_bytes())
                .err()
                .unwrap()
        };
        assert_eq!(err("", &key), TlsConfigError::NoCertificate);
        assert!(matches!(err(&cert, ""), TlsConfigError::Key(_)));
        assert_eq!(err(&cert, &other_key), TlsConfigError::KeyMismatch);
    }
}
