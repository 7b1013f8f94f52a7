//! The order in which a packet is judged: parse, port scope, allow list, block lists, rate.

use crate::abi::{
    ABI_VERSION, Knobs, NEVER, Reason, Rule, fragments, hint_v4, hint_v6, lists, malformed,
};
use crate::packet::{Address, Packet, Parsed, Payload, parse};
use crate::source::{Charge, Set, charge, set_index};

/// The maps as the verdict sees them: kernel maps in the XDP program, plain collections in tests.
pub trait Tables {
    type Set: Set;

    fn knobs(&self) -> Option<&Knobs>;
    /// `CLOCK_MONOTONIC`; may be as coarse as the timer tick.
    fn now_ns(&self) -> u64;
    fn port_word(&self, word: u32) -> u64;
    fn hint_v4_word(&self, word: u32) -> u64;
    fn hint_v6_word(&self, word: u32) -> u64;
    fn allow_v4(&self, address: u32) -> Option<Rule>;
    fn allow_v6(&self, address: [u64; 2]) -> Option<Rule>;
    fn block_v4(&self, address: u32) -> Option<Rule>;
    fn block_v6(&self, address: [u64; 2]) -> Option<Rule>;
    fn block_net64(&self, high: u64) -> Option<Rule>;
    /// The longest prefix of at most so many bits that the address is in, expired or not.
    fn prefix_v4(&self, address: u32, bits: u32) -> Option<Rule>;
    fn prefix_v6(&self, address: [u64; 2], bits: u32) -> Option<Rule>;
    fn source_set(&self, index: u32) -> Option<Self::Set>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: Reason,
    /// [`Rule::cause`] of the list entry that decided, else 0.
    pub cause: u8,
}

#[inline(always)]
const fn because(reason: Reason) -> Verdict {
    Verdict { reason, cause: 0 }
}

/// Judges one frame.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Verdict {
    let Some(knobs) = tables.knobs() else {
        return because(Reason::NotJudged);
    };
    if knobs.abi_version != ABI_VERSION {
        return because(Reason::NotJudged);
    }
    let flow = match parse(packet) {
        Parsed::Other => return because(Reason::NotJudged),
        Parsed::Malformed if knobs.malformed == malformed::DROP => {
            return because(Reason::Malformed);
        }
        Parsed::Malformed => return because(Reason::PassedMalformed),
        Parsed::Ip(flow) => flow,
    };
    let (admitted, fragmented) = match flow.payload {
        Payload::Portless => return because(Reason::NotJudged),
        Payload::Ports {
            destination,
            fragmented,
            cut,
            ..
        } => {
            let word = tables.port_word(u32::from(destination) >> 6);
            if word >> (destination & 63) & 1 == 0 {
                return because(Reason::NotJudged);
            }
            if cut {
                return because(Reason::Malformed);
            }
            (Reason::Passed, fragmented)
        }
        Payload::LaterFragment if knobs.fragments == fragments::PASS => {
            return because(Reason::PassedFragment);
        }
        Payload::LaterFragment => (Reason::PassedFragment, true),
        Payload::Unreadable if knobs.malformed == malformed::DROP => {
            return because(Reason::Malformed);
        }
        Payload::Unreadable if knobs.malformed == malformed::PASS => {
            return because(Reason::PassedMalformed);
        }
        // A stack walks chains that we do not: who is blocked or too fast must not hide behind one.
        Payload::Unreadable => (Reason::PassedMalformed, false),
    };
    if let Some(verdict) = listed(flow.source, knobs, tables) {
        return verdict;
    }
    if fragmented && knobs.fragments == fragments::DROP {
        return because(Reason::Fragment);
    }
    because(rated(flow.source, knobs, tables, admitted))
}

/// The hint first: most sources share their range with no entry, and are done. Then the allow list, whatever the
/// block lists say; then the exact entries; then the prefixes.
#[inline(always)]
fn listed<T: Tables>(source: Address, knobs: &Knobs, tables: &T) -> Option<Verdict> {
    match source {
        Address::V4(address) => listed_v4(address, knobs.lists & lists::V4, tables),
        Address::V6(address) => listed_v6(address, knobs.lists & lists::V6, tables),
    }
}

#[inline(always)]
fn listed_v4<T: Tables>(address: u32, filled: u32, tables: &T) -> Option<Verdict> {
    let slot = hint_v4(address);
    if filled == 0 || tables.hint_v4_word(slot >> 6) >> (slot & 63) & 1 == 0 {
        return None;
    }
    if filled & lists::ALLOW_V4 != 0 {
        let rule = tables.allow_v4(address);
        if let Some(verdict) = applies(rule, Reason::Allowed, tables) {
            return Some(verdict);
        }
    }
    if filled & lists::BLOCK_V4 != 0 {
        let rule = tables.block_v4(address);
        if let Some(verdict) = applies(rule, Reason::BlockedAddress, tables) {
            return Some(verdict);
        }
    }
    if filled & lists::PREFIX_V4 != 0 {
        return in_force(32, |bits| tables.prefix_v4(address, bits), tables);
    }
    None
}

#[inline(always)]
fn listed_v6<T: Tables>(address: [u64; 2], filled: u32, tables: &T) -> Option<Verdict> {
    let slot = hint_v6(address[0]);
    if filled == 0 || tables.hint_v6_word(slot >> 6) >> (slot & 63) & 1 == 0 {
        return None;
    }
    if filled & lists::ALLOW_V6 != 0 {
        let rule = tables.allow_v6(address);
        if let Some(verdict) = applies(rule, Reason::Allowed, tables) {
            return Some(verdict);
        }
    }
    if filled & lists::BLOCK_V6 != 0 {
        let rule = tables.block_v6(address);
        if let Some(verdict) = applies(rule, Reason::BlockedAddress, tables) {
            return Some(verdict);
        }
    }
    if filled & lists::BLOCK_NET64 != 0 {
        let rule = tables.block_net64(address[0]);
        if let Some(verdict) = applies(rule, Reason::BlockedPrefix, tables) {
            return Some(verdict);
        }
    }
    if filled & lists::PREFIX_V6 != 0 {
        return in_force(128, |bits| tables.prefix_v6(address, bits), tables);
    }
    None
}

/// Expired prefixes around one address that are looked behind: all there can be for IPv4.
const NESTED_MAX: u32 = 32;

/// The longest prefix that has not expired: one that has must not hide the wider ones around it until it is swept.
#[inline(always)]
fn in_force<T: Tables>(
    most_bits: u32,
    longest: impl Fn(u32) -> Option<Rule>,
    tables: &T,
) -> Option<Verdict> {
    let mut bits = most_bits;
    let mut looked = 0;
    while looked < NESTED_MAX {
        let rule = longest(bits)?;
        let verdict = applies(Some(rule), Reason::BlockedPrefix, tables);
        if verdict.is_some() {
            return verdict;
        }
        bits = u32::from(rule.prefix_bits).checked_sub(1)?;
        looked += 1;
    }
    None
}

/// A rule that has expired is as good as none. The clock is read only for a rule that can expire.
#[inline(always)]
fn applies<T: Tables>(rule: Option<Rule>, reason: Reason, tables: &T) -> Option<Verdict> {
    let rule = rule?;
    if rule.expires_ns != NEVER && tables.now_ns() >= rule.expires_ns {
        return None;
    }
    Some(Verdict {
        reason,
        cause: rule.cause,
    })
}

#[inline(always)]
fn rated<T: Tables>(source: Address, knobs: &Knobs, tables: &T, admitted: Reason) -> Reason {
    if knobs.rate.interval_ns == 0 {
        return admitted;
    }
    let key = source.source_key();
    let index = set_index(key, knobs.seed, knobs.source_mask);
    let Some(set) = tables.source_set(index) else {
        return admitted;
    };
    match charge(&set, key, tables.now_ns(), knobs.rate) {
        Charge::Admitted => admitted,
        Charge::Limited => Reason::RateLimited,
        Charge::Crowded => Reason::Crowded,
    }
}
