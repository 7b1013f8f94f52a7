//! The bitmaps that spare the verdict every list lookup: a clear bit says that no entry of any list touches that range.
//! A bit left over from a removed entry costs a lookup and changes no verdict.

use aya::maps::{Array, MapData};
use gateway_common::abi::{HINT_V4_WORDS, HINT_V6_WORDS, hint_v4, hint_v6, maps};
use ipnet::IpNet;

use super::KernelError;

/// One bitmap with its copy here, so that only words that change are written.
pub(super) struct Hints {
    name: &'static str,
    map: Array<MapData, u64>,
    /// What is surely set there. Bits that are set there and not here cost a lookup.
    words: Vec<u64>,
    /// Whether nothing else is set there.
    exact: bool,
}

impl Hints {
    pub(super) fn v4(map: Array<MapData, u64>) -> Hints {
        Hints {
            name: maps::HINT_V4,
            map,
            words: vec![0; HINT_V4_WORDS as usize],
            exact: true,
        }
    }

    pub(super) fn v6(map: Array<MapData, u64>) -> Hints {
        Hints {
            name: maps::HINT_V6,
            map,
            words: vec![0; HINT_V6_WORDS as usize],
            exact: true,
        }
    }

    /// Another process has written to the map: whatever is needed is written again.
    pub(super) fn forget(&mut self) {
        self.words.fill(0);
        self.exact = false;
    }

    /// Sets the bits of one more entry.
    pub(super) fn add(&mut self, net: IpNet) -> Result<(), KernelError> {
        let (mut changed, words) = (Vec::new(), &mut self.words);
        mark(net, &mut |index, bits| {
            if words[index] & bits != bits {
                words[index] |= bits;
                changed.push(index);
            }
        });
        for index in changed {
            self.write(index)?;
        }
        Ok(())
    }

    /// Makes the bitmap what `nets` say, after entries were removed.
    pub(super) fn rebuild(&mut self, nets: impl Iterator<Item = IpNet>) -> Result<(), KernelError> {
        let mut wanted = vec![0u64; self.words.len()];
        for net in nets {
            mark(net, &mut |index, bits| wanted[index] |= bits);
        }
        for (index, want) in wanted.into_iter().enumerate() {
            if self.words[index] != want || !self.exact {
                self.words[index] = want;
                self.write(index)?;
            }
        }
        self.exact = true;
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<(), KernelError> {
        self.map
            .set(index as u32, self.words[index], 0)
            .map_err(KernelError::map(self.name))
    }
}

/// Calls `set(word, bits)` for every slot that `net` covers part of.
fn mark(net: IpNet, set: &mut impl FnMut(usize, u64)) {
    match net {
        IpNet::V4(net) => {
            let slot = |address: std::net::Ipv4Addr| hint_v4(u32::from_ne_bytes(address.octets()));
            let (first, last) = (slot(net.network()), slot(net.broadcast()));
            for word in first >> 6..=last >> 6 {
                let from = if word == first >> 6 { first & 63 } else { 0 };
                let to = if word == last >> 6 { last & 63 } else { 63 };
                set(word as usize, (u64::MAX << from) & (u64::MAX >> (63 - to)));
            }
        }
        IpNet::V6(net) => {
            let first = (u128::from(net.network()) >> 96) as u32;
            // Short of /12 there are as many ranges as slots.
            if net.prefix_len() < 12 {
                for word in 0..HINT_V6_WORDS as usize {
                    set(word, u64::MAX);
                }
                return;
            }
            let ranges = 1u32 << (32 - net.prefix_len().min(32));
            for range in first..=first + (ranges - 1) {
                let slot = hint_v6((u64::from(range) << 32).to_be());
                set(slot as usize >> 6, 1 << (slot & 63));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(net: &str) -> Vec<u32> {
        let mut out = Vec::new();
        mark(net.parse().unwrap(), &mut |word, bits| {
            out.extend(
                (0..64)
                    .filter(|b| bits >> b & 1 != 0)
                    .map(|b| word as u32 * 64 + b),
            );
        });
        out
    }

    #[test]
    fn ipv4_prefixes_cover_their_slash_24s_and_no_more() {
        assert_eq!(marked("10.1.2.3/32"), [0x0a0102]);
        assert_eq!(marked("10.1.2.0/23"), [0x0a0102, 0x0a0103]);
        let sixteen = marked("10.1.0.0/16");
        assert_eq!(
            (sixteen.len(), sixteen[0], sixteen[255]),
            (256, 0x0a0100, 0x0a01ff)
        );
        assert_eq!(marked("0.0.0.0/0").len(), 1 << 24);
    }

    #[test]
    fn ipv6_prefixes_are_found_by_any_address_inside() {
        for (net, address) in [
            ("2001:db8::/32", "2001:db8:1:2::3"),
            ("2001:db8:7::/48", "2001:db8:7::1"),
            ("2001:d00::/24", "2001:dff:1::1"),
            ("2000::/3", "3fff::1"),
        ] {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            let high = (u128::from(address) >> 64) as u64;
            assert!(
                marked(net).contains(&hint_v6(high.to_be())),
                "{net} {address}"
            );
        }
    }
}
