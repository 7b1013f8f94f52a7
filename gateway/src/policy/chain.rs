//! The chain of a route's policies, and the only place that can make a [`Permit`]: the forwarder
//! demands one, so no byte goes upstream that this file did not let through.

use super::raw::Policies;
use super::{Cost, Identity, Mode, Named, PolicyCx, ShadowHit};
use crate::diagnose::{Compiler, did_you_mean};
use crate::http::RequestHead;
use crate::outcome::{Rejection, RejectionKind};
use std::sync::Arc;

/// Proof that every enforced policy of the route has let the request pass.
#[derive(Debug)]
pub struct Permit {
    body_limit: Option<u64>,
}

impl Permit {
    /// The largest body the policies let through, for the edge to enforce while it streams.
    pub fn body_limit(&self) -> Option<u64> {
        self.body_limit
    }
}

/// What the head alone decides.
#[derive(Debug)]
pub enum Admission {
    Permit(Permit),
    /// Some policy must see the body first.
    NeedsBody(PendingBody),
}

/// A request whose head has passed and whose body is awaited. Read at most [`max`](Self::max) bytes;
/// then call [`check_body`](Self::check_body), or [`exceeded`](Self::exceeded) when there is more.
#[derive(Debug)]
#[must_use = "a pending body ends in check_body or exceeded"]
pub struct PendingBody {
    max: u64,
    /// Positions of shadow policies that refused the head: their opinion on the body is not asked.
    refused: Vec<usize>,
}

impl PendingBody {
    /// Bytes to read before deciding.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Decides on the complete body.
    pub fn check_body(
        self,
        chain: &Chain,
        cx: &mut PolicyCx<'_>,
        body: &[u8],
        shadowed: &mut Vec<ShadowHit>,
    ) -> Result<Permit, Rejection> {
        for (i, named) in chain.0.iter().enumerate() {
            if named.policy.wants_body(cx.head).is_none() || self.refused.contains(&i) {
                continue;
            }
            let fields = cx.response_fields.len();
            if let Err(refusal) = named.policy.check_body(cx, body) {
                settle(named, refusal, cx, fields, shadowed)?;
            }
        }
        Ok(chain.permit(cx.head))
    }

    /// The body is larger than [`max`](Self::max). Enforced, that is a refusal; where only shadow
    /// policies wanted the body, they are recorded and the request goes on, unread.
    pub fn exceeded(
        self,
        chain: &Chain,
        cx: &mut PolicyCx<'_>,
        shadowed: &mut Vec<ShadowHit>,
    ) -> Result<Permit, Rejection> {
        for (i, named) in chain.0.iter().enumerate() {
            let too_large = named
                .policy
                .wants_body(cx.head)
                .is_some_and(|max| max <= self.max);
            if too_large && !self.refused.contains(&i) {
                let refusal = Rejection::new(
                    RejectionKind::BodyTooLarge,
                    named.name.clone(),
                    "The body is larger than this API takes.",
                )
                .closing();
                let fields = cx.response_fields.len();
                settle(named, refusal, cx, fields, shadowed)?;
            }
        }
        Ok(chain.permit(cx.head))
    }
}

/// A route's policies, in order.
#[derive(Clone, Debug, Default)]
pub struct Chain(Vec<Arc<Named>>);

impl Chain {
    pub fn new(policies: Vec<Arc<Named>>) -> Chain {
        Chain(policies)
    }

    /// Looks the names up, at the path of their list. Warns where the order is wasteful or useless.
    pub fn compile(names: &[String], all: &Policies, c: &mut Compiler<'_>) -> Option<Chain> {
        let mut chain = Vec::new();
        for (i, name) in names.iter().enumerate() {
            match all.get(name.as_str()) {
                Some(named) => chain.push(named.clone()),
                None => c.at(format!("[{i}]"), |c| {
                    c.error(
                        format!("there is no policy \"{name}\""),
                        did_you_mean(name, all.keys().map(|k| &**k)).map_or_else(
                            || "define it under [[policies]]".into(),
                            |k| format!("did you mean \"{k}\"?"),
                        ),
                    )
                }),
            }
        }
        if chain.len() != names.len() {
            return None;
        }
        let chain = Chain(chain);
        chain.warn_of_order(c);
        Some(chain)
    }

    fn warn_of_order(&self, c: &mut Compiler<'_>) {
        let mut costly: Option<&Named> = None;
        let mut authenticated = false;
        for (i, named) in self.0.iter().enumerate() {
            let policy = &named.policy;
            // What needs the identity has to wait for authentication, whatever that costs.
            let could_go_first = policy.cost() == Cost::Cheap && !policy.needs_identity();
            if let (Some(before), true) = (costly, could_go_first) {
                c.at(format!("[{i}]"), |c| {
                    c.warn(
                        format!("\"{}\" is cheap but stands behind the costly \"{}\"", named.name, before.name),
                        "put what refuses cheaply first: then an attacker cannot make you pay for the rest",
                    )
                });
            }
            if policy.needs_identity() && !authenticated {
                c.at(format!("[{i}]"), |c| {
                    c.warn(
                        format!(
                            "\"{}\" asks who the caller is, but no policy before it finds out",
                            named.name
                        ),
                        "put an api_key, jwt or any_of policy before it",
                    )
                });
            }
            authenticated |= policy.authenticates();
            if policy.cost() == Cost::Costly {
                costly = costly.or(Some(named));
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The policies' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|named| &named.name)
    }

    /// Asks every policy about the head, in order, to the first enforced refusal. What shadow policies
    /// would have refused is added to `shadowed`.
    pub fn check_head(
        &self,
        cx: &mut PolicyCx<'_>,
        shadowed: &mut Vec<ShadowHit>,
    ) -> Result<Admission, Rejection> {
        let mut refused = Vec::new();
        // Most bytes that some enforced policy, and that some shadow policy, wants to see.
        let (mut enforced, mut shadow): (Option<u64>, Option<u64>) = (None, None);
        // Whom shadow policies believe the caller to be: only other shadow policies may read it.
        let mut shadow_identity = None;
        for (i, named) in self.0.iter().enumerate() {
            let fields = cx.response_fields.len();
            let checked = match named.mode {
                Mode::Enforce => named.policy.check(cx),
                Mode::Shadow => check_in_shadow(named, cx, &mut shadow_identity),
            };
            if let Err(refusal) = checked {
                settle(named, refusal, cx, fields, shadowed)?;
                refused.push(i);
                continue;
            }
            if let Some(max) = named.policy.wants_body(cx.head) {
                match named.mode {
                    // The smallest enforced maximum decides: beyond it the answer is no.
                    Mode::Enforce => enforced = Some(enforced.map_or(max, |old| old.min(max))),
                    Mode::Shadow => shadow = Some(shadow.map_or(max, |old| old.max(max))),
                }
            }
        }
        Ok(match enforced.or(shadow) {
            Some(max) => Admission::NeedsBody(PendingBody { max, refused }),
            None => Admission::Permit(self.permit(cx.head)),
        })
    }

    fn permit(&self, head: &RequestHead<'_>) -> Permit {
        Permit {
            body_limit: self.body_limit(head),
        }
    }

    /// The largest body that the enforced policies let through for this request.
    pub fn body_limit(&self, head: &RequestHead<'_>) -> Option<u64> {
        let enforced = self.0.iter().filter(|named| named.mode == Mode::Enforce);
        enforced
            .filter_map(|named| named.policy.body_limit(head))
            .min()
    }
}

/// Asks a policy whose answer must change nothing: who the caller is, what the upstream gets, and what
/// the client is told stay as they were.
fn check_in_shadow(
    named: &Named,
    cx: &mut PolicyCx<'_>,
    shadow_identity: &mut Option<Arc<Identity>>,
) -> Result<(), Rejection> {
    let (fields, strips) = (cx.response_fields.len(), cx.strip.len());
    let real = cx.identity.clone();
    if shadow_identity.is_some() {
        *cx.identity = shadow_identity.clone();
    }
    let checked = named.policy.check(cx);
    *shadow_identity = std::mem::replace(cx.identity, real);
    cx.strip.truncate(strips);
    cx.response_fields.truncate(fields);
    checked
}

/// An enforced refusal ends the chain; a shadow one is written down and leaves no other trace.
fn settle(
    named: &Named,
    refusal: Rejection,
    cx: &mut PolicyCx<'_>,
    fields: usize,
    shadowed: &mut Vec<ShadowHit>,
) -> Result<(), Rejection> {
    if named.mode == Mode::Enforce {
        return Err(refusal);
    }
    cx.response_fields.truncate(fields);
    shadowed.push(ShadowHit {
        rule: named.name.clone(),
        kind: refusal.kind,
    });
    Ok(())
}

#[cfg(test)]
mod tests;
