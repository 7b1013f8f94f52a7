//! The DNS names a certificate is valid for.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Lower case; wildcards as `*.example.com`. An error says why the certificate does not parse.
pub(super) fn of_certificate(der: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let cert = EndEntityCert::try_from(der)
        .map_err(|e| format!("not a usable X.509 certificate ({e})"))?;
    Ok(cert
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect())
}
