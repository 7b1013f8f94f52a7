//! From counters to samples: what each route did since the last look. Runs on the control thread.

use super::metrics::{Metrics, RouteTotals};
use crate::anomaly::RouteSample;
use crate::clock::Now;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
pub struct Sampler {
    before: Option<Before>,
}

struct Before {
    mono_ns: u64,
    all: RouteTotals,
    routes: BTreeMap<Arc<str>, RouteTotals>,
    kernel_drops: u64,
}

impl Sampler {
    /// One sample per route that has ever been used, and the total first. Empty on the first call.
    /// `kernel_drops` is the filter's running count.
    pub fn sample(&mut self, metrics: &Metrics, kernel_drops: u64, now: Now) -> Vec<RouteSample> {
        let totals = metrics.totals();
        let mut samples = Vec::new();
        if let Some(before) = &self.before {
            let interval = Duration::from_nanos(now.mono_ns.saturating_sub(before.mono_ns));
            let mut total = since(None, &totals.all, &before.all, interval);
            total.kernel_drops = kernel_drops.saturating_sub(before.kernel_drops);
            samples.push(total);
            for (name, after) in &totals.routes {
                let earlier = before.routes.get(name).copied().unwrap_or_default();
                samples.push(since(Some(name.clone()), after, &earlier, interval));
            }
        }
        self.before = Some(Before {
            mono_ns: now.mono_ns,
            all: totals.all,
            routes: totals.routes,
            kernel_drops,
        });
        samples
    }
}

fn since(
    route: Option<Arc<str>>,
    after: &RouteTotals,
    before: &RouteTotals,
    interval: Duration,
) -> RouteSample {
    RouteSample {
        route,
        interval,
        requests: after.requests.saturating_sub(before.requests),
        server_errors: after.server_errors.saturating_sub(before.server_errors),
        auth_failures: after.auth_failures.saturating_sub(before.auth_failures),
        latency_sum_us: after.latency_sum_us.saturating_sub(before.latency_sum_us),
        kernel_drops: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Exchange;
    use crate::pipeline::exchange::RouteRef;

    #[test]
    fn samples_are_differences() {
        let metrics = Metrics::new();
        let core = metrics.core();
        let mut sampler = Sampler::default();
        let mut ex = Exchange::example();
        ex.route = Some(RouteRef {
            id: 0,
            name: "r".into(),
        });
        ex.status = 500;
        core.exchange(&ex);
        let start = Now::at(1_000, 1);
        assert_eq!(sampler.sample(&metrics, 100, start), []);
        core.exchange(&ex);
        core.exchange(&ex);
        let samples = sampler.sample(&metrics, 150, start.plus(Duration::from_secs(10)));
        assert_eq!(samples.len(), 2);
        assert_eq!(
            (
                samples[0].route.as_deref(),
                samples[0].requests,
                samples[0].kernel_drops
            ),
            (None, 2, 50)
        );
        assert_eq!(
            (samples[1].route.as_deref(), samples[1].server_errors),
            (Some("r"), 2)
        );
        assert_eq!(samples[1].interval, Duration::from_secs(10));
    }
}
