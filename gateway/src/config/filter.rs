//! `[filter]`: the kernel filter as the operator writes it, and as the loader takes it.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_common::abi;
use gateway_common::gcra::RateKnobs;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::diagnose::Compiler;
use crate::units::{Prefix, Rate};

/// The section as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawFilter {
    /// Default: true where interfaces are given.
    pub enabled: Option<bool>,
    pub interfaces: Vec<RawInterface>,
    /// Packets per source (IPv4 address, IPv6 /64) to protected ports; 2000 per second where nothing is said.
    pub rate: Option<Rate>,
    /// Packets that a quiet source may send at once. Default: what the rate gives in one second.
    pub burst: Option<u64>,
    /// False: lists only, no rate.
    pub limit: Option<bool>,
    /// Always pass, whatever else says so.
    pub allow: Vec<Prefix>,
    pub block: Vec<Prefix>,
    pub fragments: Fragments,
    pub malformed: Malformed,
    /// One drop in this many becomes an event; rounded up to a power of two. 0: none.
    pub sample_every: Option<u32>,
    /// Entries of the source table, 32 bytes each; rounded up to a power of two. Four times the sources expected at once.
    pub sources: Option<u32>,
    /// The most entries of each list. The kernel reserves memory for them at start.
    pub list_entries: Option<u32>,
    /// Debug messages of the XDP program, through the daemon's log. Slow and lossy under load.
    pub debug: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawInterface {
    pub name: String,
    #[serde(default)]
    pub mode: Mode,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Native where the driver can, else generic, and said so.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack, after the packet's memory was allocated.
    Generic,
}

/// What happens to fragments after the first, which carry no ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fragments {
    /// Judged by their source, as if sent to a protected port.
    #[default]
    Judge,
    /// Dropped, as are first fragments to protected ports. Sources on the allow list still pass.
    Drop,
    /// Not judged.
    Pass,
}

/// What happens to packets of which it cannot be read whether they are for a protected port: cut-off or
/// contradictory headers, long chains of IPv6 extension headers. TCP and UDP that say they are for one, but are too
/// short, are dropped in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// Judged by their source, as if sent to a protected port; where that is unreadable too they pass, for the
    /// stack to drop.
    #[default]
    Judge,
    /// Dropped, whatever they were for.
    Drop,
    /// Not judged.
    Pass,
}

/// The filter as the loader takes it: plain data, everything checked.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterConfig {
    pub enabled: bool,
    pub interfaces: Vec<Interface>,
    /// `interval_ns` 0: no rate.
    pub rate: RateKnobs,
    pub allow: BTreeSet<IpNet>,
    pub block: BTreeSet<IpNet>,
    pub fragments: Fragments,
    pub malformed: Malformed,
    /// A power of two, or 0.
    pub sample_every: u32,
    /// A power of two, at least the ways of one set.
    pub sources: u32,
    pub list_entries: u32,
    pub debug: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mode: Mode,
}

const RATE_DEFAULT: Rate = Rate {
    count: 2000,
    per: Duration::from_secs(1),
};
const SAMPLE_EVERY_DEFAULT: u32 = 1024;
const SOURCES_DEFAULT: u32 = 1 << 20;
const SOURCES_MAX: u32 = 1 << 26;
const LIST_ENTRIES_DEFAULT: u32 = 1 << 16;
const LIST_ENTRIES_MAX: u32 = 1 << 24;
const INTERFACES_MAX: usize = 64;
/// `IFNAMSIZ` less the closing zero.
const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// The kernel's clock is as coarse as its timer tick (1 to 10 ms): a smaller burst would cut below the rate.
const BURST_NS_MIN: u64 = 10_000_000;

impl Default for FilterConfig {
    fn default() -> FilterConfig {
        FilterConfig {
            enabled: false,
            interfaces: Vec::new(),
            rate: RateKnobs::default(),
            allow: BTreeSet::new(),
            block: BTreeSet::new(),
            fragments: Fragments::default(),
            malformed: Malformed::default(),
            sample_every: SAMPLE_EVERY_DEFAULT,
            sources: SOURCES_DEFAULT,
            list_entries: LIST_ENTRIES_DEFAULT,
            debug: false,
        }
    }
}

impl RawFilter {
    /// What the section says, made true. Errors and warnings go to `c`; the result counts only without errors.
    pub fn compile(&self, c: &mut Compiler<'_>) -> FilterConfig {
        let list_entries = self.list_entries(c);
        FilterConfig {
            enabled: self.is_enabled(c),
            interfaces: self.interfaces(c),
            rate: self.rate(c),
            allow: list(c, "allow", &self.allow, list_entries),
            block: self.block(c, list_entries),
            fragments: self.fragments,
            malformed: self.malformed,
            sample_every: self.sample_every(c),
            sources: self.sources(c),
            list_entries,
            debug: self.debug,
        }
    }

    fn is_enabled(&self, c: &mut Compiler<'_>) -> bool {
        let enabled = self.enabled.unwrap_or(!self.interfaces.is_empty());
        if enabled && self.interfaces.is_empty() {
            c.at("enabled", |c| {
                c.error(
                    "the filter is enabled, but no interface is named",
                    "add interfaces = [{ name = \"eth0\" }], or set enabled = false",
                )
            });
        }
        enabled
    }

    fn interfaces(&self, c: &mut Compiler<'_>) -> Vec<Interface> {
        let mut out: Vec<Interface> = Vec::new();
        c.at("interfaces", |c| {
            if self.interfaces.len() > INTERFACES_MAX {
                c.error(
                    format!("more than {INTERFACES_MAX} interfaces"),
                    "name only those that face clients",
                );
            }
            for (i, raw) in self.interfaces.iter().enumerate() {
                c.at(format!("[{i}]"), |c| {
                    let legal = !raw.name.is_empty()
                        && raw.name.len() <= INTERFACE_NAME_BYTES_MAX
                        && !raw
                            .name
                            .contains(|ch: char| ch == '/' || ch.is_whitespace() || ch == '\0');
                    if !legal {
                        c.error(
                            format!("{:?} is no interface name", raw.name),
                            "1 to 15 bytes, as `ip link` lists them",
                        );
                    } else if out.iter().any(|known| known.name == raw.name) {
                        c.error(
                            format!("interface {} stands twice", raw.name),
                            "one XDP program can be attached to an interface; remove one entry",
                        );
                    } else {
                        out.push(Interface {
                            name: raw.name.clone(),
                            mode: raw.mode,
                        });
                    }
                })
            }
        });
        out
    }

    fn rate(&self, c: &mut Compiler<'_>) -> RateKnobs {
        if self.limit == Some(false) {
            if self.rate.is_some() || self.burst.is_some() {
                c.at("limit", |c| {
                    c.warn("a rate is given but limit = false", "remove one of them")
                });
            }
            return RateKnobs::default();
        }
        let rate = self.rate.unwrap_or(RATE_DEFAULT);
        let per_ns = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        let per_second = u128::from(rate.count) * 1_000_000_000 / u128::from(per_ns.max(1));
        let burst = self
            .burst
            .unwrap_or(u64::try_from(per_second).unwrap_or(u64::MAX).max(1));
        let Some(knobs) = RateKnobs::new(rate.count, per_ns, burst) else {
            let (key, hint) = if burst == 0 {
                (
                    "burst",
                    "a burst of 1 is the packet itself; set it to at least 1, or limit = false",
                )
            } else if per_ns < rate.count {
                (
                    "rate",
                    "a rate above one packet per nanosecond limits nothing; set limit = false",
                )
            } else {
                (
                    "burst",
                    "burst times interval must stay below 500 years; lower the burst",
                )
            };
            c.at(key, |c| c.error("this rate cannot be kept", hint));
            return RateKnobs::default();
        };
        if knobs.interval_ns < BURST_NS_MIN && knobs.burst_ns + knobs.interval_ns < BURST_NS_MIN {
            let least = BURST_NS_MIN.div_ceil(knobs.interval_ns);
            c.at("burst", |c| {
                c.error(
                    format!("a burst of {burst} is less than 10 ms of the rate"),
                    format!("the kernel's clock ticks every 1 to 10 ms, so a source at its rate would be cut; set at least {least}"),
                )
            });
        }
        knobs
    }

    fn block(&self, c: &mut Compiler<'_>, most: u32) -> BTreeSet<IpNet> {
        let block = list(c, "block", &self.block, most);
        for net in &block {
            if net.prefix_len() == 0 {
                c.at("block", |c| {
                    c.error(
                        format!("{net} would block everyone"),
                        "block prefixes, or use enabled = false and a firewall",
                    )
                });
            }
            if let Some(by) = self.allow.iter().find(|allow| allow.0.contains(net)) {
                c.at("block", |c| {
                    c.warn(
                        format!("{net} is inside {} of the allow list, which wins", by.0),
                        "remove one of them",
                    )
                });
            }
        }
        block
    }

    fn sample_every(&self, c: &mut Compiler<'_>) -> u32 {
        let wanted = self.sample_every.unwrap_or(SAMPLE_EVERY_DEFAULT);
        if wanted == 0 {
            return 0;
        }
        wanted.checked_next_power_of_two().unwrap_or_else(|| {
            c.at("sample_every", |c| {
                c.error("too large", "at most 2147483648; 0 turns samples off")
            });
            0
        })
    }

    fn sources(&self, c: &mut Compiler<'_>) -> u32 {
        let wanted = self.sources.unwrap_or(SOURCES_DEFAULT);
        let ways = abi::WAYS as u32;
        if !(ways..=SOURCES_MAX).contains(&wanted) {
            c.at("sources", |c| {
                c.error(
                    format!("{wanted} is outside {ways} to {SOURCES_MAX}"),
                    "four times the sources expected at once; each takes 32 bytes",
                )
            });
            return SOURCES_DEFAULT;
        }
        wanted.next_power_of_two()
    }

    fn list_entries(&self, c: &mut Compiler<'_>) -> u32 {
        let wanted = self.list_entries.unwrap_or(LIST_ENTRIES_DEFAULT);
        if !(1..=LIST_ENTRIES_MAX).contains(&wanted) {
            c.at("list_entries", |c| {
                c.error(
                    format!("{wanted} is outside 1 to {LIST_ENTRIES_MAX}"),
                    "the most entries that each list may hold, bans included",
                )
            });
            return LIST_ENTRIES_DEFAULT;
        }
        wanted
    }
}

fn list(c: &mut Compiler<'_>, key: &str, raw: &[Prefix], most: u32) -> BTreeSet<IpNet> {
    let out: BTreeSet<IpNet> = raw.iter().map(|prefix| canonical(prefix.0)).collect();
    if out.len() > most as usize {
        c.at(key, |c| {
            c.error(
                format!("{} entries are more than list_entries = {most}", out.len()),
                "raise list_entries",
            )
        });
    }
    out
}

/// Host bits cleared, and IPv4 inside IPv6 (`::ffff:0:0/96`) as the IPv4 that is on the wire.
pub fn canonical(net: IpNet) -> IpNet {
    let net = net.trunc();
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(v4) = ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96)
    {
        return IpNet::V4(v4);
    }
    net
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Files;

    fn compile(text: &str) -> (FilterConfig, Vec<String>, usize) {
        let raw: RawFilter = toml::from_str(text).unwrap();
        let files = Files::default();
        let mut c = Compiler::new(&files);
        let config = c.at("filter", |c| raw.compile(c));
        let errors = c.errors.iter().map(|e| {
            assert!(!e.hint.is_empty(), "{e} has no hint");
            e.path.clone()
        });
        (config, errors.collect(), c.warnings.len())
    }

    #[test]
    fn an_empty_section_is_off() {
        let (config, errors, _) = compile("");
        assert!(errors.is_empty());
        assert!(!config.enabled);
    }

    #[test]
    fn an_interface_turns_it_on_with_defaults() {
        let (config, errors, _) = compile("interfaces = [{ name = \"eth0\" }]");
        assert!(errors.is_empty());
        assert!(config.enabled);
        assert_eq!(config.interfaces[0].mode, Mode::Auto);
        assert_eq!(
            config.rate,
            RateKnobs {
                interval_ns: 500_000,
                burst_ns: 1999 * 500_000
            }
        );
        assert_eq!(config.sources, 1 << 20);
    }

    #[test]
    fn sizes_are_rounded_up_to_powers_of_two() {
        let (config, errors, _) = compile("sources = 1000\nsample_every = 100");
        assert!(errors.is_empty());
        assert_eq!((config.sources, config.sample_every), (1024, 128));
    }

    #[test]
    fn each_mistake_is_an_error_at_its_key() {
        for (text, path) in [
            ("enabled = true", "filter.enabled"),
            ("interfaces = [{ name = \"\" }]", "filter.interfaces[0]"),
            (
                "interfaces = [{ name = \"sixteen-bytes-xx\" }]",
                "filter.interfaces[0]",
            ),
            (
                "interfaces = [{ name = \"a\" }, { name = \"a\" }]",
                "filter.interfaces[1]",
            ),
            ("burst = 0", "filter.burst"),
            ("rate = \"2000/s\"\nburst = 19", "filter.burst"),
            ("rate = \"2000000000/s\"", "filter.rate"),
            (
                "rate = \"1/d\"\nburst = 18446744073709551615",
                "filter.burst",
            ),
            ("block = [\"0.0.0.0/0\"]", "filter.block"),
            (
                "list_entries = 1\nblock = [\"192.0.2.1\", \"192.0.2.2\"]",
                "filter.block",
            ),
            ("sources = 3", "filter.sources"),
            ("sample_every = 4294967295", "filter.sample_every"),
            ("list_entries = 0", "filter.list_entries"),
        ] {
            let (_, errors, _) = compile(text);
            assert_eq!(errors, [path], "{text}");
        }
        assert!(compile("rate = \"2000/s\"\nburst = 20").1.is_empty());
        assert!(toml::from_str::<RawFilter>("interface = []").is_err());
        assert!(toml::from_str::<RawFilter>("fragments = \"maybe\"").is_err());
        assert!(toml::from_str::<RawFilter>("malformed = \"maybe\"").is_err());
    }

    #[test]
    fn what_the_allow_list_covers_is_warned_about() {
        let (_, errors, warnings) = compile("allow = [\"10.0.0.0/8\"]\nblock = [\"10.1.0.0/16\"]");
        assert!(errors.is_empty());
        assert_eq!(warnings, 1);
    }

    #[test]
    fn mapped_addresses_are_what_is_on_the_wire() {
        let (config, _, _) = compile("block = [\"::ffff:192.0.2.7\", \"2001:db8::1\"]");
        let texts: Vec<String> = config.block.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.7/32", "2001:db8::1/128"]);
    }
}
