//! From samples to alerts. Each rule on each route walks Ok -> Pending -> Firing -> Ok; it fires when its signal has
//! been above its limit for the whole hold time, is resolved when it has been below a lower line as long, and speaks
//! at most once per interval.

use super::baseline::{Baseline, BaselineKnobs};
use super::rule::{Reading, Rule, Status};
use crate::clock::Now;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Routes watched at once; further ones count in the total only.
pub const ROUTES_MAX: usize = 4096;
/// A threshold alert is over below this share of its limit.
const CLEAR_SHARE: f64 = 0.8;
/// Ratios and means over fewer requests than this say nothing about what is normal.
const BASELINE_REQUESTS_MIN: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Requests per second.
    RequestRate,
    /// Responses of status 5xx over all, 0 to 1.
    ErrorRatio,
    /// Wrong or expired credentials per second.
    AuthFailures,
    /// Mean total time of an exchange.
    LatencyMs,
    /// Packets per second dropped by the kernel filter; only in total.
    KernelDrops,
}

impl Signal {
    pub const ALL: [Signal; 5] = [
        Signal::RequestRate,
        Signal::ErrorRatio,
        Signal::AuthFailures,
        Signal::LatencyMs,
        Signal::KernelDrops,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Signal::RequestRate => "request_rate",
            Signal::ErrorRatio => "error_ratio",
            Signal::AuthFailures => "auth_failures",
            Signal::LatencyMs => "latency_ms",
            Signal::KernelDrops => "kernel_drops",
        }
    }

    /// The smallest deviation worth an alert, in the signal's unit.
    fn floor(self) -> f64 {
        match self {
            Signal::RequestRate => 5.0,
            Signal::ErrorRatio => 0.02,
            Signal::AuthFailures => 0.5,
            Signal::LatencyMs => 5.0,
            Signal::KernelDrops => 100.0,
        }
    }
}

/// What one route did during `interval`. `route: None` is the total of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteSample {
    pub route: Option<Arc<str>>,
    pub interval: Duration,
    pub requests: u64,
    pub server_errors: u64,
    pub auth_failures: u64,
    pub latency_sum_us: u64,
    pub kernel_drops: u64,
}

impl RouteSample {
    /// `None` where nothing happened that could be measured.
    fn value(&self, signal: Signal) -> Option<f64> {
        let secs = self.interval.as_secs_f64();
        let per_second = |n: u64| (secs > 0.0).then(|| n as f64 / secs);
        let per_request = |n: u64| (self.requests > 0).then(|| n as f64 / self.requests as f64);
        match signal {
            Signal::RequestRate => per_second(self.requests),
            Signal::ErrorRatio => per_request(self.server_errors),
            Signal::AuthFailures => per_second(self.auth_failures),
            Signal::LatencyMs => per_request(self.latency_sum_us).map(|us| us / 1000.0),
            Signal::KernelDrops => self
                .route
                .is_none()
                .then(|| per_second(self.kernel_drops))
                .flatten(),
        }
    }

    /// As above, for learning: averages over a handful of requests are noise.
    fn steady_value(&self, signal: Signal) -> Option<f64> {
        let average = matches!(signal, Signal::ErrorRatio | Signal::LatencyMs);
        if average && self.requests < BASELINE_REQUESTS_MIN {
            return None;
        }
        self.value(signal)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub above: f64,
    pub hold: Duration,
    /// `None`: the total.
    pub route: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct DetectorKnobs {
    pub thresholds: Vec<Threshold>,
    /// Between two firings of one threshold alert.
    pub min_interval: Duration,
    pub baseline: Option<BaselineKnobs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    Threshold,
    Baseline,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::Threshold => "threshold",
            Cause::Baseline => "baseline",
        }
    }
}

/// One thing to tell. Route, signal and cause name the alert; a resolved one matches the firing one before it.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertChange {
    pub status: Status,
    pub route: Option<Arc<str>>,
    pub signal: Signal,
    pub cause: Cause,
    pub value: f64,
    /// The limit it is compared with.
    pub limit: f64,
    /// When the condition began.
    pub since: Now,
    pub at: Now,
}

#[derive(Debug, Default)]
struct Watched {
    baselines: [Baseline; Signal::ALL.len()],
    baseline_rules: [Rule; Signal::ALL.len()],
    /// By index into the knobs' thresholds.
    threshold_rules: HashMap<usize, Rule>,
}

/// All rules over all routes. Lives on the control thread.
#[derive(Debug, Default)]
pub struct Detector {
    knobs: DetectorKnobs,
    routes: HashMap<Option<Arc<str>>, Watched>,
}

impl Detector {
    pub fn new(knobs: DetectorKnobs) -> Detector {
        Detector {
            knobs,
            routes: HashMap::new(),
        }
    }

    /// Takes new knobs and keeps what was learned, and where each threshold stands that is in both. Gives the end of
    /// every alert whose rule is gone: whoever heard of its beginning would wait for it.
    pub fn reconfigure(&mut self, knobs: DetectorKnobs, now: Now) -> Vec<AlertChange> {
        let before = std::mem::replace(&mut self.knobs, knobs);
        let kept = places(&before.thresholds, &self.knobs.thresholds);
        let mut changes = Vec::new();
        for (route, watched) in &mut self.routes {
            let sample = RouteSample {
                route: route.clone(),
                ..RouteSample::default()
            };
            watched.move_thresholds(&before.thresholds, &kept, &sample, now, &mut changes);
            if let (Some(old), None) = (&before.baseline, &self.knobs.baseline) {
                watched.end_baselines(old, &sample, now, &mut changes);
            }
        }
        changes
    }

    /// Judges one sample, then learns from it.
    pub fn observe(&mut self, sample: &RouteSample, now: Now) -> Vec<AlertChange> {
        let mut changes = Vec::new();
        if !self.routes.contains_key(&sample.route) && self.routes.len() >= ROUTES_MAX {
            return changes;
        }
        let watched = self.routes.entry(sample.route.clone()).or_default();
        watched.check_thresholds(&self.knobs, sample, now, &mut changes);
        if let Some(knobs) = &self.knobs.baseline {
            watched.check_baselines(knobs, sample, now, &mut changes);
        }
        changes
    }
}

/// Where each of the thresholds before stands among those after. Equal ones keep their order.
fn places(before: &[Threshold], after: &[Threshold]) -> Vec<Option<usize>> {
    let mut taken = vec![false; after.len()];
    let place = |old: &Threshold| {
        let found = (0..after.len()).find(|i| !taken[*i] && after[*i] == *old)?;
        taken[found] = true;
        Some(found)
    };
    before.iter().map(place).collect()
}

impl Watched {
    /// Gives the rules their new indexes, and ends those that have none.
    fn move_thresholds(
        &mut self,
        before: &[Threshold],
        places: &[Option<usize>],
        sample: &RouteSample,
        now: Now,
        out: &mut Vec<AlertChange>,
    ) {
        for (old, mut rule) in std::mem::take(&mut self.threshold_rules) {
            if let Some(place) = places[old] {
                self.threshold_rules.insert(place, rule);
                continue;
            }
            let told = rule.end().map(|since| (Status::Resolved, since));
            let reading = Reading {
                value: 0.0,
                limit: before[old].above,
                clear: 0.0,
            };
            let signal = before[old].signal;
            push(out, told, sample, signal, Cause::Threshold, reading, now);
        }
    }

    fn end_baselines(
        &mut self,
        knobs: &BaselineKnobs,
        sample: &RouteSample,
        now: Now,
        out: &mut Vec<AlertChange>,
    ) {
        for (i, signal) in Signal::ALL.into_iter().enumerate() {
            let told = self.baseline_rules[i]
                .end()
                .map(|since| (Status::Resolved, since));
            let reading = Reading {
                value: 0.0,
                limit: self.baselines[i]
                    .limit(knobs, signal.floor())
                    .unwrap_or(0.0),
                clear: 0.0,
            };
            push(out, told, sample, signal, Cause::Baseline, reading, now);
        }
    }

    fn check_thresholds(
        &mut self,
        knobs: &DetectorKnobs,
        sample: &RouteSample,
        now: Now,
        out: &mut Vec<AlertChange>,
    ) {
        let own = |t: &&(usize, &Threshold)| t.1.route == sample.route;
        let all: Vec<_> = knobs.thresholds.iter().enumerate().collect();
        for (index, threshold) in all.iter().filter(own) {
            let reading = sample.value(threshold.signal).map(|value| Reading {
                value,
                limit: threshold.above,
                clear: threshold.above * CLEAR_SHARE,
            });
            let rule = self.threshold_rules.entry(*index).or_default();
            let told = rule.step(reading, threshold.hold, knobs.min_interval, now);
            let reading = reading.unwrap_or(Reading {
                value: 0.0,
                limit: threshold.above,
                clear: 0.0,
            });
            push(
                out,
                told,
                sample,
                threshold.signal,
                Cause::Threshold,
                reading,
                now,
            );
        }
    }

    fn check_baselines(
        &mut self,
        knobs: &BaselineKnobs,
        sample: &RouteSample,
        now: Now,
        out: &mut Vec<AlertChange>,
    ) {
        for (i, signal) in Signal::ALL.into_iter().enumerate() {
            let (baseline, floor) = (&mut self.baselines[i], signal.floor());
            let value = sample.steady_value(signal);
            let limit = baseline.limit(knobs, floor);
            let clear = baseline.clear(knobs, floor);
            let reading = value.zip(limit).map(|(value, limit)| Reading {
                value,
                limit,
                clear,
            });
            let told = self.baseline_rules[i].step(reading, knobs.hold, knobs.min_interval, now);
            let shown = reading.unwrap_or(Reading {
                value: 0.0,
                limit: limit.unwrap_or(0.0),
                clear,
            });
            push(out, told, sample, signal, Cause::Baseline, shown, now);
            if let Some(value) = value {
                baseline.learn(value, sample.interval, knobs, floor);
            }
        }
    }
}

fn push(
    out: &mut Vec<AlertChange>,
    told: Option<(Status, Now)>,
    sample: &RouteSample,
    signal: Signal,
    cause: Cause,
    reading: Reading,
    now: Now,
) {
    if let Some((status, since)) = told {
        out.push(AlertChange {
            status,
            route: sample.route.clone(),
            signal,
            cause,
            value: reading.value,
            limit: reading.limit,
            since,
            at: now,
        });
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
