//! The single exit of every exchange: one access line, counted once, and an audit event if it was refused.

use super::access;
use super::audit::{AuditEvent, AuditSink};
use super::metrics::CoreMetrics;
use super::stamp::Stamp;
use super::writer::CoreLog;
use crate::outcome::Decision;
use crate::pipeline::Exchange;

/// One core's. Never blocks; allocates only while its buffers warm up.
pub struct CoreRecorder {
    access: Option<CoreLog>,
    audit: Option<AuditSink>,
    metrics: CoreMetrics,
    stamp: Stamp,
}

impl CoreRecorder {
    pub fn new(
        access: Option<CoreLog>,
        audit: Option<AuditSink>,
        metrics: CoreMetrics,
    ) -> CoreRecorder {
        CoreRecorder {
            access,
            audit,
            metrics,
            stamp: Stamp::default(),
        }
    }

    /// For what is counted outside exchanges: connections, handshakes, strikes.
    pub fn metrics(&self) -> &CoreMetrics {
        &self.metrics
    }

    /// To be called exactly once per exchange.
    pub fn record(&mut self, ex: &Exchange) {
        if let Some(access) = &mut self.access {
            let stamp = &mut self.stamp;
            access.line(|out| access::write(out, stamp, ex));
        }
        self.metrics.exchange(ex);
        if let (Some(audit), Decision::Refused { kind, rule }) = (&self.audit, &ex.decision) {
            audit.emit_at(
                ex.started,
                AuditEvent::Refusal {
                    id: ex.id,
                    client: ex.client,
                    route: ex.route.as_ref().map(|r| r.name.clone()),
                    rule: rule.clone(),
                    slug: kind.slug(),
                },
            );
        }
    }

    /// About every 100 ms.
    pub fn tick(&mut self) {
        if let Some(access) = &mut self.access {
            access.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::audit::{AuditKey, AuditLog, ensure_key, verify};
    use super::super::file::LogPlace;
    use super::super::metrics::Metrics;
    use super::super::writer::LogWriter;
    use super::*;
    use crate::outcome::RejectionKind;
    use std::fs;

    #[test]
    fn every_exchange_is_one_line_one_count_and_a_refusal_one_event() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| LogPlace {
            path: dir.path().join(name),
            bytes_max: 1 << 20,
            keep: 1,
        };
        let key_file = dir.path().join("key");
        ensure_key(&key_file).unwrap();
        let key = AuditKey::load(&key_file).unwrap();
        let public = key.public();
        let access = LogWriter::start(place("access")).unwrap();
        let audit = AuditLog::start(place("audit"), key, 0).unwrap();
        let metrics = Metrics::new();
        let mut recorder =
            CoreRecorder::new(Some(access.core()), Some(audit.sink()), metrics.core());
        let mut ex = Exchange::example();
        recorder.record(&ex);
        ex.decision = Decision::Refused {
            kind: RejectionKind::NotFound,
            rule: "route".into(),
        };
        ex.status = 404;
        recorder.record(&ex);
        recorder.tick();
        access.stop();
        audit.stop();
        assert_eq!(
            fs::read_to_string(dir.path().join("access"))
                .unwrap()
                .lines()
                .count(),
            2
        );
        assert_eq!(metrics.totals().all.requests, 2);
        assert_eq!(metrics.totals().refusals["no-route"], 1);
        verify(&dir.path().join("audit"), &public).unwrap();
        let text = fs::read_to_string(dir.path().join("audit")).unwrap();
        assert_eq!(text.matches("\"event\":\"refusal\"").count(), 1);
    }
}
