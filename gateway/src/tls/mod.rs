//! TLS: certificates by SNI, and the rustls session as feed and take. The only files that name rustls.

pub mod facts;
mod names;
pub mod session;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;

pub use facts::TlsFacts;
pub use session::{Session, Taken};
pub use store::{ClientTls, Identity, ServerTls, TlsConfigError};
