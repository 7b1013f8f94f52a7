//! A network of the demo's own: a veth pair whose far end lies in a namespace, so that the kernel filter sees
//! real packets of a real client. Made and removed by the `ip` command.

use anyhow::{Context, Result, bail};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

pub const INTERFACE: &str = "gwdemo0";
pub const NAMESPACE: &str = "gateway-demo";
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 203, 0, 1));
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xcb, 0, 0, 0, 0, 0, 1));
/// The client that behaves.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 203, 0, 2));
/// The client that gets itself banned.
pub const RUDE_CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 203, 0, 3));

/// The pair and the namespace, while this value lives.
#[derive(Debug)]
pub struct Network {
    /// False where the machine has IPv6 turned off.
    pub ipv6: bool,
}

impl Network {
    /// Needs root. What an earlier run left behind is taken away first.
    pub fn create() -> Result<Network> {
        remove();
        let mut network = Network { ipv6: false }; // from here on, a failure removes what was made
        for line in LINES {
            ip(line)?;
        }
        network.ipv6 = IPV6_LINES.iter().all(|line| ip(line).is_ok());
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove();
    }
}

const LINES: &[&str] = &[
    "netns add gateway-demo",
    "link add gwdemo0 type veth peer name gwdemo1 netns gateway-demo",
    "addr add 10.203.0.1/24 dev gwdemo0",
    "link set gwdemo0 up",
    "-n gateway-demo link set lo up",
    "-n gateway-demo addr add 10.203.0.2/24 dev gwdemo1",
    "-n gateway-demo addr add 10.203.0.3/24 dev gwdemo1",
    "-n gateway-demo link set gwdemo1 up",
];
/// Without duplicate address detection: there is nobody else, and listeners bind at once.
const IPV6_LINES: &[&str] = &[
    "addr add fd00:cb::1/64 dev gwdemo0 nodad",
    "-n gateway-demo addr add fd00:cb::2/64 dev gwdemo1 nodad",
];

/// Quiet: what is not there need not be removed. One end of the pair takes the other with it.
fn remove() {
    let _ = ip(&format!("link del {INTERFACE}"));
    let _ = ip(&format!("netns del {NAMESPACE}"));
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .context("start `ip` (package iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {arguments}`: {}", said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_names_agree() {
        let all = LINES.join("\n") + &IPV6_LINES.join("\n");
        for name in [INTERFACE, "gwdemo1", NAMESPACE] {
            assert!(all.contains(name), "{name}");
        }
        for address in [GATEWAY_V4, CLIENT_V4, RUDE_CLIENT_V4, GATEWAY_V6] {
            assert!(all.contains(&format!("addr add {address}/")), "{address}");
        }
    }
}
