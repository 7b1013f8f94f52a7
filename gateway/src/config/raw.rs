//! The config file as it is written: field for field, with defaults, and no meaning yet.
//! `deny_unknown_fields` everywhere: a misspelt key must not silently switch a protection off.

use crate::http::{AmbiguousPath, Underscores};
use crate::units::{Bytes, Prefix, Span};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[server]`: the process as a whole.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Data-plane threads; 0 is one per core.
    pub workers: usize,
    /// The unprivileged user the data plane runs as, when started as root.
    pub user: String,
    /// How long requests in flight may take to finish on SIGTERM.
    pub drain_timeout: Span,
    /// Open client connections over all cores; beyond it new ones are closed at once.
    pub connections_max: usize,
    /// Keys the limiter table may hold.
    pub limiter_keys_max: usize,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            workers: 0,
            user: "nobody".into(),
            drain_timeout: Span::secs(30),
            connections_max: 100_000,
            limiter_keys_max: 1 << 20,
        }
    }
}

/// `[admin]`: how operators reach the daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Unix socket of the admin API, mode 0600.
    pub socket: PathBuf,
    /// TCP address that serves `/metrics` only. Absent: metrics are on the unix socket alone.
    pub metrics: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            socket: "/run/gateway/admin.sock".into(),
            metrics: None,
        }
    }
}

/// `[[listeners]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub name: String,
    /// `ADDRESS:PORT`; IPv6 in brackets.
    pub address: String,
    pub tls: Option<ListenerTls>,
    /// Peers whose `X-Forwarded-For` is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<Prefix>,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub limits: HeadLimits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The first one serves clients that send no server name, or an unknown one.
    pub certificates: Vec<Certificate>,
    /// `1.2` or `1.3`.
    #[serde(default)]
    pub min_version: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// Every wait for a client has an end.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    pub handshake: Span,
    /// First byte to end of the head.
    pub head: Span,
    /// Longest wait for the next part of a body; also extended only as fast as `body_rate_min` allows.
    pub body: Span,
    /// Bytes per second a client must send a body with, on average, once `body` has passed.
    pub body_rate_min: Bytes,
    /// Keep-alive without a request.
    pub idle: Span,
    /// Longest time a client may take to accept one part (64 KiB) of a response.
    pub send: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Span::secs(10),
            head: Span::secs(10),
            body: Span::secs(30),
            body_rate_min: Bytes(512),
            idle: Span::secs(60),
            send: Span::secs(30),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadLimits {
    pub head_bytes: Bytes,
    pub target_bytes: Bytes,
    pub fields: usize,
    /// Body bytes where no policy of the route sets its own limit.
    pub body_bytes: Bytes,
    /// Requests on one connection before it is closed.
    pub requests_per_connection: u64,
    pub underscores: Underscores,
    /// `%2F` in a path.
    pub encoded_slash: AmbiguousPath,
    /// `;` in a path.
    pub path_parameters: AmbiguousPath,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            head_bytes: Bytes(16 << 10),
            target_bytes: Bytes(8 << 10),
            fields: 100,
            body_bytes: Bytes(10 << 20),
            requests_per_connection: 100_000,
            underscores: Underscores::Drop,
            encoded_slash: AmbiguousPath::Refuse,
            path_parameters: AmbiguousPath::Refuse,
        }
    }
}

/// `[[upstreams]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub name: String,
    /// `ADDRESS:PORT` or `NAME:PORT`; names are resolved at load.
    pub targets: Vec<String>,
    #[serde(default)]
    pub tls: Option<UpstreamTls>,
    #[serde(default = "default_connect")]
    pub connect_timeout: Span,
    /// Request sent to response head; and the longest pause within a response.
    #[serde(default = "default_response")]
    pub response_timeout: Span,
    /// Idle keep-alive connections per core and target.
    #[serde(default = "default_idle")]
    pub idle_connections: usize,
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Span,
}

fn default_connect() -> Span {
    Span::secs(2)
}
fn default_response() -> Span {
    Span::secs(30)
}
fn default_idle() -> usize {
    128
}
fn default_idle_timeout() -> Span {
    Span::secs(50)
}

/// TLS towards the upstream: always verified.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// Sent as SNI and checked against the certificate.
    pub server_name: String,
    /// PEM bundle of accepted authorities; absent: the public web's roots.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// `[[routes]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub name: String,
    /// Exact names or `*.example.com`; empty: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// `/exact`, `/prefix/*` or `/with/{parameters}`.
    pub path: String,
    /// Empty: any method.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Field name to required value; an empty value means present.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub upstream: String,
    /// Names of policies, in the order they decide.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Removes the route's literal prefix before forwarding.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Lets a WebSocket handshake through.
    #[serde(default)]
    pub websocket: bool,
    /// Overrides the upstream's.
    #[serde(default)]
    pub response_timeout: Option<Span>,
}
