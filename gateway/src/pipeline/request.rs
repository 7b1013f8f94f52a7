//! From a complete head to a plan: client address, route, policies. Synchronous and pure: everything
//! it needs comes in, everything it decides goes out.

use super::exchange::{Exchange, RouteRef};
use crate::clock::Now;
use crate::config::snapshot::{Listener, Route, Snapshot};
use crate::http::{Framing, RequestHead};
use crate::limit::{BanTable, LimitTable};
use crate::outcome::{Rejection, RejectionKind};
use crate::policy::chain::{Admission, PendingBody, Permit};
use crate::policy::{Peer, PolicyCx};
use crate::route::{NoRoute, Params};
use crate::units::unmapped;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// What every stage may read.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub snapshot: &'a Snapshot,
    pub listener: &'a Listener,
    pub limits: &'a LimitTable,
    pub bans: &'a BanTable,
    pub now: Now,
}

/// What policies leave behind for the forwarder and for the response; reused by the connection.
#[derive(Default)]
pub struct Notes {
    /// Fields for the response, whatever the outcome.
    pub response_fields: Vec<(&'static str, String)>,
    /// Request fields that must not reach the upstream.
    pub strip: Vec<Arc<str>>,
}

impl Notes {
    pub fn clear(&mut self) {
        self.response_fields.clear();
        self.strip.clear();
    }
}

/// A request that may go upstream: there is a permit.
pub struct Plan {
    pub permit: Permit,
    pub route: Arc<Route>,
    /// Most bytes its body may have.
    pub body_bytes_max: u64,
}

/// A request whose body has to be seen first.
pub struct AwaitingBody {
    pending: PendingBody,
    route: Arc<Route>,
}

impl AwaitingBody {
    /// Bytes to read before deciding.
    pub fn bytes_max(&self) -> u64 {
        self.pending.max()
    }
}

pub enum Step {
    Forward(Plan),
    NeedsBody(AwaitingBody),
}

/// Decides on the head alone.
pub fn request(
    stage: Stage<'_>,
    head: &RequestHead<'_>,
    ex: &mut Exchange,
    notes: &mut Notes,
) -> Result<Step, Rejection> {
    describe(head, ex);
    ex.client = client_address(stage.listener, unmapped(ex.socket.ip()), head);
    if stage.bans.covers(ex.client, stage.now.mono_ns).is_some() {
        return Err(Rejection::new(
            RejectionKind::Banned,
            rule(&RULE_BANS),
            "this address is banned for a while",
        )
        .closing());
    }
    let (route, params) = find_route(stage, head)?;
    ex.route = Some(RouteRef {
        id: route.id,
        name: route.name.clone(),
    });

    let mut shadowed = std::mem::take(&mut ex.shadowed);
    let mut cx = policy_cx(stage, head, &params, &route, ex, notes);
    let admission = route.chain.check_head(&mut cx, &mut shadowed);
    ex.shadowed = shadowed;
    match admission? {
        Admission::Permit(permit) => Ok(Step::Forward(plan(stage, head, permit, route)?)),
        Admission::NeedsBody(pending) => Ok(Step::NeedsBody(AwaitingBody { pending, route })),
    }
}

/// What has arrived of a body that a policy wants to see.
#[derive(Clone, Copy)]
pub enum Collected<'a> {
    Whole(&'a [u8]),
    /// More than [`AwaitingBody::bytes_max`].
    TooLarge,
}

/// Decides on the body.
pub fn body(
    stage: Stage<'_>,
    head: &RequestHead<'_>,
    awaiting: AwaitingBody,
    body: Collected<'_>,
    ex: &mut Exchange,
    notes: &mut Notes,
) -> Result<Plan, Rejection> {
    let AwaitingBody { pending, route } = awaiting;
    let params = match stage.snapshot.table.find(head) {
        Ok(found) => found.params,
        Err(_) => Params::default(), // cannot be: the same head has matched before
    };
    let mut shadowed = std::mem::take(&mut ex.shadowed);
    let mut cx = policy_cx(stage, head, &params, &route, ex, notes);
    let permit = match body {
        Collected::Whole(body) => pending.check_body(&route.chain, &mut cx, body, &mut shadowed),
        Collected::TooLarge => pending.exceeded(&route.chain, &mut cx, &mut shadowed),
    };
    ex.shadowed = shadowed;
    plan(stage, head, permit?, route)
}

/// A permit in hand, only the size is left to judge: the policies' limit, or else the listener's.
fn plan(
    stage: Stage<'_>,
    head: &RequestHead<'_>,
    permit: Permit,
    route: Arc<Route>,
) -> Result<Plan, Rejection> {
    let limit = permit.body_limit().unwrap_or(stage.listener.body_bytes_max);
    match head.framing {
        Framing::Length(n) if n > limit => Err(too_large(limit)),
        _ => Ok(Plan {
            permit,
            route,
            body_bytes_max: limit,
        }),
    }
}

/// The refusal of a body that is longer than `limit`.
pub fn too_large(limit: u64) -> Rejection {
    Rejection::new(
        RejectionKind::BodyTooLarge,
        rule(&RULE_BODY),
        format!("a body may have {limit} bytes here"),
    )
    .closing()
}

fn policy_cx<'a>(
    stage: Stage<'a>,
    head: &'a RequestHead<'a>,
    params: &'a Params<'a>,
    route: &'a Route,
    ex: &'a mut Exchange,
    notes: &'a mut Notes,
) -> PolicyCx<'a> {
    PolicyCx {
        head,
        peer: Peer {
            ip: ex.client,
            tls: ex.tls.as_deref(),
        },
        params,
        route: &route.name,
        now: stage.now,
        limits: stage.limits,
        identity: &mut ex.identity,
        response_fields: &mut notes.response_fields,
        strip: &mut notes.strip,
    }
}

/// What the record says of the request; capped by the head limits.
fn describe(head: &RequestHead<'_>, ex: &mut Exchange) {
    ex.method.push_str(head.method);
    ex.host.push_str(head.host);
    ex.path.push_str(head.path);
    if let Some(agent) = head.header("user-agent") {
        ex.user_agent
            .push_str(&String::from_utf8_lossy(&agent[..agent.len().min(256)]));
    }
}

fn find_route<'h>(
    stage: Stage<'h>,
    head: &'h RequestHead<'_>,
) -> Result<(Arc<Route>, Params<'h>), Rejection> {
    match stage.snapshot.table.find(head) {
        Ok(found) => {
            let route = stage.snapshot.routes[found.index].clone();
            Ok((route, found.params))
        }
        Err(NoRoute::NotFound) => Err(Rejection::new(
            RejectionKind::NotFound,
            rule(&RULE_ROUTE),
            "no route serves this host and path",
        )),
        Err(NoRoute::MethodNotAllowed { allow }) => Err(Rejection::new(
            RejectionKind::MethodNotAllowed,
            rule(&RULE_ROUTE),
            "this path has no such method",
        )
        .field("Allow", allow)),
    }
}

/// The socket's peer; or, where that is a trusted proxy, the last address in `X-Forwarded-For` that
/// no trusted proxy added: everything to its left is hearsay.
fn client_address(listener: &Listener, socket: IpAddr, head: &RequestHead<'_>) -> IpAddr {
    if listener.trusted_proxies.is_empty() || !listener.is_trusted_proxy(socket) {
        return socket;
    }
    let mut client = socket;
    let fields = head
        .headers
        .iter()
        .rev()
        .filter(|h| h.is("x-forwarded-for"));
    for entry in fields.flat_map(|h| h.value.rsplit(|b| *b == b',')) {
        // What cannot be read is not skipped: to its left stands what anybody could have written.
        let ip = std::str::from_utf8(entry.trim_ascii())
            .ok()
            .and_then(parse_forwarded);
        let Some(ip) = ip else { return client };
        client = ip;
        if !listener.is_trusted_proxy(ip) {
            return client;
        }
    }
    client
}

/// An address, with or without port and brackets, as proxies write them.
fn parse_forwarded(entry: &str) -> Option<IpAddr> {
    let ip = entry
        .parse::<IpAddr>()
        .ok()
        .or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()))?;
    Some(unmapped(ip))
}

fn rule(name: &'static LazyLock<Arc<str>>) -> Arc<str> {
    Arc::clone(name)
}

static RULE_BANS: LazyLock<Arc<str>> = LazyLock::new(|| "bans".into());
static RULE_ROUTE: LazyLock<Arc<str>> = LazyLock::new(|| "route".into());
static RULE_BODY: LazyLock<Arc<str>> = LazyLock::new(|| "http.body".into());
