//! A worker that was replaced leaves maps which its successor, a copy of the warden, does not know: the state it
//! was forked with is that at load. What is in force is read back from the maps themselves.

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError};
use gateway_common::abi::{NEVER, PORT_WORDS, Rule, maps};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::lists::{Ban, CAUSE_CONFIG, Lists, NAMES, PLACES, Place};
use super::{Filter, KernelError};

impl Filter {
    /// Takes over what the maps hold; the bans among it. To be called in a new worker before its first `apply`,
    /// which then removes what an older config left. Needs no privileges.
    pub fn adopt(&mut self) -> Result<Vec<Ban>, KernelError> {
        for index in 0..PORT_WORDS {
            self.ports[index as usize] = self
                .ports_map
                .get(&index, 0)
                .map_err(KernelError::map(maps::PORTS))?;
        }
        self.knobs = self
            .knobs_map
            .get(&0, 0)
            .map_err(KernelError::map(maps::KNOBS))?;
        self.lists.adopt()?;
        self.sync_lists()?;
        Ok(self.lists.bans())
    }
}

/// Entries by the map they stand in.
type Found = [Vec<(IpNet, Rule)>; PLACES];

impl Lists {
    fn adopt(&mut self) -> Result<(), KernelError> {
        let found = self.read()?;
        self.counts = std::array::from_fn(|place| found[place].len());
        (self.allow, self.block) = (BTreeSet::new(), BTreeSet::new());
        self.bans = BTreeMap::new();
        // What the predecessor cleared there is needed again if it set an entry since; the copy here cannot tell.
        self.maps.hints_v4.forget();
        self.maps.hints_v6.forget();
        for (place, entries) in found.into_iter().enumerate() {
            for (net, rule) in entries {
                match net {
                    IpNet::V4(_) => self.maps.hints_v4.add(net)?,
                    IpNet::V6(_) => self.maps.hints_v6.add(net)?,
                }
                self.remember(place, net, rule);
            }
        }
        Ok(())
    }

    fn remember(&mut self, place: usize, net: IpNet, rule: Rule) {
        if place == Place::of_allow(net) as usize {
            self.allow.insert(net);
        } else if rule.cause == CAUSE_CONFIG && rule.expires_ns == NEVER {
            self.block.insert(net);
        } else {
            let ban = Ban {
                target: net,
                cause: rule.cause,
                expires_mono_ns: rule.expires_ns,
            };
            self.bans.insert(net, ban);
        }
    }

    /// All of it before anything is removed: a removal would end a walk over the map early.
    fn read(&self) -> Result<Found, KernelError> {
        let m = &self.maps;
        let mut found = Found::default();
        found[Place::AllowV4 as usize] = trie(Place::AllowV4, &m.allow_v4, net_v4)?;
        found[Place::AllowV6 as usize] = trie(Place::AllowV6, &m.allow_v6, net_v6)?;
        found[Place::BlockV4 as usize] =
            entries(Place::BlockV4, m.block_v4.iter(), |key| net_v4(key, 32))?;
        found[Place::BlockV6 as usize] =
            entries(Place::BlockV6, m.block_v6.iter(), |key| net_v6(key, 128))?;
        found[Place::Net64 as usize] = entries(Place::Net64, m.block_net64.iter(), |high| {
            net_v6([high, 0], 64)
        })?;
        found[Place::PrefixV4 as usize] = trie(Place::PrefixV4, &m.prefix_v4, net_v4)?;
        found[Place::PrefixV6 as usize] = trie(Place::PrefixV6, &m.prefix_v6, net_v6)?;
        Ok(found)
    }
}

fn trie<K: Pod>(
    place: Place,
    map: &LpmTrie<MapData, K, Rule>,
    net: impl Fn(K, u8) -> Option<IpNet>,
) -> Result<Vec<(IpNet, Rule)>, KernelError> {
    entries(place, map.iter(), |key: Key<K>| {
        net(key.data(), u8::try_from(key.prefix_len()).ok()?)
    })
}

fn entries<K>(
    place: Place,
    walk: impl Iterator<Item = Result<(K, Rule), MapError>>,
    net: impl Fn(K) -> Option<IpNet>,
) -> Result<Vec<(IpNet, Rule)>, KernelError> {
    let mut out = Vec::new();
    for entry in walk {
        let (key, rule) = entry.map_err(KernelError::map(NAMES[place as usize]))?;
        out.extend(net(key).map(|net| (net, rule)));
    }
    Ok(out)
}

/// From a key, which is the address as it stands in the packet.
fn net_v4(key: u32, bits: u8) -> Option<IpNet> {
    let address = Ipv4Addr::from(key.to_ne_bytes());
    Ipv4Net::new(address, bits).ok().map(IpNet::V4)
}

fn net_v6(key: [u64; 2], bits: u8) -> Option<IpNet> {
    let [high, low] = key.map(|word| u128::from(u64::from_be(word)));
    let address = Ipv6Addr::from(high << 64 | low);
    Ipv6Net::new(address, bits).ok().map(IpNet::V6)
}
