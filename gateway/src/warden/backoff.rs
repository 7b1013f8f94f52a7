//! How soon a worker that died comes back. A worker that has served once is never given up: what ails it may pass,
//! and clients that wait are better off than clients that are refused for good.

use std::time::Duration;

/// A worker that lived this long was fine: the count starts anew.
const SETTLED: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Default, Debug)]
pub struct Backoff {
    /// Deaths in a row, none of them after [`SETTLED`].
    quick_deaths: u32,
}

impl Backoff {
    /// A worker died after `lived`. How long to wait before the next.
    pub fn died(&mut self, lived: Duration) -> Duration {
        if lived >= SETTLED {
            self.quick_deaths = 0;
        }
        let doublings = self.quick_deaths.min(16);
        self.quick_deaths = self.quick_deaths.saturating_add(1);
        FIRST_WAIT.saturating_mul(1 << doublings).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_never_end() {
        let mut backoff = Backoff::default();
        let mut wait = || backoff.died(Duration::from_secs(1)).as_millis() as u64;
        let waits: Vec<u64> = (0..9).map(|_| wait()).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert!((0..1000).all(|_| wait() == 10_000));
    }

    #[test]
    fn a_long_life_starts_the_count_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.died(SETTLED - Duration::from_nanos(1));
        }
        assert_eq!(backoff.died(SETTLED), FIRST_WAIT);
        assert_eq!(backoff.died(Duration::ZERO), FIRST_WAIT * 2);
    }
}
