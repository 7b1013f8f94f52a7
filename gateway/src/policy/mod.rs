//! Policies: one file each (its raw config, compiled form, decision, tests). Pure and synchronous:
//! a policy sees a request head (or body), the time and shared tables, and says yes or who refused.
//! `chain` composes them and is the only place that can make a [`Permit`](chain::Permit).

pub mod access;
pub mod any_of;
pub mod api_key;
pub mod chain;
pub mod ip;
pub mod json;
pub mod jwt;
pub mod params;
pub mod rate_limit;
pub mod raw;
pub mod request_rules;
pub mod schema;
#[cfg(test)]
pub(crate) mod testing;

pub use chain::{Admission, Chain, PendingBody, Permit};
pub use raw::{RawPolicy, compile, compile_all};

use crate::clock::Now;
use crate::http::RequestHead;
use crate::limit::LimitTable;
use crate::outcome::{Rejection, RejectionKind};
use crate::route::Params;
use crate::tls::TlsFacts;
use std::net::IpAddr;
use std::sync::Arc;

pub use crate::limit::Mode;

/// Who the caller is, as an authentication policy established it. Shared: made once per key or token.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Identity {
    /// Owner of the key, or the token's `sub`.
    pub subject: String,
    /// The policy that established it, and how: `api-key` or `jwt`.
    pub policy: Arc<str>,
    pub method: &'static str,
    /// The key's id or the token's `kid`/`jti`: never a secret.
    pub credential_id: Option<String>,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
}

/// The caller's side of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The client's address: the socket's, or the one a trusted proxy vouched for. Never IPv4-mapped.
    pub ip: IpAddr,
    pub tls: Option<&'a TlsFacts>,
}

/// What a shadow-mode policy would have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowHit {
    pub rule: Arc<str>,
    pub kind: RejectionKind,
}

/// What one decision may read and what it may leave behind.
pub struct PolicyCx<'a> {
    pub head: &'a RequestHead<'a>,
    pub peer: Peer<'a>,
    pub params: &'a Params<'a>,
    pub route: &'a str,
    pub now: Now,
    pub limits: &'a LimitTable,
    /// Set by authentication, read by authorisation, limits, logs and the forwarder.
    pub identity: &'a mut Option<Arc<Identity>>,
    /// Fields for the response to the client whatever the outcome: `RateLimit`, `RateLimit-Policy`.
    pub response_fields: &'a mut Vec<(&'static str, String)>,
    /// Names of request fields (lower case) that must not reach the upstream: consumed credentials.
    pub strip: &'a mut Vec<Arc<str>>,
}

/// What a decision costs a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Comparisons and hash look-ups.
    Cheap,
    /// Public-key cryptography, or parsing a body.
    Costly,
}

/// One compiled policy.
pub trait Policy: Send + Sync {
    /// Decides on the head. `Err` is a refusal that names this policy.
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection>;

    /// Upper bound of the body this policy wants to see for this request, `None` if it needs none.
    fn wants_body(&self, _head: &RequestHead<'_>) -> Option<u64> {
        None
    }

    /// The largest body this policy lets through for this request. The edge enforces it on bodies
    /// that arrive in chunks; a declared length is judged by `check`.
    fn body_limit(&self, _head: &RequestHead<'_>) -> Option<u64> {
        None
    }

    /// What a decision costs, for the warning about order.
    fn cost(&self) -> Cost {
        Cost::Cheap
    }

    /// Whether a pass means that the caller's identity is known.
    fn authenticates(&self) -> bool {
        false
    }

    /// The request field this policy takes a credential from and keeps from the upstream.
    fn consumes(&self) -> Option<&Arc<str>> {
        None
    }

    /// Whether it is of no use before authentication.
    fn needs_identity(&self) -> bool {
        false
    }

    /// Decides on the complete body, after every head check has passed.
    fn check_body(&self, _cx: &mut PolicyCx<'_>, _body: &[u8]) -> Result<(), Rejection> {
        Ok(())
    }
}

/// A policy under its configured name and mode.
pub struct Named {
    pub name: Arc<str>,
    pub mode: Mode,
    pub policy: Box<dyn Policy>,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name, self.mode)
    }
}
