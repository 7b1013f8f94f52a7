//! Frames built field by field, for tests and benches of the kernel filter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
