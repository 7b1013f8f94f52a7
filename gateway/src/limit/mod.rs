//! Shared, bounded tables written by every core: limiter state, strikes, bans.

pub mod bans;
pub mod bounded;
pub mod strikes;
pub mod table;

pub use bans::{Ban, BanError, BanReason, BanTable};
pub use strikes::{BanOrder, RawStrikes, StrikeConfig, StrikeTable};
pub use table::{Decision, LimitTable, Window};

use crate::units::unmapped;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};

/// Whether a refusal (of a policy, of the strike counter) counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A refusal ends the exchange.
    #[default]
    Enforce,
    /// A refusal is logged and counted; the request goes on.
    Shadow,
}

/// Whom a caller's address stands for: an IPv4 address, or an IPv6 /64, since one subscriber holds
/// at least that much.
pub fn source_of(ip: IpAddr) -> IpAddr {
    match unmapped(ip) {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// [`source_of`] as a prefix.
pub fn source_net(ip: IpAddr) -> IpNet {
    match source_of(ip) {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::from(v4)),
        // 64 is a valid length, so the fallback to the single address is never taken.
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, 64).unwrap_or_else(|_| v6.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for (ip, net) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(source_net(ip.parse().unwrap()).to_string(), net);
        }
    }
}
