//! Passive health: a target that cannot be reached rests for a while that doubles with each
//! failure in a row. Shared by all cores; one word each, no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

const REST_FIRST_NS: u64 = 500_000_000;
const REST_MAX_NS: u64 = 30_000_000_000;

#[derive(Debug, Default)]
pub struct Health {
    failures_in_a_row: AtomicU32,
    rests_until_ns: AtomicU64,
}

impl Health {
    pub fn is_resting(&self, now_ns: u64) -> bool {
        self.rests_until_ns.load(Relaxed) > now_ns
    }

    pub fn succeeded(&self) {
        // A read first: the usual case must not bounce the cache line between cores.
        if self.failures_in_a_row.load(Relaxed) != 0 {
            self.failures_in_a_row.store(0, Relaxed);
            self.rests_until_ns.store(0, Relaxed);
        }
    }

    pub fn failed(&self, now_ns: u64) {
        if self.is_resting(now_ns) {
            return; // the failures of one outage count once per rest
        }
        let failures = self.failures_in_a_row.fetch_add(1, Relaxed).min(16);
        let rest_ns = (REST_FIRST_NS << failures).min(REST_MAX_NS);
        self.rests_until_ns.store(now_ns + rest_ns, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_and_end() {
        let h = Health::default();
        assert!(!h.is_resting(0));
        h.failed(1);
        assert!(h.is_resting(REST_FIRST_NS));
        assert!(!h.is_resting(1 + REST_FIRST_NS));
        h.failed(2); // while resting: the same outage
        assert!(!h.is_resting(1 + REST_FIRST_NS));
        let later = 10 * REST_MAX_NS;
        h.failed(later);
        assert!(h.is_resting(later + 2 * REST_FIRST_NS - 1));
        assert!(!h.is_resting(later + 2 * REST_FIRST_NS));
        h.succeeded();
        assert!(!h.is_resting(later));
        for i in 0..100 {
            h.failed(later + i * 2 * REST_MAX_NS);
        }
        assert!(!h.is_resting(later + 99 * 2 * REST_MAX_NS + REST_MAX_NS));
    }
}
