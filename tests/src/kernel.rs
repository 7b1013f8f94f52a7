//! Frames built field by field, and a filter on the host to compare the kernel's with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway::config::filter::{FilterConfig, Fragments, Malformed};
use gateway_common::abi::{ABI_VERSION, Knobs, NEVER, Rule, fragments, malformed};
use gateway_common::source::Set;
use gateway_common::verdict::Tables;
use ipnet::IpNet;

/// What stands after the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

/// A frame to be: defaults are an untagged TCP packet from 198.51.100.7:40000 to port 8443.
#[derive(Clone, Debug)]
pub struct FrameSpec {
    /// Ethertypes of VLAN tags, outermost first.
    pub tags: Vec<u16>,
    pub source: IpAddr,
    pub transport: Transport,
    pub source_port: u16,
    pub port: u16,
    /// IPv4: bytes of options (a multiple of 4).
    pub options: usize,
    /// IPv6: extension headers in order. Their bodies are minimal.
    pub extensions: Vec<u8>,
    /// Offset in 8-byte units, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    pub payload: usize,
}

impl Default for FrameSpec {
    fn default() -> FrameSpec {
        FrameSpec {
            tags: Vec::new(),
            source: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
            transport: Transport::Tcp,
            source_port: 40000,
            port: 8443,
            options: 0,
            extensions: Vec::new(),
            fragment: None,
            payload: 16,
        }
    }
}

impl FrameSpec {
    pub fn from(source: &str) -> FrameSpec {
        FrameSpec {
            source: source.parse().expect("a test names real addresses"),
            ..FrameSpec::default()
        }
    }

    pub fn build(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        let body = self.transport_bytes();
        match self.source {
            IpAddr::V4(source) => self.ipv4(&mut frame, source, &body),
            IpAddr::V6(source) => self.ipv6(&mut frame, source, &body),
        }
        frame
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.source_port.to_be_bytes());
        out.extend(self.port.to_be_bytes());
        match self.transport {
            Transport::Tcp => {
                out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0])
            }
            Transport::Udp => {
                out.extend(((8 + self.payload) as u16).to_be_bytes());
                out.extend([0, 0]);
            }
            Transport::Icmp => out = vec![8, 0, 0, 0, 0, 1, 0, 1],
        }
        out.resize(out.len() + self.payload, 0xab);
        out
    }

    fn protocol(&self) -> u8 {
        match (self.transport, self.source) {
            (Transport::Tcp, _) => 6,
            (Transport::Udp, _) => 17,
            (Transport::Icmp, IpAddr::V4(_)) => 1,
            (Transport::Icmp, IpAddr::V6(_)) => 58,
        }
    }

    fn ipv4(&self, frame: &mut Vec<u8>, source: Ipv4Addr, body: &[u8]) {
        frame.extend(0x0800u16.to_be_bytes());
        let words = 5 + self.options / 4;
        let total = (words * 4 + body.len()) as u16;
        let fragment = self.fragment.map_or(0x4000, |(offset, more)| {
            offset | if more { 0x2000 } else { 0 }
        });
        frame.extend([0x40 | words as u8, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, self.protocol(), 0, 0]);
        frame.extend(source.octets());
        frame.extend([192, 0, 2, 1]);
        frame.resize(frame.len() + self.options, 1);
        frame.extend(body);
    }

    fn ipv6(&self, frame: &mut Vec<u8>, source: Ipv6Addr, body: &[u8]) {
        frame.extend(0x86ddu16.to_be_bytes());
        let mut chain = Vec::new();
        let mut kinds = self.extensions.clone();
        if self.fragment.is_some() {
            kinds.push(44);
        }
        let after = |i: usize| kinds.get(i + 1).copied().unwrap_or(self.protocol());
        for (i, kind) in kinds.iter().enumerate() {
            match kind {
                44 => {
                    let (offset, more) = self.fragment.unwrap_or((0, false));
                    chain.extend([after(i), 0]);
                    chain.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    chain.extend([0, 0, 0, 1]);
                }
                51 => chain.extend([
                    after(i),
                    4,
                    0,
                    0,
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]),
                _ => chain.extend([after(i), 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0]),
            }
        }
        let first = kinds.first().copied().unwrap_or(self.protocol());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(((chain.len() + body.len()) as u16).to_be_bytes());
        frame.extend([first, 64]);
        frame.extend(source.octets());
        frame.extend(
            "2001:db8:ffff::1"
                .parse::<Ipv6Addr>()
                .map_or([0; 16], |a| a.octets()),
        );
        frame.extend(chain);
        frame.extend(body);
    }
}

/// The config as plain lists: the reference that the kernel's maps are compared with. No rate.
pub struct Reference {
    pub knobs: Knobs,
    pub ports: Vec<u16>,
    pub allow: Vec<IpNet>,
    pub block: Vec<IpNet>,
}

impl Reference {
    pub fn of(config: &FilterConfig, ports: &[u16]) -> Reference {
        Reference {
            knobs: Knobs {
                abi_version: ABI_VERSION,
                lists: u32::MAX,
                fragments: match config.fragments {
                    Fragments::Judge => fragments::JUDGE,
                    Fragments::Drop => fragments::DROP,
                    Fragments::Pass => fragments::PASS,
                },
                malformed: match config.malformed {
                    Malformed::Judge => malformed::JUDGE,
                    Malformed::Drop => malformed::DROP,
                    Malformed::Pass => malformed::PASS,
                },
                ..Knobs::default()
            },
            ports: ports.to_vec(),
            allow: config.allow.iter().copied().collect(),
            block: config.block.iter().copied().collect(),
        }
    }

    fn find(list: &[IpNet], address: IpAddr, takes: impl Fn(&IpNet) -> bool) -> Option<Rule> {
        list.iter()
            .find(|net| takes(net) && net.contains(&address))
            .map(|net| Rule::new(0, NEVER, net.prefix_len()))
    }
}

fn v4(address: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(address.to_ne_bytes()))
}

fn v6(address: [u64; 2]) -> IpAddr {
    let high = u128::from(u64::from_be(address[0]));
    IpAddr::V6(Ipv6Addr::from(
        high << 64 | u128::from(u64::from_be(address[1])),
    ))
}

/// The reference keeps no rates.
pub struct NoSet;

impl Set for NoSet {
    fn key(&self, _way: usize) -> u64 {
        0
    }
    fn due_ns(&self, _way: usize) -> u64 {
        0
    }
    fn claim(&self, _way: usize, _from: u64, _to: u64) -> bool {
        true
    }
    fn advance(&self, _way: usize, _from_ns: u64, _to_ns: u64) -> Result<(), u64> {
        Ok(())
    }
}

impl Tables for Reference {
    type Set = NoSet;

    fn knobs(&self) -> Option<&Knobs> {
        Some(&self.knobs)
    }
    fn now_ns(&self) -> u64 {
        gateway::clock::mono_coarse_ns()
    }
    fn port_word(&self, word: u32) -> u64 {
        let here = self
            .ports
            .iter()
            .filter(|port| u32::from(**port) >> 6 == word);
        here.fold(0, |bits, port| bits | 1 << (port & 63))
    }
    fn hint_v4_word(&self, _word: u32) -> u64 {
        u64::MAX
    }
    fn hint_v6_word(&self, _word: u32) -> u64 {
        u64::MAX
    }
    fn allow_v4(&self, address: u32) -> Option<Rule> {
        Reference::find(&self.allow, v4(address), |_| true)
    }
    fn allow_v6(&self, address: [u64; 2]) -> Option<Rule> {
        Reference::find(&self.allow, v6(address), |_| true)
    }
    fn block_v4(&self, address: u32) -> Option<Rule> {
        Reference::find(&self.block, v4(address), |net| net.prefix_len() == 32)
    }
    fn block_v6(&self, address: [u64; 2]) -> Option<Rule> {
        Reference::find(&self.block, v6(address), |net| net.prefix_len() == 128)
    }
    fn block_net64(&self, high: u64) -> Option<Rule> {
        Reference::find(&self.block, v6([high, 0]), |net| net.prefix_len() == 64)
    }
    fn prefix_v4(&self, address: u32, bits: u32) -> Option<Rule> {
        let fits = |net: &IpNet| net.prefix_len() < 32 && u32::from(net.prefix_len()) <= bits;
        Reference::find(&self.block, v4(address), fits)
    }
    fn prefix_v6(&self, address: [u64; 2], bits: u32) -> Option<Rule> {
        let other = |net: &IpNet| net.prefix_len() != 64 && net.prefix_len() != 128;
        let fits = |net: &IpNet| other(net) && u32::from(net.prefix_len()) <= bits;
        Reference::find(&self.block, v6(address), fits)
    }
    fn source_set(&self, _index: u32) -> Option<NoSet> {
        None
    }
}
