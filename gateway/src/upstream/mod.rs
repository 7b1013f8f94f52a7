//! Where a request can go: groups of targets, whose turn it is, and who is resting after a failure.
//! Pure: the connections themselves live in `net/`.

pub mod balance;
pub mod health;

use crate::tls::ClientTls;
use health::Health;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One address behind a name.
#[derive(Debug)]
pub struct Target {
    /// The same for the same address and TLS settings across reloads: pools are indexed by it.
    pub id: u32,
    /// `10.0.0.7:8080`, for logs.
    pub label: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<ClientTls>,
    /// Shared with the target of the same id in the previous snapshot.
    pub health: Arc<Health>,
}

/// A group of targets that serve the same thing.
#[derive(Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    /// Never empty.
    pub targets: Vec<Arc<Target>>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub idle_connections_max: usize,
    pub idle_timeout: Duration,
}
