//! The chain of a route's policies, and the only place that can make a [`Permit`]: the forwarder
//! demands one, so no byte goes upstream that this file did not let through.

use super::raw::Policies;
use super::{Cost, Mode, Named, PolicyCx, ShadowHit};
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
        for (i, named) in self.0.iter().enumerate() {
            let fields = cx.response_fields.len();
            if let Err(refusal) = named.policy.check(cx) {
                settle(named, refusal, cx, fields, shadowed)?;
                refused.push(i);
                continue;
            }
            if named.mode == Mode::Shadow {
                // A limit that is not enforced is none of the client's business.
                cx.response_fields.truncate(fields);
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
        let enforced = self.0.iter().filter(|named| named.mode == Mode::Enforce);
        Permit {
            body_limit: enforced
                .filter_map(|named| named.policy.body_limit(head))
                .min(),
        }
    }
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
mod tests {
    use super::super::api_key::mint;
    use super::super::compile_all;
    use super::super::testing::{Case, policies};
    use super::*;
    use crate::diagnose::Files;

    fn chain(toml: &str) -> Chain {
        Chain::new(policies(toml, &Files::default()).unwrap())
    }

    fn run(
        chain: &Chain,
        case: &mut Case,
        body: &[u8],
    ) -> (Result<Option<u64>, RejectionKind>, Vec<ShadowHit>) {
        let mut shadowed = Vec::new();
        let out = case.with(|cx| {
            let permit = match chain.check_head(cx, &mut shadowed)? {
                Admission::Permit(permit) => permit,
                Admission::NeedsBody(pending) if body.len() as u64 > pending.max() => {
                    pending.exceeded(chain, cx, &mut shadowed)?
                }
                Admission::NeedsBody(pending) => {
                    pending.check_body(chain, cx, body, &mut shadowed)?
                }
            };
            Ok(permit.body_limit())
        });
        (out.map_err(|r: Rejection| r.kind), shadowed)
    }

    const DENY: &str = "[[policies]]\ntype = \"ip\"\nname = \"ip\"\ndeny = [\"192.0.2.1\"]\n";
    const SCHEMA: &str = "[[policies]]\ntype = \"json_schema\"\nname = \"s\"\nmax_body = \"10B\"\nschema = '{\"type\":\"object\"}'\n";

    #[test]
    fn an_empty_chain_permits() {
        assert_eq!(
            run(&Chain::default(), &mut Case::get(), b""),
            (Ok(None), vec![])
        );
    }

    #[test]
    fn shadow_records_and_passes() {
        let shadow = format!("{DENY}mode = \"shadow\"\n");
        let hit = ShadowHit {
            rule: "ip".into(),
            kind: RejectionKind::AddressDenied,
        };
        assert_eq!(
            run(&chain(DENY), &mut Case::get(), b"").0,
            Err(RejectionKind::AddressDenied)
        );
        assert_eq!(
            run(&chain(&shadow), &mut Case::get(), b""),
            (Ok(None), vec![hit])
        );
        assert_eq!(
            run(&chain(&shadow), &mut Case::get().ip("192.0.2.2"), b""),
            (Ok(None), vec![])
        );
    }

    #[test]
    fn bodies_enforced_and_shadowed() {
        use RejectionKind::*;
        let shadow = format!("{SCHEMA}mode = \"shadow\"\n");
        for (body, kind) in [
            (&b"{}"[..], None),
            (b"[]", Some(BodyInvalid)),
            (b"{\"a\":1,\"a\":1}", Some(BodyTooLarge)),
            (b"{", Some(MalformedBody)),
        ] {
            let mut case = Case::post("application/json", 2);
            let (out, hits) = run(&chain(SCHEMA), &mut case, body);
            assert_eq!(out.err(), kind);
            assert!(hits.is_empty());
            let (out, hits) = run(&chain(&shadow), &mut case, body);
            assert_eq!(out, Ok(None), "a shadow policy never limits");
            assert_eq!(hits.first().map(|h| h.kind), kind);
            assert!(hits.len() <= 1);
        }
        // A shadow policy that refused the head is not asked again.
        let (out, hits) = run(&chain(&shadow), &mut Case::post("text/plain", 2), b"[]");
        assert_eq!((out, hits.len()), (Ok(None), 1));
    }

    #[test]
    fn the_smallest_limit_counts() {
        let toml = "[[policies]]\ntype = \"request\"\nname = \"a\"\nmax_body = \"20B\"\n\
                    [[policies]]\ntype = \"request\"\nname = \"b\"\nmax_body = \"10B\"\n\
                    [[policies]]\ntype = \"request\"\nname = \"c\"\nmode = \"shadow\"\nmax_body = \"1B\"\n";
        assert_eq!(run(&chain(toml), &mut Case::get(), b"").0, Ok(Some(10)));
        assert_eq!(
            run(
                &chain(&format!("{toml}{SCHEMA}")),
                &mut Case::post("application/json", 2),
                b"{}"
            )
            .0,
            Ok(Some(10))
        );
    }

    #[test]
    fn shadow_limits_do_not_show() {
        let toml = "[[policies]]\ntype = \"rate_limit\"\nname = \"l\"\nmode = \"shadow\"\nrate = \"1/h\"\nburst = 1\n";
        let (chain, mut case) = (chain(toml), Case::get());
        assert!(run(&chain, &mut case, b"").1.is_empty());
        assert_eq!(
            run(&chain, &mut case, b"").1[0].kind,
            RejectionKind::RateLimited
        );
        assert!(case.response_fields.is_empty());
    }

    #[test]
    fn ip_key_role_limit() {
        let key = mint("a").unwrap();
        let toml = format!(
            "[[policies]]\ntype = \"ip\"\nname = \"ip\"\ndeny = [\"10.0.0.0/8\"]\n\
             [[policies]]\ntype = \"api_key\"\nname = \"k\"\nkeys = [{}]\n\
             [[policies]]\ntype = \"access\"\nname = \"a\"\n\
             [[policies]]\ntype = \"rate_limit\"\nname = \"l\"\nkey = \"api_key\"\nrate = \"1/h\"\nburst = 1\n",
            key.inline_toml()
        );
        let chain = chain(&toml);
        let mut case = Case::get();
        assert_eq!(
            run(&chain, &mut case, b"").0,
            Err(RejectionKind::CredentialsMissing)
        );
        let mut case = case.header("x-api-key", &key.key);
        assert_eq!(run(&chain, &mut case, b"").0, Ok(None));
        assert_eq!(
            run(&chain, &mut case, b"").0,
            Err(RejectionKind::RateLimited)
        );
    }

    #[test]
    fn names_and_order() {
        let toml = format!("{SCHEMA}{DENY}[[policies]]\ntype = \"access\"\nname = \"a\"\n");
        #[derive(serde::Deserialize)]
        struct File {
            policies: Vec<Option<super::super::RawPolicy>>,
        }
        let file: File = toml::from_str(&toml).unwrap();
        let files = Files::default();
        let mut c = Compiler::new(&files);
        let all = compile_all(&file.policies, &mut c);
        let mut order = |names: &[&str]| {
            c.warnings.clear();
            c.errors.clear();
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            let chain = Chain::compile(&names, &all, &mut c);
            (
                chain.is_some(),
                c.warnings.len(),
                c.errors.first().map(|e| e.hint.clone()),
            )
        };
        assert_eq!(order(&["ip", "s"]), (true, 0, None));
        assert_eq!(order(&["s", "ip"]), (true, 1, None));
        assert_eq!(order(&["a"]), (true, 1, None));
        assert_eq!(
            order(&["ipp"]),
            (false, 0, Some("did you mean \"ip\"?".into()))
        );
    }
}
