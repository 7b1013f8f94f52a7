//! Strikes: what a source did wrong lately, decaying; at the threshold, an order to ban it.

use super::bans::BanReason;
use super::bounded::{BoundedMap, Heat};
use super::{Mode, source_net, source_of};
use crate::clock::Now;
use crate::diagnose::Compiler;
use crate::outcome::StrikeKind;
use crate::units::{Prefix, Span, unmapped};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::hash_map::RandomState;
use std::net::IpAddr;

/// Section `[strikes]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct RawStrikes {
    /// Whether misbehaviour leads to bans at all.
    pub enabled: bool,
    /// Sum of weights at which a source is banned.
    pub threshold: u32,
    /// Time in which a source's sum halves.
    pub half_life: Span,
    /// What each kind of misbehaviour adds.
    pub weights: RawWeights,
    /// How long an automatic ban lasts.
    pub ban_ttl: Span,
    /// `shadow`: log and count what would have been banned.
    pub mode: Mode,
    /// Sources that are never banned: load balancers, offices, monitoring, carrier NAT.
    pub trusted: Vec<Prefix>,
}

/// What each kind of misbehaviour adds to a source's sum; 0 ignores it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct RawWeights {
    /// Bytes that are not HTTP.
    pub syntax: u32,
    /// Credentials that are wrong.
    pub authentication: u32,
    /// A limit exceeded.
    pub limit: u32,
    /// A path that no route knows.
    pub not_found: u32,
    /// A validation or deny rule broken.
    pub policy: u32,
}

impl Default for RawWeights {
    fn default() -> Self {
        RawWeights {
            syntax: 5,
            authentication: 10,
            limit: 1,
            not_found: 2,
            policy: 2,
        }
    }
}

impl Default for RawStrikes {
    fn default() -> Self {
        RawStrikes {
            enabled: true,
            threshold: 100,
            half_life: Span::secs(60),
            weights: RawWeights::default(),
            ban_ttl: Span::secs(600),
            mode: Mode::Enforce,
            trusted: Vec::new(),
        }
    }
}

/// A ban longer than this is for a person to decide.
const BAN_TTL_MAX: Span = Span::secs(30 * 86_400);

impl RawStrikes {
    pub fn compile(&self, c: &mut Compiler<'_>) -> Option<StrikeConfig> {
        let errors = c.errors.len();
        if self.threshold == 0 {
            c.at("threshold", |c| {
                c.error(
                    "a threshold of 0 would ban every caller",
                    "use at least 1, or enabled = false",
                )
            });
        }
        if self.half_life.as_nanos() == 0 {
            c.at("half_life", |c| {
                c.error("must be longer than zero", "for example \"60s\"")
            });
        }
        if self.ban_ttl.as_nanos() == 0 || self.ban_ttl > BAN_TTL_MAX {
            c.at("ban_ttl", |c| {
                c.error(
                    "an automatic ban lasts more than zero and at most 30 days",
                    "for a permanent one add it by hand with `gateway bans add`",
                )
            });
        }
        let w = self.weights;
        let weights = [w.syntax, w.authentication, w.limit, w.not_found, w.policy];
        if self.enabled && weights.iter().any(|w| *w >= self.threshold) && self.threshold > 0 {
            c.at("weights", |c| {
                c.warn(
                    "one single mistake reaches the threshold",
                    "raise the threshold or lower the weight",
                )
            });
        }
        (c.errors.len() == errors).then(|| StrikeConfig {
            enabled: self.enabled,
            threshold: f64::from(self.threshold),
            half_life_ns: self.half_life.as_nanos(),
            weights: weights.map(f64::from),
            ban_ttl_ns: self.ban_ttl.as_nanos(),
            mode: self.mode,
            trusted: self.trusted.iter().map(|p| p.0).collect(),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct StrikeConfig {
    pub enabled: bool,
    pub threshold: f64,
    pub half_life_ns: u64,
    /// By [`StrikeKind`] in the order of [`StrikeKind::ALL`].
    weights: [f64; 5],
    pub ban_ttl_ns: u64,
    pub mode: Mode,
    pub trusted: Vec<IpNet>,
}

impl StrikeConfig {
    pub fn weight(&self, kind: StrikeKind) -> f64 {
        match kind {
            StrikeKind::Syntax => self.weights[0],
            StrikeKind::Authentication => self.weights[1],
            StrikeKind::Limit => self.weights[2],
            StrikeKind::NotFound => self.weights[3],
            StrikeKind::Policy => self.weights[4],
        }
    }

    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = unmapped(ip);
        self.trusted.iter().any(|net| net.contains(&ip))
    }
}

/// A source has crossed the threshold. In `Shadow` mode it is to be logged, not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanOrder {
    /// The IPv4 address, or the IPv6 /64.
    pub target: IpNet,
    /// The kind of strike that tipped the scale.
    pub reason: BanReason,
    pub ttl_ns: u64,
    pub expires_mono_ns: u64,
    pub mode: Mode,
}

#[derive(Clone, Copy)]
struct Sum {
    score: f64,
    at_ns: u64,
    banned_until_ns: u64,
}

impl Heat for Sum {
    fn heat(&self) -> u64 {
        self.at_ns.max(self.banned_until_ns)
    }
}

/// Sources that have strikes. Bounded: those that were quiet longest are forgotten first.
pub struct StrikeTable {
    sums: BoundedMap<IpAddr, Sum, RandomState>,
}

pub const SOURCES_MAX_DEFAULT: usize = 1 << 18;
/// After so many half-lives the sum is below a thousandth of what it was.
const IDLE_HALF_LIVES: u64 = 10;
const SWEEP_STEP: usize = 4096;

impl Default for StrikeTable {
    fn default() -> Self {
        StrikeTable::new(SOURCES_MAX_DEFAULT)
    }
}

impl StrikeTable {
    pub fn new(max_sources: usize) -> StrikeTable {
        StrikeTable {
            sums: BoundedMap::new(max_sources, RandomState::new()),
        }
    }

    /// Counts one strike. `Some` exactly once per ban: the next can come only after it has run out.
    pub fn strike(
        &self,
        ip: IpAddr,
        kind: StrikeKind,
        config: &StrikeConfig,
        now: Now,
    ) -> Option<BanOrder> {
        let weight = config.weight(kind);
        if !config.enabled || weight <= 0.0 || config.trusts(ip) {
            return None;
        }
        let fresh = Sum {
            score: 0.0,
            at_ns: now.mono_ns,
            banned_until_ns: 0,
        };
        let crossed = self.sums.update(
            source_of(ip),
            || fresh,
            |sum| add(sum, weight, config, now.mono_ns),
        );
        crossed.then(|| BanOrder {
            target: source_net(ip),
            reason: kind.into(),
            ttl_ns: config.ban_ttl_ns,
            expires_mono_ns: now.mono_ns.saturating_add(config.ban_ttl_ns),
            mode: config.mode,
        })
    }

    /// Starts a source anew: its ban was lifted, or could not be taken. Without this it could not be
    /// banned again before the ban would have run out.
    pub fn forgive(&self, ip: IpAddr) {
        self.sums.change(&source_of(ip), |sum| {
            sum.score = 0.0;
            sum.banned_until_ns = 0;
        });
    }

    /// The sum that counts against a source now, for `explain` and status.
    pub fn score(&self, ip: IpAddr, config: &StrikeConfig, now: Now) -> f64 {
        self.sums
            .view(&source_of(ip), |sum| decayed(sum, config, now.mono_ns))
            .unwrap_or(0.0)
    }

    /// A bounded step of forgetting quiet sources, for the control thread.
    pub fn sweep(&self, config: &StrikeConfig, now: Now) -> usize {
        let idle_ns = config.half_life_ns.saturating_mul(IDLE_HALF_LIVES);
        self.sums.sweep(SWEEP_STEP, |sum| {
            sum.banned_until_ns <= now.mono_ns && sum.at_ns.saturating_add(idle_ns) <= now.mono_ns
        })
    }

    pub fn len(&self) -> usize {
        self.sums.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}

/// True when this strike crosses the threshold.
fn add(sum: &mut Sum, weight: f64, config: &StrikeConfig, now_ns: u64) -> bool {
    if sum.banned_until_ns > now_ns {
        return false;
    }
    sum.score = decayed(sum, config, now_ns) + weight;
    sum.at_ns = sum.at_ns.max(now_ns);
    if sum.score < config.threshold {
        return false;
    }
    sum.score = 0.0;
    sum.banned_until_ns = now_ns.saturating_add(config.ban_ttl_ns);
    true
}

fn decayed(sum: &Sum, config: &StrikeConfig, now_ns: u64) -> f64 {
    let half_lives = now_ns.saturating_sub(sum.at_ns) as f64 / config.half_life_ns as f64;
    sum.score * (-half_lives).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Files;
    use std::time::Duration;

    const START: Now = Now::at(1_000_000_000_000, 1_800_000_000);

    fn config(toml: &str) -> StrikeConfig {
        let raw: RawStrikes = toml::from_str(toml).unwrap();
        raw.compile(&mut Compiler::new(&Files::default())).unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn crosses_once_per_ban() {
        let cfg = config("threshold = 20");
        let table = StrikeTable::new(100);
        let strike = |now| table.strike(ip("192.0.2.1"), StrikeKind::Authentication, &cfg, now);
        assert_eq!(strike(START), None);
        let order = strike(START).expect("20 reaches 20");
        assert_eq!(order.target.to_string(), "192.0.2.1/32");
        assert_eq!(order.reason, BanReason::Authentication);
        assert_eq!(order.ttl_ns, 600_000_000_000);
        for _ in 0..10 {
            assert_eq!(strike(START.plus(Duration::from_secs(599))), None);
        }
        let after = START.plus(Duration::from_secs(600));
        assert_eq!(strike(after), None);
        assert!(strike(after).is_some());
    }

    #[test]
    fn a_forgiven_source_starts_anew() {
        let cfg = config("threshold = 20");
        let table = StrikeTable::new(100);
        let strike = || table.strike(ip("192.0.2.1"), StrikeKind::Authentication, &cfg, START);
        assert_eq!(strike(), None);
        assert!(strike().is_some());
        assert_eq!(strike(), None, "banned");
        table.forgive(ip("192.0.2.1"));
        assert_eq!(strike(), None, "the first of two again");
        assert!(strike().is_some());
    }

    #[test]
    fn decays_by_half_lives() {
        let cfg = config("threshold = 20\nhalf_life = \"60s\"");
        let table = StrikeTable::new(100);
        let a = ip("192.0.2.1");
        table.strike(a, StrikeKind::Authentication, &cfg, START);
        let later = START.plus(Duration::from_secs(60));
        assert_eq!(table.score(a, &cfg, later), 5.0);
        assert_eq!(
            table.strike(a, StrikeKind::Authentication, &cfg, later),
            None
        );
    }

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        let cfg = config("threshold = 20");
        let table = StrikeTable::new(100);
        table.strike(ip("2001:db8::1"), StrikeKind::Authentication, &cfg, START);
        let order = table.strike(ip("2001:db8::2"), StrikeKind::Authentication, &cfg, START);
        assert_eq!(order.unwrap().target.to_string(), "2001:db8::/64");
    }

    #[test]
    fn trusted_and_disabled_never() {
        let table = StrikeTable::new(100);
        for cfg in [
            config("threshold = 1\ntrusted = [\"10.0.0.0/8\"]"),
            config("threshold = 1\nenabled = false"),
            config("threshold = 1\nweights = { syntax = 0 }"),
        ] {
            for source in ["10.1.2.3", "::ffff:10.1.2.3"] {
                assert_eq!(
                    table.strike(ip(source), StrikeKind::Syntax, &cfg, START),
                    None
                );
            }
        }
        assert!(table.is_empty());
    }

    #[test]
    fn sweep_keeps_the_banned() {
        let cfg = config("threshold = 10\nhalf_life = \"1s\"");
        let table = StrikeTable::new(100);
        table.strike(ip("192.0.2.1"), StrikeKind::Authentication, &cfg, START);
        table.strike(ip("192.0.2.2"), StrikeKind::Limit, &cfg, START);
        assert_eq!(table.sweep(&cfg, START.plus(Duration::from_secs(9))), 0);
        assert_eq!(table.sweep(&cfg, START.plus(Duration::from_secs(10))), 1);
        assert_eq!(table.sweep(&cfg, START.plus(Duration::from_secs(600))), 1);
    }

    #[test]
    fn bad_sections_say_where() {
        for (toml, path) in [
            ("threshold = 0", "threshold"),
            ("half_life = \"0s\"", "half_life"),
            ("ban_ttl = \"0s\"", "ban_ttl"),
            ("ban_ttl = \"31d\"", "ban_ttl"),
        ] {
            let files = Files::default();
            let mut c = Compiler::new(&files);
            let raw: RawStrikes = toml::from_str(toml).unwrap();
            assert!(raw.compile(&mut c).is_none());
            assert_eq!(c.errors[0].path, path);
        }
        for toml in ["treshold = 1", "weights = { sytnax = 1 }", "mode = \"off\""] {
            assert!(toml::from_str::<RawStrikes>(toml).is_err(), "{toml}");
        }
        let raw: RawStrikes = toml::from_str("weights = { not_found = 7 }").unwrap();
        assert_eq!((raw.weights.not_found, raw.weights.syntax), (7, 5));
    }
}
