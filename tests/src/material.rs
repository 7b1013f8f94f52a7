//! Certificates: an authority of the test's own, and a server certificate for `localhost` and `api.test`.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use std::path::Path;

/// Writes `ca.pem`, `server.pem` and `server.key` into `dir`.
pub fn write(dir: &Path) {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "gateway tests");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key"))
        .expect("an authority");
    let names = ["localhost", "api.test", "other.test", "127.0.0.1"].map(String::from);
    let server = CertificateParams::new(names).expect("names");
    let key = KeyPair::generate().expect("a key");
    let leaf = server.signed_by(&key, &ca).expect("a certificate");
    put(dir, "ca.pem", &ca.pem());
    put(dir, "server.pem", &leaf.pem());
    put(dir, "server.key", &key.serialize_pem());
}

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("write test material");
}
