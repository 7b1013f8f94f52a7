//! Policies: one file each (its raw config, compiled form, decision, tests). Pure and synchronous:
//! a policy sees a request head (or body), the time and shared tables, and says yes or who refused.
//! `chain` composes them and is the only place that can make a [`Permit`](chain::Permit).

use crate::clock::Now;
use crate::http::RequestHead;
use crate::limit::LimitTable;
use crate::outcome::{Rejection, RejectionKind};
use crate::route::Params;
use crate::tls::TlsFacts;
use std::net::IpAddr;
use std::sync::Arc;

/// Whether a policy's refusal counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A refusal ends the exchange.
    #[default]
    Enforce,
    /// A refusal is logged and counted; the request goes on.
    Shadow,
}

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

/// One compiled policy.
pub trait Policy: Send + Sync {
    /// Decides on the head. `Err` is a refusal that names this policy.
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection>;

    /// Upper bound of the body this policy wants to see for this request, `None` if it needs none.
    fn wants_body(&self, _head: &RequestHead<'_>) -> Option<u64> {
        None
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
pub mod chain;
pub fn compile_all(
    _: Vec<toml::Value>,
    _: &mut crate::diagnose::Compiler<'_>,
) -> std::collections::HashMap<String, Arc<Named>> {
    Default::default()
}
