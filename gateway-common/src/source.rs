//! The table of sources: 4-way set-associative, in an array map, replacing the coldest.
//!
//! The GCRA due time doubles as warmth: a source that was just admitted is due later than one that was quiet,
//! and a source over its limit is due latest of all. So the least due entry is the one to give up, and a source
//! over its limit keeps its entry while any number of others pass by. Where all four are over their limit, the
//! newcomer is refused instead: forgetting one of them would hand it a new burst.

use crate::abi::WAYS;
use crate::gcra::{RateKnobs, admit};

/// One set, with the two atomic steps the table needs. A failed step changes nothing.
pub trait Set {
    fn key(&self, way: usize) -> u64;
    fn due_ns(&self, way: usize) -> u64;
    /// Compare and swap of the key.
    fn claim(&self, way: usize, from: u64, to: u64) -> bool;
    /// Compare and swap of the due time; the value found otherwise.
    fn advance(&self, way: usize, from_ns: u64, to_ns: u64) -> Result<(), u64>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    Admitted,
    Limited,
    /// No room for a new source.
    Crowded,
}

/// Lost races before a packet counts as over the limit: only a source that several CPUs hammer loses this often.
const TRIES: usize = 4;

/// The place of a source. A bijection of the key, mixed with a secret, so that nobody can aim at a set.
#[inline(always)]
pub const fn set_index(key: u64, seed: u64, mask: u32) -> u32 {
    let mut h = (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^= h >> 32;
    h = (h ^ seed.rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (h >> 32) as u32 & mask
}

/// Charges one packet to the source `key`.
#[inline(always)]
pub fn charge<S: Set>(set: &S, key: u64, now_ns: u64, knobs: RateKnobs) -> Charge {
    let mut way = 0;
    while way < WAYS {
        if set.key(way) == key {
            return spend(set, way, now_ns, knobs);
        }
        way += 1;
    }
    enter(set, key, now_ns, knobs)
}

#[inline(always)]
fn spend<S: Set>(set: &S, way: usize, now_ns: u64, knobs: RateKnobs) -> Charge {
    let mut due_ns = set.due_ns(way);
    let mut tries = 0;
    while tries < TRIES {
        let Ok(next_ns) = admit(due_ns, now_ns, knobs) else {
            return Charge::Limited;
        };
        match set.advance(way, due_ns, next_ns) {
            Ok(()) => return Charge::Admitted,
            Err(found_ns) => due_ns = found_ns,
        }
        tries += 1;
    }
    Charge::Limited
}

#[inline(always)]
fn enter<S: Set>(set: &S, key: u64, now_ns: u64, knobs: RateKnobs) -> Charge {
    let mut coldest = 0;
    let mut least_ns = set.due_ns(0);
    let mut way = 1;
    while way < WAYS {
        let due_ns = set.due_ns(way);
        if due_ns < least_ns {
            least_ns = due_ns;
            coldest = way;
        }
        way += 1;
    }
    if admit(least_ns, now_ns, knobs).is_err() {
        return Charge::Crowded;
    }
    let old = set.key(coldest);
    if old == key {
        // Another CPU entered the same source meanwhile.
        return spend(set, coldest, now_ns, knobs);
    }
    if set.claim(coldest, old, key) {
        // Whoever finds the new key before this step charges it on the old due time, which is no later.
        let _ = set.advance(coldest, least_ns, now_ns.saturating_add(knobs.interval_ns));
        return Charge::Admitted;
    }
    // Another CPU took the place. If for the same source, charge it there; if not, one packet goes uncharged.
    if set.key(coldest) == key {
        return spend(set, coldest, now_ns, knobs);
    }
    Charge::Admitted
}
