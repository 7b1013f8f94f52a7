//! How often the worker may ask for something: it talks to strangers, so its requests are counted.

use std::time::{Duration, Instant};

/// A bucket: full at first, and refilled by one each `every`.
pub struct Allowance {
    burst: u32,
    every: Duration,
    left: u32,
    filled_at: Instant,
}

impl Allowance {
    pub fn new(burst: u32, every: Duration, now: Instant) -> Allowance {
        Allowance {
            burst,
            every,
            left: burst,
            filled_at: now,
        }
    }

    /// Takes one, if one is left.
    pub fn take(&mut self, now: Instant) -> bool {
        while self.left < self.burst && now.saturating_duration_since(self.filled_at) >= self.every
        {
            self.left += 1;
            self.filled_at += self.every;
        }
        if self.left == self.burst {
            self.filled_at = now;
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_each_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::new(3, second, start);
        assert_eq!(
            [(); 4].map(|()| allowance.take(start)),
            [true, true, true, false]
        );
        assert!(!allowance.take(start + second - Duration::from_nanos(1)));
        assert!(allowance.take(start + second));
        assert!(!allowance.take(start + second));
        // However long nobody asks, no more than a burst is saved up.
        let later = start + 1000 * second;
        assert_eq!(
            [(); 4].map(|()| allowance.take(later)),
            [true, true, true, false]
        );
        assert!(!allowance.take(later + second / 2));
        assert!(allowance.take(later + second));
    }
}
