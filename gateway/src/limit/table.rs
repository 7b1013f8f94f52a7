//! GCRA state of every limited key, exact across cores: one word per key, compare-and-swap.

use super::bounded::{BoundedMap, Heat};
use crate::units::Rate;
use gateway_common::gcra::{RateKnobs, admit};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A rate with its burst, ready for arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The quota as configured: events per `per_ns`.
    pub count: u64,
    pub per_ns: u64,
    /// Events that a quiet caller may send at once, at least 1.
    pub burst: u64,
    interval_ns: u64,
}

impl Window {
    /// `burst` of 0 means 1. The interval is rounded up, so the rate is never exceeded.
    pub fn new(rate: Rate, burst: u64) -> Window {
        let per_ns = rate.per.as_nanos().min(u128::from(u64::MAX)) as u64;
        Window {
            count: rate.count,
            per_ns,
            burst: burst.max(1),
            interval_ns: per_ns.div_ceil(rate.count.max(1)).max(1),
        }
    }

    /// What an event of `cost` needs; `None` when no amount of waiting would be enough.
    fn knobs(&self, cost: u64) -> Option<RateKnobs> {
        let spare = self.burst.checked_sub(cost)?;
        Some(RateKnobs {
            interval_ns: self.interval_ns.saturating_mul(cost),
            burst_ns: self.interval_ns.saturating_mul(spare),
        })
    }

    /// Events of cost 1 that would be admitted now.
    fn remaining(&self, ahead_ns: u64) -> u64 {
        let full_ns = self.interval_ns.saturating_mul(self.burst);
        full_ns.saturating_sub(ahead_ns) / self.interval_ns
    }
}

/// The answer, with what the `RateLimit` fields need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// The burst: most that can be had at once.
    pub limit: u64,
    /// Events that would be admitted now.
    pub remaining: u64,
    /// Seconds, rounded up, until `remaining` is `limit` again.
    pub reset_s: u64,
    /// Seconds, rounded up, until this event would be admitted; 0 when it was.
    pub retry_after_s: u64,
}

struct Cell(AtomicU64);

impl Heat for Cell {
    fn heat(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// 128 bits of a keyed hash: unguessable, so callers can neither collide on purpose nor be read back.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u64; 2]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// The key is a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

pub struct LimitTable {
    cells: BoundedMap<Key, Cell, BuildHasherDefault<Identity>>,
    hasher: SipHasher13,
}

/// Keys held when the config names no other bound: about 60 MiB when full.
pub const KEYS_MAX_DEFAULT: usize = 1 << 20;
/// An entry must be idle this long before the sweep takes it: cores read the clock at slightly
/// different times, and none may find an entry gone that it would still have counted.
const GRACE_NS: u64 = 1_000_000_000;
const SWEEP_STEP: usize = 4096;

impl Default for LimitTable {
    fn default() -> Self {
        LimitTable::new(KEYS_MAX_DEFAULT)
    }
}

impl LimitTable {
    /// Holds at most `max_keys` callers; beyond, those with the most credit are forgotten first.
    pub fn new(max_keys: usize) -> LimitTable {
        LimitTable {
            cells: BoundedMap::new(max_keys, BuildHasherDefault::default()),
            hasher: SipHasher13::new_with_key(&random_key()),
        }
    }

    /// Counts an event of `cost` by `key` against limit `limit_id`. A refused event costs nothing.
    pub fn check(
        &self,
        limit_id: u64,
        key: &[u8],
        window: &Window,
        cost: u64,
        now_ns: u64,
    ) -> Decision {
        let Some(knobs) = window.knobs(cost) else {
            return Decision {
                allowed: false,
                limit: window.burst,
                remaining: 0,
                reset_s: secs_up(window.per_ns),
                retry_after_s: secs_up(window.per_ns).max(1),
            };
        };
        let (due_ns, wait_ns) = self.cells.with(
            self.key(limit_id, key),
            || Cell(AtomicU64::new(0)),
            |cell| claim(&cell.0, now_ns, knobs),
        );
        let ahead_ns = due_ns.saturating_sub(now_ns);
        Decision {
            allowed: wait_ns == 0,
            limit: window.burst,
            remaining: window.remaining(ahead_ns),
            reset_s: secs_up(ahead_ns),
            retry_after_s: secs_up(wait_ns),
        }
    }

    /// A bounded step of forgetting idle keys, for the control thread. Returns how many went.
    pub fn sweep(&self, now_ns: u64) -> usize {
        self.cells.sweep(SWEEP_STEP, |cell| {
            cell.0.load(Relaxed).saturating_add(GRACE_NS) <= now_ns
        })
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Keys forgotten because the table was full.
    pub fn evicted(&self) -> u64 {
        self.cells.evicted()
    }

    fn key(&self, limit_id: u64, key: &[u8]) -> Key {
        let mut hasher = self.hasher;
        hasher.write_u64(limit_id);
        hasher.write(key);
        let (low, high) = hasher.finish128().as_u64();
        Key([low, high])
    }
}

/// `(due, 0)` after an admitted event, `(due, wait)` of a refused one.
fn claim(cell: &AtomicU64, now_ns: u64, knobs: RateKnobs) -> (u64, u64) {
    // Relaxed is enough: the word is the whole state, nothing else is published through it.
    let mut due_ns = cell.load(Relaxed);
    loop {
        match admit(due_ns, now_ns, knobs) {
            Err(wait_ns) => return (due_ns, wait_ns),
            Ok(next_ns) => match cell.compare_exchange_weak(due_ns, next_ns, Relaxed, Relaxed) {
                Ok(_) => return (next_ns, 0),
                Err(current) => due_ns = current,
            },
        }
    }
}

fn secs_up(ns: u64) -> u64 {
    ns.div_ceil(1_000_000_000)
}

/// A seed for keyed hashes. Falls back to the standard library's random keys if the generator fails.
pub(crate) fn random_key() -> [u8; 16] {
    let mut key = [0; 16];
    if aws_lc_rs::rand::fill(&mut key).is_err() {
        use std::hash::BuildHasher;
        let seed = std::collections::hash_map::RandomState::new();
        key[..8].copy_from_slice(&seed.hash_one(0u8).to_le_bytes());
        key[8..].copy_from_slice(&seed.hash_one(1u8).to_le_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    const S: u64 = 1_000_000_000;

    fn window(rate: &str, burst: u64) -> Window {
        Window::new(rate.parse().unwrap(), burst)
    }

    #[test]
    fn both_sides_of_the_line() {
        let table = LimitTable::new(100);
        let w = window("1/s", 2);
        let at = |now| table.check(1, b"k", &w, 1, now);
        let first = at(10 * S);
        assert_eq!(
            (first.allowed, first.remaining, first.reset_s),
            (true, 1, 1)
        );
        assert_eq!(at(10 * S).remaining, 0);
        let refused = at(10 * S);
        assert_eq!((refused.allowed, refused.retry_after_s), (false, 1));
        assert!(!at(11 * S - 1).allowed); // one nanosecond early
        assert!(at(11 * S).allowed);
        // Other keys and other limits are not affected.
        assert!(table.check(1, b"other", &w, 1, 10 * S).allowed);
        assert!(table.check(2, b"k", &w, 1, 10 * S).allowed);
    }

    #[test]
    fn costs() {
        let table = LimitTable::new(100);
        let w = window("10/s", 10);
        assert!(table.check(1, b"k", &w, 7, S).allowed);
        assert!(!table.check(1, b"k", &w, 4, S).allowed);
        assert!(table.check(1, b"k", &w, 3, S).allowed);
        let never = table.check(1, b"new", &w, 11, S);
        assert!(!never.allowed && never.retry_after_s >= 1);
    }

    #[test]
    fn sweep_forgets_only_the_idle() {
        let table = LimitTable::new(100);
        let w = window("1/s", 5);
        table.check(1, b"idle", &w, 1, 10 * S);
        table.check(1, b"busy", &w, 5, 12 * S);
        assert_eq!(table.sweep(12 * S), 1);
        assert_eq!(table.len(), 1);
        assert!(!table.check(1, b"busy", &w, 2, 12 * S).allowed);
    }

    #[test]
    fn threads_never_over_admit() {
        let table = LimitTable::new(1000);
        let w = window("1000/s", 500);
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for i in 0..20_000u64 {
                        // Virtual time: all threads walk through the same second.
                        let now = 5 * S + i * (S / 20_000);
                        if table.check(1, b"k", &w, 1, now).allowed {
                            admitted.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        let admitted = admitted.load(Relaxed);
        assert!(admitted <= 1500, "{admitted}");
        assert!(admitted >= 1000, "{admitted}");
    }

    #[test]
    fn first_sight_by_many_threads_counts_each() {
        for round in 0..200u64 {
            let table = LimitTable::new(1000);
            let w = window("1/s", 3);
            let admitted = AtomicUsize::new(0);
            std::thread::scope(|s| {
                for _ in 0..4 {
                    s.spawn(|| {
                        for _ in 0..2 {
                            if table.check(round, b"k", &w, 1, S).allowed {
                                admitted.fetch_add(1, Relaxed);
                            }
                        }
                    });
                }
            });
            assert_eq!(admitted.load(Relaxed), 3);
        }
    }

    proptest! {
        /// Against a token bucket kept in exact integers: a full bucket holds `burst` intervals of credit.
        #[test]
        fn agrees_with_an_exact_bucket(
            count in 1u64..50, burst in 1u64..20,
            steps in prop::collection::vec((0u64..300_000_000, 1u64..4), 1..200),
        ) {
            let table = LimitTable::new(10);
            let w = Window::new(Rate { count, per: std::time::Duration::from_secs(1) }, burst);
            let interval = w.interval_ns;
            let (mut credit, mut now) = (burst * interval, S);
            for (gap, cost) in steps {
                now += gap;
                credit = (credit + gap).min(burst * interval);
                let expected = credit >= cost * interval;
                if expected {
                    credit -= cost * interval;
                }
                let got = table.check(1, b"k", &w, cost, now);
                prop_assert_eq!(got.allowed, expected);
                if got.allowed || cost <= burst {
                    prop_assert_eq!(got.remaining, credit / interval);
                }
            }
        }
    }
}
