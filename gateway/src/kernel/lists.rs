//! Allow list, block list and bans. The maps hold what is in force; the mirror here knows who put it there, so that a
//! reload leaves bans alone and an expired ban leaves the config alone.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};
use gateway_common::abi::{NEVER, Rule, lists, maps};
use ipnet::IpNet;
use serde::Serialize;

use super::KernelError;
use super::error::os_error;
use super::hints::Hints;
use crate::config::filter::canonical;

/// The list maps of the loaded object.
pub(super) struct ListMaps {
    pub(super) allow_v4: LpmTrie<MapData, u32, Rule>,
    pub(super) allow_v6: LpmTrie<MapData, [u64; 2], Rule>,
    pub(super) block_v4: HashMap<MapData, u32, Rule>,
    pub(super) block_v6: HashMap<MapData, [u64; 2], Rule>,
    pub(super) block_net64: HashMap<MapData, u64, Rule>,
    pub(super) prefix_v4: LpmTrie<MapData, u32, Rule>,
    pub(super) prefix_v6: LpmTrie<MapData, [u64; 2], Rule>,
    pub(super) hints_v4: Hints,
    pub(super) hints_v6: Hints,
}

/// A block that user space decided on while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ban {
    pub target: IpNet,
    pub cause: u8,
    /// [`crate::clock::mono_ns`] at which the kernel stops heeding it.
    pub expires_mono_ns: u64,
}

/// Which map an entry goes into; the discriminant is its bit's place in [`lists`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    AllowV4,
    AllowV6,
    BlockV4,
    BlockV6,
    Net64,
    PrefixV4,
    PrefixV6,
}
const _: () = assert!(1 << Place::PrefixV6 as u32 == lists::PREFIX_V6);
const _: () = assert!(1 << Place::Net64 as u32 == lists::BLOCK_NET64);
pub(super) const PLACES: usize = 7;
pub(super) const NAMES: [&str; PLACES] = [
    maps::ALLOW_V4,
    maps::ALLOW_V6,
    maps::BLOCK_V4,
    maps::BLOCK_V6,
    maps::BLOCK_NET64,
    maps::PREFIX_V4,
    maps::PREFIX_V6,
];

impl Place {
    pub(super) fn of_allow(net: IpNet) -> Place {
        match net {
            IpNet::V4(_) => Place::AllowV4,
            IpNet::V6(_) => Place::AllowV6,
        }
    }

    pub(super) fn of_block(net: IpNet) -> Place {
        match (net, net.prefix_len()) {
            (IpNet::V4(_), 32) => Place::BlockV4,
            (IpNet::V4(_), _) => Place::PrefixV4,
            (IpNet::V6(_), 128) => Place::BlockV6,
            (IpNet::V6(_), 64) => Place::Net64,
            (IpNet::V6(_), _) => Place::PrefixV6,
        }
    }
}

/// The cause of entries from the config.
pub(super) const CAUSE_CONFIG: u8 = 0;

pub(super) struct Lists {
    pub(super) maps: ListMaps,
    /// Entries in each map, by [`Place`].
    pub(super) counts: [usize; PLACES],
    pub(super) allow: BTreeSet<IpNet>,
    pub(super) block: BTreeSet<IpNet>,
    pub(super) bans: BTreeMap<IpNet, Ban>,
    /// Entries removed since the hints were built: bits may be left over.
    stale_v4: usize,
    stale_v6: usize,
}

impl Lists {
    pub(super) fn new(maps: ListMaps) -> Lists {
        Lists {
            maps,
            counts: [0; PLACES],
            allow: BTreeSet::new(),
            block: BTreeSet::new(),
            bans: BTreeMap::new(),
            stale_v4: 0,
            stale_v6: 0,
        }
    }

    /// The value of `Knobs::lists`.
    pub(super) fn bits(&self) -> u32 {
        (0..PLACES)
            .filter(|place| self.counts[*place] > 0)
            .map(|place| 1 << place)
            .sum()
    }

    pub(super) fn sizes(&self) -> Vec<(&'static str, usize)> {
        NAMES.into_iter().zip(self.counts).collect()
    }

    pub(super) fn ban_count(&self) -> usize {
        self.bans.len()
    }

    pub(super) fn bans(&self) -> Vec<Ban> {
        self.bans.values().copied().collect()
    }

    // The three steps to another config, in this order: a source that is allowed before and after is allowed
    // throughout, and one that is newly allowed is never met by a new block first.

    pub(super) fn add_allows(&mut self, allow: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        for net in missing(allow, &self.allow) {
            self.put(Place::of_allow(net), net, config_rule(net), true)?;
            self.allow.insert(net);
        }
        Ok(())
    }

    pub(super) fn set_blocks(&mut self, block: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        for net in missing(&self.block, block) {
            match self.bans.get(&net).copied() {
                Some(ban) => self.put(Place::of_block(net), net, rule_of(ban), false)?,
                None => {
                    self.take(Place::of_block(net), net, true)?;
                }
            }
            self.block.remove(&net);
        }
        for net in missing(block, &self.block) {
            let new = !self.bans.contains_key(&net);
            self.put(Place::of_block(net), net, config_rule(net), new)?;
            self.block.insert(net);
        }
        Ok(())
    }

    pub(super) fn drop_allows(&mut self, allow: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        for net in missing(&self.allow, allow) {
            self.take(Place::of_allow(net), net, true)?;
            self.allow.remove(&net);
        }
        self.rebuild_hints()
    }

    pub(super) fn ban(
        &mut self,
        target: IpNet,
        cause: u8,
        expires_mono_ns: u64,
    ) -> Result<(), KernelError> {
        let target = canonical(target);
        if target.prefix_len() == 0 {
            return Err(KernelError::TooWide { target });
        }
        if let Some(by) = self.allow.iter().find(|allow| allow.contains(&target)) {
            return Err(KernelError::Trusted { target, by: *by });
        }
        let ban = Ban {
            target,
            cause,
            expires_mono_ns,
        };
        // The config's entry never expires, so it stays in the map; the ban is remembered behind it.
        if !self.block.contains(&target) {
            let new = !self.bans.contains_key(&target);
            self.put(Place::of_block(target), target, rule_of(ban), new)?;
        }
        self.bans.insert(target, ban);
        Ok(())
    }

    pub(super) fn unban(&mut self, target: IpNet) -> Result<bool, KernelError> {
        let target = canonical(target);
        let known = self.remove_ban(target)?;
        self.rebuild_hints()?;
        Ok(known)
    }

    pub(super) fn sweep(&mut self, now_mono_ns: u64) -> Result<Vec<Ban>, KernelError> {
        let over: Vec<Ban> = self
            .bans
            .values()
            .filter(|ban| ban.expires_mono_ns <= now_mono_ns)
            .copied()
            .collect();
        for ban in &over {
            self.remove_ban(ban.target)?;
        }
        self.rebuild_hints()?;
        Ok(over)
    }

    /// Whether there was one, here or in the map: what is dropped must always be possible to lift.
    fn remove_ban(&mut self, target: IpNet) -> Result<bool, KernelError> {
        let known = self.bans.contains_key(&target);
        let mut found = false;
        if !self.block.contains(&target) {
            found = self.take(Place::of_block(target), target, known)?;
        }
        self.bans.remove(&target);
        Ok(known || found)
    }

    fn put(&mut self, place: Place, net: IpNet, rule: Rule, new: bool) -> Result<(), KernelError> {
        let m = &mut self.maps;
        // The hint first: one without an entry does no harm, an entry without a hint is not found.
        match net {
            IpNet::V4(_) => m.hints_v4.add(net)?,
            IpNet::V6(_) => m.hints_v6.add(net)?,
        }
        let done = match place {
            Place::AllowV4 => m.allow_v4.insert(&trie_v4(net), rule, 0),
            Place::AllowV6 => m.allow_v6.insert(&trie_v6(net), rule, 0),
            Place::BlockV4 => m.block_v4.insert(v4(net), rule, 0),
            Place::BlockV6 => m.block_v6.insert(v6(net), rule, 0),
            Place::Net64 => m.block_net64.insert(v6(net)[0], rule, 0),
            Place::PrefixV4 => m.prefix_v4.insert(&trie_v4(net), rule, 0),
            Place::PrefixV6 => m.prefix_v6.insert(&trie_v6(net), rule, 0),
        };
        done.map_err(KernelError::map(NAMES[place as usize]))?;
        if new {
            self.counts[place as usize] += 1;
        }
        Ok(())
    }

    /// Whether it was there. `counted`: it is among [`Lists::counts`].
    fn take(&mut self, place: Place, net: IpNet, counted: bool) -> Result<bool, KernelError> {
        let m = &mut self.maps;
        let done = match place {
            Place::AllowV4 => m.allow_v4.remove(&trie_v4(net)),
            Place::AllowV6 => m.allow_v6.remove(&trie_v6(net)),
            Place::BlockV4 => m.block_v4.remove(&v4(net)),
            Place::BlockV6 => m.block_v6.remove(&v6(net)),
            Place::Net64 => m.block_net64.remove(&v6(net)[0]),
            Place::PrefixV4 => m.prefix_v4.remove(&trie_v4(net)),
            Place::PrefixV6 => m.prefix_v6.remove(&trie_v6(net)),
        };
        let found = match done {
            Ok(()) => true,
            Err(e) if is_missing(&e) => false,
            Err(e) => return Err(KernelError::map(NAMES[place as usize])(e)),
        };
        if counted {
            self.counts[place as usize] = self.counts[place as usize].saturating_sub(1);
        }
        match net {
            IpNet::V4(_) => self.stale_v4 += 1,
            IpNet::V6(_) => self.stale_v6 += 1,
        }
        Ok(found)
    }

    /// Builds the hints anew once enough bits may be left over to matter.
    fn rebuild_hints(&mut self) -> Result<(), KernelError> {
        let blocks = self.block.iter().chain(self.bans.keys());
        let entries = blocks.chain(&self.allow).copied();
        let bearable = STALE_MIN.max(self.counts.iter().sum::<usize>() / 8);
        if self.stale_v4 > bearable {
            let nets = entries.clone().filter(|net| matches!(net, IpNet::V4(_)));
            self.maps.hints_v4.rebuild(nets)?;
            self.stale_v4 = 0;
        }
        if self.stale_v6 > bearable {
            let nets = entries.filter(|net| matches!(net, IpNet::V6(_)));
            self.maps.hints_v6.rebuild(nets)?;
            self.stale_v6 = 0;
        }
        Ok(())
    }
}

/// Removals that are not worth a walk over the bitmap.
const STALE_MIN: usize = 64;

/// What is in `from` and not in `known`.
fn missing(from: &BTreeSet<IpNet>, known: &BTreeSet<IpNet>) -> Vec<IpNet> {
    from.difference(known).copied().collect()
}

fn config_rule(net: IpNet) -> Rule {
    Rule::new(CAUSE_CONFIG, NEVER, net.prefix_len())
}

fn rule_of(ban: Ban) -> Rule {
    Rule::new(ban.cause, ban.expires_mono_ns, ban.target.prefix_len())
}

fn is_missing(e: &MapError) -> bool {
    matches!(e, MapError::KeyNotFound | MapError::ElementNotFound)
        || os_error(e) == Some(libc::ENOENT)
}

// Keys are the address as it stands in the packet.

fn v4(net: IpNet) -> u32 {
    match net {
        IpNet::V4(net) => u32::from_ne_bytes(net.network().octets()),
        IpNet::V6(_) => unreachable!("places of IPv4 hold IPv4 only"),
    }
}

fn v6(net: IpNet) -> [u64; 2] {
    match net {
        IpNet::V6(net) => {
            let both = u128::from(net.network());
            [((both >> 64) as u64).to_be(), (both as u64).to_be()]
        }
        IpNet::V4(_) => unreachable!("places of IPv6 hold IPv6 only"),
    }
}

fn trie_v4(net: IpNet) -> Key<u32> {
    Key::new(u32::from(net.prefix_len()), v4(net))
}

fn trie_v6(net: IpNet) -> Key<[u64; 2]> {
    Key::new(u32::from(net.prefix_len()), v6(net))
}
