//! How soon a worker that died comes back, and when trying again is no longer worth it.

use std::time::Duration;

/// A worker that lived this long was fine: the count starts anew.
const SETTLED: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Deaths in a row, none of them after [`SETTLED`], before the warden gives up.
const QUICK_DEATHS_MAX: u32 = 8;

#[derive(Default, Debug)]
pub struct Backoff {
    quick_deaths: u32,
}

impl Backoff {
    /// A worker died after `lived`. How long to wait before the next, or `None`: give up.
    pub fn died(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= SETTLED {
            self.quick_deaths = 0;
        }
        self.quick_deaths += 1;
        if self.quick_deaths > QUICK_DEATHS_MAX {
            return None;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << (self.quick_deaths - 1));
        Some(wait.min(WAIT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_then_end() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = std::iter::from_fn(|| {
            backoff
                .died(Duration::from_secs(1))
                .map(|w| w.as_millis() as u64)
        })
        .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
    }

    #[test]
    fn a_long_life_starts_the_count_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.died(SETTLED - Duration::from_nanos(1));
        }
        assert_eq!(backoff.died(SETTLED), Some(FIRST_WAIT));
        assert_eq!(backoff.died(Duration::ZERO), Some(FIRST_WAIT * 2));
    }
}
