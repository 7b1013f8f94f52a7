//! `type = "ip"`: which addresses may call.

use super::raw::Policies;
use super::{Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::outcome::{Rejection, RejectionKind};
use crate::units::Prefix;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIp {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Addresses and prefixes that may call. Empty: all that are not denied.
    #[serde(default)]
    pub allow: Vec<Prefix>,
    /// Addresses and prefixes that may not, even where `allow` names them.
    #[serde(default)]
    pub deny: Vec<Prefix>,
}

impl RawIp {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<IpRules> {
        if self.allow.is_empty() && self.deny.is_empty() {
            c.error(
                "neither allow nor deny names an address",
                "add a prefix, or remove the policy",
            );
            return None;
        }
        Some(IpRules {
            rule,
            allow: (!self.allow.is_empty()).then(|| Prefixes::new(&self.allow)),
            deny: Prefixes::new(&self.deny),
        })
    }
}

pub struct IpRules {
    rule: Arc<str>,
    allow: Option<Prefixes>,
    deny: Prefixes,
}

impl Policy for IpRules {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let ip = cx.peer.ip;
        let allowed = self.allow.as_ref().is_none_or(|allow| allow.contain(ip));
        if allowed && !self.deny.contain(ip) {
            return Ok(());
        }
        Err(Rejection::new(
            RejectionKind::AddressDenied,
            self.rule.clone(),
            "This address may not call this API.",
        ))
    }
}

/// Disjoint prefixes as sorted ranges: one binary search per look-up, however long the list.
struct Prefixes {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Prefixes {
    fn new(list: &[Prefix]) -> Prefixes {
        let v4: Vec<Ipv4Net> = list.iter().filter_map(|p| v4_of(p.0)).collect();
        let v6: Vec<Ipv6Net> = list
            .iter()
            .filter_map(|p| match p.0 {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            })
            .collect();
        // Aggregation sorts and removes what another prefix covers.
        Prefixes {
            v4: Ipv4Net::aggregate(&v4)
                .iter()
                .map(|n| (n.network().into(), n.broadcast().into()))
                .collect(),
            v6: Ipv6Net::aggregate(&v6)
                .iter()
                .map(|n| (n.network().into(), n.broadcast().into()))
                .collect(),
        }
    }

    fn contain(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(v4) => within(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => within(&self.v6, u128::from(v6)),
        }
    }
}

/// An IPv4 prefix, also where it was written as an IPv4-mapped IPv6 one.
fn v4_of(net: IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(v4) => Some(v4),
        IpNet::V6(v6) => {
            let len = v6.prefix_len().checked_sub(96)?;
            Ipv4Net::new(v6.addr().to_ipv4_mapped()?, len).ok()
        }
    }
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after > 0 && value <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, error, policy};
    use crate::diagnose::Files;
    use crate::outcome::RejectionKind;

    #[test]
    fn table() {
        let allow = policy(
            "type = \"ip\"\nname = \"a\"\nallow = [\"10.0.0.0/8\", \"10.2.0.0/16\", \"2001:db8::/32\"]\ndeny = [\"10.1.0.0/16\"]",
        );
        let deny = policy(
            "type = \"ip\"\nname = \"d\"\ndeny = [\"10.1.0.0/16\", \"::ffff:10.3.0.0/112\"]",
        );
        for (ip, by_allow, by_deny) in [
            ("10.0.0.0", true, true),
            ("10.255.255.255", true, true),
            ("9.255.255.255", false, true),
            ("11.0.0.0", false, true),
            ("10.1.0.0", false, false),
            ("10.1.255.255", false, false),
            ("10.2.0.1", true, true),
            ("10.3.0.1", true, false),
            ("2001:db8::1", true, true),
            ("2001:db9::1", false, true),
        ] {
            for (rules, passes) in [(&allow, by_allow), (&deny, by_deny)] {
                let found = Case::get().ip(ip).check(&*rules.policy);
                assert_eq!(found.is_ok(), passes, "{ip} by {}", rules.name);
                if let Err(r) = found {
                    assert_eq!(r.kind, RejectionKind::AddressDenied);
                    assert_eq!(r.rule, rules.name);
                }
            }
        }
    }

    #[test]
    fn empty_is_a_mistake() {
        let found = error("type = \"ip\"\nname = \"a\"", &Files::default());
        assert!(found.contains("neither allow nor deny"), "{found}");
    }
}
