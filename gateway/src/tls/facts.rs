//! What is known of a TLS connection once its handshake is complete.

/// For the access record and for policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The IANA name, such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The server name the client asked for, lower case, checked to be a DNS name.
    pub sni: Option<Box<str>>,
}
