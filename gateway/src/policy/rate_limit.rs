//! `type = "rate_limit"`: GCRA by address, key, subject, header, route or in all; the `RateLimit` and
//! `RateLimit-Policy` fields of draft-ietf-httpapi-ratelimit-headers on every response.

use super::raw::Policies;
use super::{Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::limit::{Window, source_of};
use crate::outcome::{Rejection, RejectionKind};
use crate::units::Rate;
use serde::Deserialize;
use siphasher::sip::SipHasher13;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRateLimit {
    /// The rule's name in logs, metrics, error bodies and in the `RateLimit` fields. Counters belong to
    /// the name, so they survive a reload.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Who shares a counter: `ip` (IPv6 by /64), `api_key`, `subject`, `header:NAME`, `route` or
    /// `global`. A caller without key, subject or that header counts by address. The client chooses its
    /// headers: put a limit by address beside one by header.
    #[serde(default = "by_ip")]
    pub key: String,
    /// Sustained rate, such as `100/s`.
    pub rate: Rate,
    /// Most requests at once from a quiet caller. Default: the rate's count.
    pub burst: Option<u64>,
}

fn by_ip() -> String {
    "ip".into()
}

impl RawRateLimit {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<RateLimit> {
        let key = match (self.key.as_str(), self.key.strip_prefix("header:")) {
            ("ip", _) => Key::Ip,
            ("api_key", _) => Key::Credential,
            ("subject", _) => Key::Subject,
            ("route", _) => Key::Route,
            ("global", _) => Key::Global,
            (_, Some(name)) if !name.is_empty() => Key::Header(name.to_ascii_lowercase()),
            _ => {
                c.at("key", |c| {
                    c.error(
                        format!("there is no key \"{}\"", self.key),
                        "use ip, api_key, subject, header:NAME, route or global",
                    )
                });
                return None;
            }
        };
        if self.burst == Some(0) {
            c.at("burst", |c| {
                c.error("a burst of 0 would refuse everything", "use at least 1")
            });
            return None;
        }
        let window = Window::new(self.rate, self.burst.unwrap_or(self.rate.count));
        Some(RateLimit {
            // Fixed keys: the id must be the same after a reload.
            limit_id: SipHasher13::new_with_keys(1, 2).hash(rule.as_bytes()),
            policy_field: policy_field(&rule, &window),
            rule,
            key,
            window,
        })
    }
}

/// `"name";q=100;w=1`, the window in whole seconds as the draft demands.
fn policy_field(rule: &str, window: &Window) -> String {
    const S: u64 = 1_000_000_000;
    let secs = window.per_ns.div_ceil(S).max(1);
    let quota = u128::from(window.count) * u128::from(secs) * u128::from(S);
    format!(
        "\"{rule}\";q={};w={secs}",
        quota / u128::from(window.per_ns.max(1))
    )
}

enum Key {
    Ip,
    Credential,
    Subject,
    /// Lower case.
    Header(String),
    Route,
    Global,
}

pub struct RateLimit {
    rule: Arc<str>,
    limit_id: u64,
    key: Key,
    window: Window,
    policy_field: String,
}

/// Callers counted by address share no counter with a key or header that has the same bytes.
const BY_ADDRESS: u64 = 0x9e37_79b9_7f4a_7c15;

impl Policy for RateLimit {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let decision = {
            let count = |id, key: &[u8]| cx.limits.check(id, key, &self.window, 1, cx.now.mono_ns);
            match self.chosen(cx) {
                Some(key) => count(self.limit_id, key),
                None => match source_of(cx.peer.ip) {
                    IpAddr::V4(ip) => count(self.limit_id ^ BY_ADDRESS, &ip.octets()),
                    IpAddr::V6(ip) => count(self.limit_id ^ BY_ADDRESS, &ip.octets()[..8]),
                },
            }
        };
        cx.response_fields
            .push(("RateLimit-Policy", self.policy_field.clone()));
        let state = state_field(&self.rule, decision.remaining, decision.reset_s);
        cx.response_fields.push(("RateLimit", state));
        if decision.allowed {
            return Ok(());
        }
        let mut digits = itoa::Buffer::new();
        Err(Rejection::new(
            RejectionKind::RateLimited,
            self.rule.clone(),
            "The limit is used up for now.",
        )
        .field("Retry-After", digits.format(decision.retry_after_s.max(1))))
    }

    fn needs_identity(&self) -> bool {
        matches!(self.key, Key::Credential | Key::Subject)
    }
}

impl RateLimit {
    /// The caller's bytes, `None` to count by address.
    fn chosen<'c>(&self, cx: &'c PolicyCx<'_>) -> Option<&'c [u8]> {
        let identity = cx.identity.as_deref();
        match &self.key {
            Key::Ip => None,
            Key::Credential => identity
                .filter(|who| who.method == "api-key")
                .and_then(|who| who.credential_id.as_deref())
                .map(str::as_bytes),
            Key::Subject => identity
                .map(|who| who.subject.as_bytes())
                .filter(|subject| !subject.is_empty()),
            Key::Header(name) => cx.head.header(name).filter(|value| !value.is_empty()),
            Key::Route => Some(cx.route.as_bytes()),
            Key::Global => Some(b""),
        }
    }
}

/// `"name";r=42;t=1`, put together without the formatting machinery: it stands on every response.
fn state_field(rule: &str, remaining: u64, reset_s: u64) -> String {
    let (mut r, mut t) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (r, t) = (r.format(remaining), t.format(reset_s));
    let mut out = String::with_capacity(rule.len() + r.len() + t.len() + 8);
    for part in ["\"", rule, "\";r=", r, ";t=", t] {
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, error, policy};
    use super::super::{Identity, Named};
    use super::*;
    use crate::diagnose::Files;

    fn limit(key: &str) -> Arc<Named> {
        policy(&format!(
            "type = \"rate_limit\"\nname = \"l\"\nkey = \"{key}\"\nrate = \"1/10s\"\nburst = 2"
        ))
    }

    #[test]
    fn fields_on_success_and_refusal() {
        let p = limit("ip");
        let mut case = Case::get();
        assert!(case.check(&*p.policy).is_ok());
        let fields = |case: &mut Case| std::mem::take(&mut case.response_fields);
        assert_eq!(
            fields(&mut case),
            [
                ("RateLimit-Policy", "\"l\";q=1;w=10".to_string()),
                ("RateLimit", "\"l\";r=1;t=10".to_string())
            ]
        );
        assert!(case.check(&*p.policy).is_ok());
        fields(&mut case);
        let r = case.check(&*p.policy).unwrap_err();
        assert_eq!(r.kind, RejectionKind::RateLimited);
        assert_eq!(r.fields, [("Retry-After", "10".to_string())]);
        assert_eq!(fields(&mut case)[1].1, "\"l\";r=0;t=20");
        case.now = case
            .now
            .plus(std::time::Duration::from_nanos(9_999_999_999));
        assert!(case.check(&*p.policy).is_err());
        case.now = case.now.plus(std::time::Duration::from_nanos(1));
        assert!(case.check(&*p.policy).is_ok());
    }

    #[test]
    fn who_shares_a_counter() {
        let key = |id: &str| Identity {
            subject: "sub".into(),
            method: "api-key",
            credential_id: Some(id.into()),
            ..Identity::default()
        };
        let at = |ip: &str| Case::get().ip(ip);
        for (by, one, other, shared) in [
            ("ip", at("192.0.2.1"), at("192.0.2.2"), false),
            ("ip", at("192.0.2.1"), at("::ffff:192.0.2.1"), true),
            ("ip", at("2001:db8::1"), at("2001:db8::2"), true),
            ("ip", at("2001:db8::1"), at("2001:db8:0:1::1"), false),
            (
                "api_key",
                at("192.0.2.1").identity(key("a")),
                at("192.0.2.2").identity(key("a")),
                true,
            ),
            (
                "api_key",
                at("192.0.2.1").identity(key("a")),
                at("192.0.2.1").identity(key("b")),
                false,
            ),
            ("api_key", at("192.0.2.1"), at("192.0.2.1"), true), // nobody: by address
            ("api_key", at("192.0.2.1"), at("192.0.2.2"), false),
            (
                "subject",
                at("192.0.2.1").identity(key("a")),
                at("192.0.2.1").identity(key("b")),
                true,
            ),
            (
                "header:X-Tenant",
                at("192.0.2.1").header("x-tenant", "a"),
                at("192.0.2.2").header("X-TENANT", "a"),
                true,
            ),
            (
                "header:X-Tenant",
                at("192.0.2.1").header("x-tenant", "a"),
                at("192.0.2.1").header("x-tenant", "b"),
                false,
            ),
            ("header:X-Tenant", at("192.0.2.1"), at("192.0.2.2"), false), // absent: by address
            (
                "header:X-Tenant",
                at("65.66.67.68"),
                at("65.66.67.68").header("x-tenant", "ABCD"),
                false,
            ),
            ("route", at("192.0.2.1"), at("192.0.2.2"), true),
            ("global", at("192.0.2.1"), at("192.0.2.2"), true),
        ] {
            let p = limit(by);
            let (mut one, mut other) = (one, other);
            assert!(one.check(&*p.policy).is_ok());
            assert!(one.check(&*p.policy).is_ok());
            std::mem::swap(&mut one.limits, &mut other.limits);
            assert_eq!(other.check(&*p.policy).is_err(), shared, "{by}");
        }
    }

    #[test]
    fn policy_fields_have_whole_seconds() {
        for (rate, field) in [
            ("100/s", "\"n\";q=100;w=1"),
            ("5/100ms", "\"n\";q=50;w=1"),
            ("10/m", "\"n\";q=10;w=60"),
            ("3/1500ms", "\"n\";q=4;w=2"),
        ] {
            assert_eq!(
                policy_field("n", &Window::new(rate.parse().unwrap(), 1)),
                field
            );
        }
    }

    #[test]
    fn bad_entries() {
        for (rest, says) in [
            ("rate = \"1/s\"\nkey = \"cookie\"", "key: there is no key"),
            ("rate = \"1/s\"\nkey = \"header:\"", "key: there is no key"),
            ("rate = \"1/s\"\nburst = 0", "burst: a burst of 0"),
            ("rate = \"fast\"", "a rate such as"),
            ("key = \"ip\"", "missing field `rate`"),
        ] {
            let found = error(
                &format!("type = \"rate_limit\"\nname = \"l\"\n{rest}"),
                &Files::default(),
            );
            assert!(found.contains(says), "{rest}: {found}");
        }
    }
}
