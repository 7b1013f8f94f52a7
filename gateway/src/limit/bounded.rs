//! A concurrent map that never grows past its bound: at the bound the coldest of a sample goes.
//! Beside the map stands, in stripes, a list of its keys: it is what gets sampled and swept, so that
//! neither eviction nor sweep ever walks (or locks) the whole map.

use dashmap::DashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How recently an entry mattered: the smallest goes first.
pub trait Heat {
    fn heat(&self) -> u64;
}

const STRIPES: usize = 64;
/// Entries looked at to find the one to evict.
const SAMPLE: usize = 8;

struct Stripe<K> {
    keys: Vec<K>,
    /// Where the sweep goes on.
    cursor: usize,
    /// State of a small generator that picks sample positions; quality does not matter.
    dice: u64,
}

pub struct BoundedMap<K, V, S> {
    map: DashMap<K, V, S>,
    stripes: Box<[Mutex<Stripe<K>>]>,
    per_stripe: usize,
    evicted: AtomicU64,
}

impl<K: Copy + Eq + Hash, V: Heat, S: BuildHasher + Clone> BoundedMap<K, V, S> {
    /// Holds at most `max` entries (rounded up to a multiple of the stripe count, or `max` itself
    /// when that is small). Keys spread over stripes by hash, each stripe with its share of the bound.
    pub fn new(max: usize, hasher: S) -> Self {
        let max = max.max(1);
        let stripes = if max < STRIPES * SAMPLE { 1 } else { STRIPES };
        BoundedMap {
            map: DashMap::with_hasher(hasher),
            stripes: (0..stripes)
                .map(|i| {
                    Mutex::new(Stripe {
                        keys: Vec::new(),
                        cursor: 0,
                        dice: 0x9e37_79b9_7f4a_7c15 ^ i as u64,
                    })
                })
                .collect(),
            per_stripe: max.div_ceil(stripes),
            evicted: AtomicU64::new(0),
        }
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that left because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// `f` on the entry, under a read guard: `f` must not come back to this map.
    pub fn view<R>(&self, key: &K, f: impl FnOnce(&V) -> R) -> Option<R> {
        self.map.view(key, |_, v| f(v))
    }

    /// `f` on the entry, made by `make` if it is absent, under a read guard.
    pub fn with<R>(&self, key: K, make: impl FnOnce() -> V, f: impl Fn(&V) -> R) -> R {
        if let Some(out) = self.view(&key, &f) {
            return out;
        }
        // Keys of one stripe enter and leave only under its lock, so an entry is made exactly once.
        let mut stripe = self.stripe(&key);
        if let Some(out) = self.view(&key, &f) {
            return out;
        }
        let value = make();
        let out = f(&value);
        self.add(&mut stripe, key, value);
        out
    }

    /// `f` on the entry if it is there, under a write guard.
    pub fn change(&self, key: &K, f: impl FnOnce(&mut V)) {
        if let Some(mut entry) = self.map.get_mut(key) {
            f(&mut entry);
        }
    }

    /// `f` on the entry, made by `make` if it is absent, under a write guard.
    pub fn update<R>(&self, key: K, make: impl FnOnce() -> V, f: impl FnOnce(&mut V) -> R) -> R {
        if let Some(mut entry) = self.map.get_mut(&key) {
            return f(&mut entry);
        }
        let mut stripe = self.stripe(&key);
        if let Some(mut entry) = self.map.get_mut(&key) {
            return f(&mut entry);
        }
        let mut value = make();
        let out = f(&mut value);
        self.add(&mut stripe, key, value);
        out
    }

    /// Looks at up to `budget` entries in all, a few of every stripe, and drops those that `idle`
    /// says. Goes on where the last call stopped. Returns how many went.
    pub fn sweep(&self, budget: usize, idle: impl Fn(&V) -> bool) -> usize {
        // A core that meets a new key waits for its stripe, so each is held for some microseconds only.
        let each = (budget / self.stripes.len()).max(1);
        let stripes = self.stripes.iter();
        stripes
            .map(|stripe| self.sweep_stripe(&mut lock(stripe), each, &idle))
            .sum()
    }

    fn sweep_stripe(
        &self,
        stripe: &mut Stripe<K>,
        budget: usize,
        idle: impl Fn(&V) -> bool,
    ) -> usize {
        let mut dropped = 0;
        for _ in 0..budget.min(stripe.keys.len()) {
            if stripe.cursor >= stripe.keys.len() {
                stripe.cursor = 0;
            }
            let key = stripe.keys[stripe.cursor];
            if self.map.remove_if(&key, |_, v| idle(v)).is_some() {
                stripe.keys.swap_remove(stripe.cursor);
                dropped += 1;
            } else {
                stripe.cursor += 1;
            }
        }
        dropped
    }

    fn add(&self, stripe: &mut Stripe<K>, key: K, value: V) {
        if stripe.keys.len() < self.per_stripe {
            stripe.keys.push(key);
        } else {
            let victim = self.coldest(stripe);
            self.map.remove(&stripe.keys[victim]);
            self.evicted.fetch_add(1, Relaxed);
            stripe.keys[victim] = key;
        }
        self.map.insert(key, value);
    }

    /// Position of the coldest of a sample of a full stripe.
    fn coldest(&self, stripe: &mut Stripe<K>) -> usize {
        let mut best = (u64::MAX, 0);
        for _ in 0..SAMPLE {
            stripe.dice = stripe
                .dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (stripe.dice >> 33) as usize % stripe.keys.len();
            let heat = self.view(&stripe.keys[at], Heat::heat).unwrap_or(0);
            if heat <= best.0 {
                best = (heat, at);
            }
        }
        best.1
    }

    fn stripe(&self, key: &K) -> MutexGuard<'_, Stripe<K>> {
        let hash = self.map.hasher().hash_one(key);
        lock(&self.stripes[(hash >> 20) as usize % self.stripes.len()])
    }
}

fn lock<K>(stripe: &Mutex<Stripe<K>>) -> MutexGuard<'_, Stripe<K>> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::hash_map::RandomState;

    struct At(u64);
    impl Heat for At {
        fn heat(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn never_past_the_bound_and_the_cold_go() {
        for max in [1, 10, 1_000] {
            let map = BoundedMap::new(max, RandomState::new());
            // One hot entry survives any number of cold ones.
            map.with(u64::MAX, || At(u64::MAX), |_| ());
            for i in 0..20_000u64 {
                map.with(i, || At(i), |_| ());
            }
            assert!(map.len() <= max.div_ceil(64) * 64, "{} > {max}", map.len());
            assert!(map.evicted() >= 20_000 - map.len() as u64);
            if max > 1 {
                assert!(map.view(&u64::MAX, |_| ()).is_some());
            }
        }
    }

    #[test]
    fn sweeps_in_bounded_steps() {
        let map = BoundedMap::new(10_000, RandomState::new());
        for i in 0..1_000u64 {
            map.with(i, || At(i), |_| ());
        }
        assert!(map.sweep(64, |v| v.0 < 500) <= 64);
        for _ in 0..100 {
            map.sweep(64, |v| v.0 < 500);
        }
        assert_eq!(map.len(), 500);
        assert!(map.view(&499, |_| ()).is_none() && map.view(&500, |_| ()).is_some());
    }

    #[test]
    fn update_makes_once() {
        let map = BoundedMap::new(10, RandomState::new());
        let bump = |v: &mut At| {
            v.0 += 1;
            v.0
        };
        assert_eq!(map.update(1u64, || At(0), bump), 1);
        assert_eq!(map.update(1u64, || At(0), bump), 2);
    }
}
