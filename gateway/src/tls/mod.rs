//! TLS: certificates by SNI, and the rustls session as feed and take. The only files that name rustls.

pub mod facts;

pub use facts::TlsFacts;
