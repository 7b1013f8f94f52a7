//! What is normal for one signal: mean and deviation that fade with a half-life.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineKnobs {
    /// After this long a sample weighs half.
    pub half_life: Duration,
    /// How many deviations above the mean are an anomaly.
    pub deviations: f64,
    /// Learn this long before judging.
    pub warm_up: Duration,
    /// An anomaly must last this long to fire.
    pub hold: Duration,
    /// Between two firings of one alert.
    pub min_interval: Duration,
}

/// The deviation is taken to be at least this share of the mean: a perfectly steady signal must not alert on a ripple.
const DEVIATION_OF_MEAN_MIN: f64 = 0.05;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Baseline {
    mean: f64,
    variance: f64,
    learned_ns: u64,
    samples: u64,
}

impl Baseline {
    /// The value above which a sample is anomalous, `None` while warming up. `floor` is the smallest deviation that
    /// matters, in the signal's unit.
    pub fn limit(&self, knobs: &BaselineKnobs, floor: f64) -> Option<f64> {
        let warm = self.learned_ns >= knobs.warm_up.as_nanos() as u64 && self.samples > 1;
        warm.then(|| self.mean + knobs.deviations * self.deviation(floor))
    }

    /// The value below which an anomaly is over: half the way back.
    pub fn clear(&self, knobs: &BaselineKnobs, floor: f64) -> f64 {
        self.mean + knobs.deviations / 2.0 * self.deviation(floor)
    }

    pub fn mean(&self) -> f64 {
        self.mean
    }

    fn deviation(&self, floor: f64) -> f64 {
        self.variance
            .sqrt()
            .max(floor)
            .max(self.mean.abs() * DEVIATION_OF_MEAN_MIN)
    }

    /// Takes in a sample that covers `interval`. Once warm, an anomalous one counts only as the limit itself, so an
    /// attack cannot teach at once that attacks are normal, while a lasting change is learned in the end.
    pub fn learn(&mut self, value: f64, interval: Duration, knobs: &BaselineKnobs, floor: f64) {
        let value = self
            .limit(knobs, floor)
            .map_or(value, |limit| value.min(limit));
        self.samples += 1;
        self.learned_ns = self.learned_ns.saturating_add(interval.as_nanos() as u64);
        let fade =
            1.0 - 0.5f64.powf(interval.as_secs_f64() / knobs.half_life.as_secs_f64().max(1e-3));
        // The first samples are averaged evenly, else the very first would weigh as much as all after it.
        let weight = fade.max(1.0 / self.samples as f64);
        let off = value - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOBS: BaselineKnobs = BaselineKnobs {
        half_life: Duration::from_secs(600),
        deviations: 4.0,
        warm_up: Duration::from_secs(100),
        hold: Duration::from_secs(30),
        min_interval: Duration::from_secs(300),
    };
    const TICK: Duration = Duration::from_secs(10);

    fn learned(values: impl IntoIterator<Item = f64>) -> Baseline {
        let mut b = Baseline::default();
        for v in values {
            b.learn(v, TICK, &KNOBS, 1.0);
        }
        b
    }

    #[test]
    fn judges_only_when_warm() {
        assert_eq!(learned(vec![10.0; 9]).limit(&KNOBS, 1.0), None);
        assert_eq!(learned(vec![10.0; 10]).limit(&KNOBS, 1.0), Some(14.0)); // the floor: no deviation was seen
        assert_eq!(learned(vec![100.0; 10]).limit(&KNOBS, 1.0), Some(120.0)); // a twentieth of the mean
    }

    #[test]
    fn follows_mean_and_deviation() {
        let b = learned((0..200).map(|i| if i % 2 == 0 { 90.0 } else { 110.0 }));
        assert!((b.mean() - 100.0).abs() < 1.0, "{b:?}");
        assert!((b.deviation(1.0) - 10.0).abs() < 0.5, "{b:?}");
    }

    #[test]
    fn half_of_a_step_is_learned_in_a_half_life() {
        // Deviations are wide here, so the cap does not hold the step back.
        let knobs = BaselineKnobs {
            deviations: 1e6,
            ..KNOBS
        };
        let mut b = Baseline::default();
        for _ in 0..600 {
            b.learn(0.0, TICK, &knobs, 1.0);
        }
        for _ in 0..60 {
            b.learn(100.0, TICK, &knobs, 1.0);
        }
        assert!((b.mean() - 50.0).abs() < 1.0, "{b:?}");
    }

    #[test]
    fn one_huge_sample_moves_little() {
        let mut b = learned(vec![10.0; 100]);
        b.learn(1e9, TICK, &KNOBS, 1.0);
        assert!(b.mean() < 10.1, "{b:?}");
    }
}
