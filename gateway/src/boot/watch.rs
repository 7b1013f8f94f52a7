//! Counters -> samples -> alerts, once a second; and the kernel's sampled drops on their way to the audit log.

use super::control::Control;
use crate::anomaly::{AlertChange, Detector, DetectorKnobs, Status};
use crate::clock::Now;
use crate::kernel::{DropEvent, Reason};
use crate::observe::audit::AuditEvent;
use crate::observe::sampler::Sampler;
use crate::units::unmapped;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Drop events written to the audit log in one second; the rest is what the counters are for.
const DROPS_PER_SECOND_MAX: u32 = 100;

#[derive(Default)]
pub(super) struct Watch {
    sampler: Sampler,
    detector: Option<Detector>,
    /// Of this second.
    drops: u32,
    firing: u64,
}

impl Watch {
    /// What has been learned survives. Gives the end of alerts whose rule is gone.
    pub fn reconfigure(&mut self, knobs: DetectorKnobs) -> Vec<AlertChange> {
        if let Some(detector) = &mut self.detector {
            return detector.reconfigure(knobs, Now::read());
        }
        self.detector = Some(Detector::new(knobs));
        Vec::new()
    }
}

impl Control {
    pub fn rewatch(&mut self, knobs: DetectorKnobs) {
        for change in self.watch.reconfigure(knobs) {
            self.tell(&change, change.at);
        }
    }

    pub fn watch_once(&mut self) {
        let now = Now::read();
        if let Some(filter) = &mut self.filter {
            filter.check_attached();
        }
        let kernel_drops = self.kernel_drops();
        self.watch.drops = 0;
        let samples = self
            .watch
            .sampler
            .sample(&self.shared.metrics, kernel_drops, now);
        let Some(detector) = &mut self.watch.detector else {
            return;
        };
        let changes: Vec<AlertChange> = samples
            .iter()
            .flat_map(|sample| detector.observe(sample, now))
            .collect();
        for change in &changes {
            self.tell(change, now);
        }
    }

    fn tell(&mut self, change: &AlertChange, now: Now) {
        self.watch.firing = match change.status {
            Status::Firing => self.watch.firing + 1,
            Status::Resolved => self.watch.firing.saturating_sub(1),
        };
        let firing = &self.shared.metrics.alerts_firing;
        firing.store(self.watch.firing, Relaxed);
        tracing::warn!(
            status = change.status.name(),
            signal = change.signal.name(),
            cause = change.cause.name(),
            route = change.route.as_deref().unwrap_or("all"),
            value = change.value,
            limit = change.limit,
            "alert"
        );
        self.alerts.sink().notify(change);
        self.audit.sink().emit_at(
            now,
            AuditEvent::Alert {
                status: change.status.name(),
                signal: change.signal.name(),
                cause: change.cause.name(),
                route: change.route.clone(),
                value: change.value,
                limit: change.limit,
            },
        );
    }

    pub fn on_drop(&mut self, event: &DropEvent) {
        self.watch.drops += 1;
        if self.watch.drops > DROPS_PER_SECOND_MAX {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        let stands_for = snapshot.filter.as_ref().map_or(1, |f| f.sample_every);
        let reason = Reason::ALL.get(usize::from(event.reason));
        self.audit.sink().emit(AuditEvent::KernelDrop {
            source: unmapped(IpAddr::from(event.source)),
            reason: reason.map_or("unknown", |reason| reason.slug()),
            interface: self.interface_name(event.ifindex),
            port: event.destination_port,
            stands_for: u64::from(stands_for),
        });
    }

    fn interface_name(&self, ifindex: u32) -> Arc<str> {
        let status = self.filter.as_ref().map(|filter| filter.status());
        let interfaces = status.map(|status| status.interfaces).unwrap_or_default();
        let found = interfaces.into_iter().find(|i| i.ifindex == ifindex);
        found.map_or_else(|| ifindex.to_string().into(), |i| i.name.into())
    }
}
