//! Counters. Each core writes cells of its own with plain loads and stores; a scrape adds them up. Nothing on the
//! data plane is written by two threads.

mod cells;
mod render;

pub use cells::{CoreMetrics, LATENCY_BOUNDS_US, ROUTES_MAX, RouteTotals, Totals};
pub use render::{Kind, Sample};

use cells::CoreCells;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All cores' cells, and the few numbers that belong to no core.
#[derive(Default)]
pub struct Metrics {
    cores: Mutex<Vec<Arc<CoreCells>>>,
    /// Written by the control thread.
    pub bans_active: AtomicU64,
    pub bans_added: AtomicU64,
    pub bans_expired: AtomicU64,
    pub reloads_ok: AtomicU64,
    pub reloads_failed: AtomicU64,
    pub alerts_firing: AtomicU64,
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        Arc::default()
    }

    /// The cells of one more core. Called once per core thread, at its start.
    pub fn core(&self) -> CoreMetrics {
        let cells = Arc::new(CoreCells::default());
        self.lock().push(cells.clone());
        CoreMetrics::over(cells)
    }

    /// The sums over all cores.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cells in self.lock().iter() {
            cells.add_to(&mut totals);
        }
        totals
    }

    /// Prometheus text, format 0.0.4. `extra`: what others count, such as the kernel filter.
    pub fn render(&self, extra: &[Sample]) -> String {
        let totals = self.totals();
        let mut samples = totals.samples();
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
        let own = [
            (
                "gateway_bans_active",
                "Sources banned now.",
                Kind::Gauge,
                &self.bans_active,
            ),
            (
                "gateway_bans_added_total",
                "Bans added since start.",
                Kind::Counter,
                &self.bans_added,
            ),
            (
                "gateway_bans_expired_total",
                "Bans that ran out.",
                Kind::Counter,
                &self.bans_expired,
            ),
            (
                "gateway_alerts_firing",
                "Alerts firing now.",
                Kind::Gauge,
                &self.alerts_firing,
            ),
        ];
        for (name, help, kind, cell) in own {
            samples.push(Sample::new(name, help, kind, load(cell)));
        }
        for (outcome, cell) in [("ok", &self.reloads_ok), ("failed", &self.reloads_failed)] {
            let sample = Sample::new(
                "gateway_reloads_total",
                "Config reloads.",
                Kind::Counter,
                load(cell),
            );
            samples.push(sample.label("outcome", outcome));
        }
        samples.extend_from_slice(extra);
        render::text(&samples, &totals.routes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<CoreCells>>> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
