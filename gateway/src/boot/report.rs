//! How the gateway is doing, as the status page and as metrics.

use super::control::Control;
use crate::admin::status::{Attached, ListenerView, Status};
use crate::clock;
use crate::config::filter::Mode;
use crate::kernel::{AttachState, Reason};
use crate::observe::metrics::{Kind, Sample};
use std::sync::atomic::Ordering::Relaxed;

impl Control {
    pub fn status(&self) -> Status {
        let snapshot = self.shared.snapshot.load();
        let listeners = snapshot.listeners.iter().map(|listener| ListenerView {
            name: listener.name.to_string(),
            address: listener.address.to_string(),
            tls: listener.tls.is_some(),
        });
        let uptime_ns = clock::mono_ns().saturating_sub(self.started.mono_ns);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config.clone(),
            uptime_secs: uptime_ns / 1_000_000_000,
            pid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            cores: self.core_count,
            draining: self.shared.draining.load(Relaxed),
            connections: self.shared.connections.load(Relaxed) as u64,
            requests: self.shared.metrics.totals().all.requests,
            bans: self.shared.bans.len() as u64,
            limiter_keys: self.shared.limits.len() as u64,
            routes: snapshot.routes.len() as u64,
            listeners: listeners.collect(),
            filter: self.attached(),
            kernel_drops: self.kernel_drops(),
            log_records_lost: self.audit.sink().dropped()
                + self
                    .access
                    .as_ref()
                    .map_or(0, |access| access.dropped_lines()),
        }
    }

    pub fn metrics(&self) -> String {
        let mut extra = vec![Sample::log_drops("audit", self.audit.sink().dropped())];
        if let Some(access) = &self.access {
            extra.push(Sample::log_drops("access", access.dropped_lines()));
        }
        extra.push(Sample::new(
            "gateway_limiter_keys",
            "Keys the limiter remembers.",
            Kind::Gauge,
            self.shared.limits.len() as f64,
        ));
        for attached in self.attached() {
            extra.push(Sample::filter_mode(attached.interface, attached.mode));
        }
        for (verdict, count) in self.kernel_counters() {
            let help = "Packets by the kernel filter's verdict.";
            let sample = Sample::counter("gateway_filter_packets_total", help, count);
            extra.push(sample.label("verdict", verdict));
        }
        self.shared.metrics.render(&extra)
    }

    /// Packets dropped since the filter was loaded.
    pub fn kernel_drops(&self) -> u64 {
        let drops = |name: &str| Reason::ALL.iter().any(|r| r.drops() && r.slug() == name);
        let counters = self.kernel_counters();
        let dropped = counters.iter().filter(|(name, _)| drops(name));
        dropped.map(|(_, count)| count).sum()
    }

    fn kernel_counters(&self) -> Vec<(&'static str, u64)> {
        let Some(filter) = &self.filter else {
            return Vec::new();
        };
        filter.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "kernel counters");
            Vec::new()
        })
    }

    fn attached(&self) -> Vec<Attached> {
        let Some(filter) = &self.filter else {
            return Vec::new();
        };
        let interfaces = filter.status().interfaces.into_iter();
        let attached = interfaces.map(|interface| Attached {
            interface: interface.name,
            mode: match (interface.state, interface.mode) {
                (AttachState::Detached, _) => "detached",
                (AttachState::Attached, Mode::Native) => "native",
                (AttachState::Attached, Mode::Generic) => "generic",
                (AttachState::Attached, Mode::Auto) => "unknown",
            }
            .to_owned(),
        });
        attached.collect()
    }
}
