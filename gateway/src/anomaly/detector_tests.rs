//! The detector under a virtual clock: one sample each ten seconds.

use super::*;

const TICK: Duration = Duration::from_secs(10);

struct Bench {
    detector: Detector,
    now: Now,
}

impl Bench {
    fn new(thresholds: Vec<Threshold>, baseline: bool) -> Bench {
        let min_interval = Duration::from_secs(300);
        let baseline = baseline.then_some(BaselineKnobs {
            half_life: Duration::from_secs(3600),
            deviations: 4.0,
            warm_up: Duration::from_secs(600),
            hold: Duration::from_secs(30),
            min_interval,
        });
        Bench {
            detector: Detector::new(DetectorKnobs {
                thresholds,
                min_interval,
                baseline,
            }),
            now: Now::at(1_000_000_000_000, 1_700_000_000),
        }
    }

    /// `rate` requests per second, for each of `rates` one tick.
    fn rates(&mut self, rates: impl IntoIterator<Item = u64>) -> Vec<AlertChange> {
        rates
            .into_iter()
            .flat_map(|rate| self.tick(sample(rate)))
            .collect()
    }

    fn tick(&mut self, sample: RouteSample) -> Vec<AlertChange> {
        self.now = self.now.plus(TICK);
        self.detector.observe(&sample, self.now)
    }
}

fn sample(rate: u64) -> RouteSample {
    RouteSample {
        route: Some("orders".into()),
        interval: TICK,
        requests: rate * 10,
        latency_sum_us: rate * 10 * 2_000,
        ..RouteSample::default()
    }
}

fn rate_above_100() -> Vec<Threshold> {
    vec![Threshold {
        signal: Signal::RequestRate,
        above: 100.0,
        hold: Duration::from_secs(30),
        route: Some("orders".into()),
    }]
}

#[test]
fn a_threshold_fires_after_its_hold_time_and_not_before() {
    let mut b = Bench::new(rate_above_100(), false);
    assert_eq!(b.rates([100; 20]), []); // exactly at the limit is not above
    assert_eq!(b.rates([101, 101, 101]), []);
    let fired = b.rates([101]);
    assert_eq!(fired.len(), 1);
    assert_eq!(
        (fired[0].status, fired[0].value, fired[0].limit),
        (Status::Firing, 101.0, 100.0)
    );
    assert_eq!(fired[0].at.mono_ns - fired[0].since.mono_ns, 30_000_000_000);
    assert_eq!(b.rates([101; 50]), []); // once
}

#[test]
fn it_resolves_only_well_below_the_limit_and_as_long() {
    let mut b = Bench::new(rate_above_100(), false);
    assert_eq!(b.rates([200; 4]).len(), 1);
    assert_eq!(b.rates([90; 20]), []); // between the lines: still firing
    assert_eq!(b.rates([80, 80, 80]), []);
    let resolved = b.rates([80]);
    assert_eq!(resolved.len(), 1);
    assert_eq!(resolved[0].status, Status::Resolved);
}

#[test]
fn a_short_burst_is_no_alert() {
    let mut b = Bench::new(rate_above_100(), true);
    assert_eq!(b.rates([50; 100]), []);
    assert_eq!(b.rates([500, 500, 500, 50, 50]), []);
}

#[test]
fn flapping_speaks_once_per_interval() {
    let mut b = Bench::new(rate_above_100(), false);
    // 40 s up, 40 s down for 40 minutes: 30 fires would be possible, one per 5 minutes may be told.
    let changes = b.rates((0..240).map(|i| if i / 4 % 2 == 0 { 200 } else { 10 }));
    let fired: Vec<_> = changes
        .iter()
        .filter(|c| c.status == Status::Firing)
        .collect();
    assert!((6..=8).contains(&fired.len()), "{}", fired.len());
    for pair in fired.windows(2) {
        assert!(pair[1].at.mono_ns - pair[0].at.mono_ns >= 300_000_000_000);
    }
    // Told and resolved alternate: nobody hears of an end without a beginning.
    for (i, c) in changes.iter().enumerate() {
        assert_eq!(
            c.status,
            if i % 2 == 0 {
                Status::Firing
            } else {
                Status::Resolved
            }
        );
    }
}

#[test]
fn steady_load_is_quiet() {
    let mut b = Bench::new(vec![], true);
    // A ripple of 10 %, seeded by arithmetic.
    assert_eq!(b.rates((0..2000u64).map(|i| 95 + (i * 7919) % 11)), []);
}

#[test]
fn a_slow_drift_is_learned() {
    let mut b = Bench::new(vec![], true);
    assert_eq!(b.rates((0..4000u64).map(|i| 100 + i / 40 + i % 5)), []); // doubles over eleven hours
}

#[test]
fn a_step_fires_and_is_normal_in_the_end() {
    let mut b = Bench::new(vec![], true);
    assert_eq!(b.rates([100; 200]), []);
    let fired = b.rates([300; 4]);
    assert_eq!(fired.len(), 1);
    assert_eq!(
        (fired[0].signal, fired[0].cause),
        (Signal::RequestRate, Cause::Baseline)
    );
    let later = b.rates([300; 3000]);
    assert_eq!(later.len(), 1, "{later:?}");
    assert_eq!(later[0].status, Status::Resolved);
}

#[test]
fn nothing_fires_while_warming_up() {
    let mut b = Bench::new(vec![], true);
    assert_eq!(
        b.rates([10, 500, 10, 500, 500, 500, 500, 500, 500, 500]),
        []
    );
}

#[test]
fn a_quiet_route_has_no_ratio_to_alert_on() {
    let ratio = Threshold {
        signal: Signal::ErrorRatio,
        above: 0.5,
        ..rate_above_100().remove(0)
    };
    let mut b = Bench::new(vec![ratio], true);
    assert_eq!(b.rates([0; 500]), []);
    // One failing request per tick: too few to be an anomaly, but the fixed threshold holds.
    let failing = RouteSample {
        requests: 1,
        server_errors: 1,
        ..sample(0)
    };
    let changes: Vec<_> = (0..10).flat_map(|_| b.tick(failing.clone())).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].cause, changes[0].value),
        (Cause::Threshold, 1.0)
    );
    // Silence again resolves it.
    assert_eq!(b.rates([0; 4])[0].status, Status::Resolved);
}

#[test]
fn latency_and_auth_failures_have_baselines_of_their_own() {
    let mut b = Bench::new(vec![], true);
    b.rates([10; 100]);
    let slow = RouteSample {
        latency_sum_us: 100 * 80_000,
        auth_failures: 50,
        ..sample(10)
    };
    let changes: Vec<_> = (0..4).flat_map(|_| b.tick(slow.clone())).collect();
    let signals: Vec<_> = changes.iter().map(|c| c.signal).collect();
    assert_eq!(signals, [Signal::AuthFailures, Signal::LatencyMs]);
}

#[test]
fn a_threshold_of_a_route_ignores_the_total() {
    let mut b = Bench::new(rate_above_100(), false);
    let total = RouteSample {
        route: None,
        ..sample(1000)
    };
    let changes: Vec<_> = (0..10).flat_map(|_| b.tick(total.clone())).collect();
    assert_eq!(changes, []);
}

#[test]
fn routes_are_bounded() {
    let mut d = Detector::new(DetectorKnobs::default());
    for n in 0..ROUTES_MAX + 10 {
        d.observe(
            &RouteSample {
                route: Some(n.to_string().into()),
                ..sample(1)
            },
            Now::at(1, 1),
        );
    }
    assert_eq!(d.routes.len(), ROUTES_MAX);
}

#[test]
fn a_rule_that_goes_ends_its_alert_and_one_that_stays_goes_on() {
    let other = Threshold {
        signal: Signal::AuthFailures,
        ..rate_above_100().remove(0)
    };
    let stays = DetectorKnobs {
        thresholds: vec![other.clone(), rate_above_100().remove(0)],
        ..Bench::new(vec![], false).detector.knobs
    };
    let changed = DetectorKnobs {
        thresholds: vec![Threshold {
            above: 150.0,
            ..rate_above_100().remove(0)
        }],
        ..stays.clone()
    };
    for (told, knobs) in [(true, &stays), (true, &changed), (false, &changed)] {
        let mut b = Bench::new(rate_above_100(), false);
        // Told after the fourth; only pending after the third.
        let fired = b.rates([200].repeat(if told { 4 } else { 3 }));
        assert_eq!(fired.len(), usize::from(told));
        let ended = b.detector.reconfigure(knobs.clone(), b.now);
        if knobs == &stays {
            assert_eq!(ended, []);
            assert_eq!(b.rates([200; 20]), []); // not told again
            assert_eq!(b.rates([0; 4])[0].status, Status::Resolved);
            continue;
        }
        assert_eq!(ended.len(), usize::from(told));
        for end in ended {
            let names = |c: &AlertChange| (c.route.clone(), c.signal, c.cause, c.limit, c.since);
            assert_eq!(end.status, Status::Resolved);
            assert_eq!(names(&end), names(&fired[0]));
        }
        assert_eq!(b.rates([0; 20]), []); // and not ended again
    }
}

#[test]
fn switching_the_baseline_off_ends_its_alerts() {
    let mut b = Bench::new(vec![], true);
    b.rates([100; 200]);
    assert_eq!(b.rates([300; 4]).len(), 1);
    let off = DetectorKnobs {
        baseline: None,
        ..b.detector.knobs.clone()
    };
    assert_eq!(b.detector.reconfigure(b.detector.knobs.clone(), b.now), []);
    let ended = b.detector.reconfigure(off, b.now);
    assert_eq!(ended.len(), 1);
    assert_eq!(
        (ended[0].status, ended[0].cause),
        (Status::Resolved, Cause::Baseline)
    );
}
