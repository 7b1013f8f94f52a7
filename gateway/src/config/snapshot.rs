//! The config as the data plane uses it: complete, checked, shared by all cores, never changed.

use super::raw;
use crate::http::HeadLimits;
use crate::limit::strikes::StrikeConfig;
use crate::policy::chain::Chain;
use crate::route::RouteTable;
use crate::tls::ServerTls;
use crate::units::Prefix;
use crate::upstream::Upstream;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One whole config. A request sees one from start to end.
pub struct Snapshot {
    pub server: raw::Server,
    pub admin: raw::Admin,
    pub listeners: Vec<Arc<Listener>>,
    pub table: RouteTable,
    /// By the index the table gives.
    pub routes: Vec<Arc<Route>>,
    pub strikes: StrikeConfig,
    pub filter: Option<super::filter::FilterConfig>,
    /// `None`: switched off.
    pub access_log: Option<super::observe::LogPlace>,
    pub audit_log: super::observe::AuditLog,
    pub alerts: super::observe::Alerts,
}

#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<ServerTls>,
    pub trusted_proxies: Vec<Prefix>,
    pub timeouts: Timeouts,
    pub head: HeadLimits,
    pub body_bytes_max: u64,
    pub requests_per_connection: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub handshake: Duration,
    pub head: Duration,
    pub body: Duration,
    pub body_rate_min: u64,
    pub idle: Duration,
    pub send: Duration,
}

/// What happens to a request that matched.
pub struct Route {
    /// The same for the same name across reloads: metrics are indexed by it.
    pub id: u32,
    pub name: Arc<str>,
    pub chain: Chain,
    pub upstream: Arc<Upstream>,
    /// Bytes of the canonical path to remove before forwarding.
    pub strip_prefix_bytes: usize,
    pub websocket: bool,
    pub response_timeout: Duration,
}

impl Listener {
    pub fn is_trusted_proxy(&self, ip: std::net::IpAddr) -> bool {
        self.trusted_proxies.iter().any(|p| p.contains(ip))
    }
}
