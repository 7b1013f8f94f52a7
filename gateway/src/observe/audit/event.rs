//! What the audit log records.

use crate::observe::json::Object;
use crate::pipeline::exchange::RequestId;
use std::net::IpAddr;
use std::sync::Arc;

/// Cap of each text in one record: they may carry peers' bytes.
const TEXT_BYTES_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq)]
pub enum AuditEvent {
    /// The daemon is up.
    Started {
        version: &'static str,
        config: String,
    },
    /// It has been told to stop, and why.
    Stopping {
        reason: String,
    },
    Refusal {
        id: RequestId,
        client: IpAddr,
        route: Option<Arc<str>>,
        rule: Arc<str>,
        slug: &'static str,
    },
    /// `target` is an address or prefix; `by` is a rule or an administrator.
    BanAdded {
        target: String,
        reason: String,
        by: String,
        ttl_secs: u64,
    },
    BanRemoved {
        target: String,
        by: String,
    },
    BanExpired {
        target: String,
    },
    ReloadOk {
        by: String,
    },
    ReloadFailed {
        by: String,
        errors: Vec<String>,
    },
    /// Something done by hand: `actor` as the admin socket knows it.
    AdminAction {
        actor: String,
        action: String,
        detail: String,
    },
    Alert {
        status: &'static str,
        signal: &'static str,
        cause: &'static str,
        route: Option<Arc<str>>,
        value: f64,
        limit: f64,
    },
    /// One sampled packet that the kernel filter dropped, standing for many.
    KernelDrop {
        source: IpAddr,
        reason: &'static str,
        interface: Arc<str>,
        port: u16,
        stands_for: u64,
    },
    /// Refusals of one second that have no records of their own. `None`: of sources too many to name.
    RefusalsSuppressed {
        source: Option<String>,
        rule: Option<Arc<str>>,
        slug: &'static str,
        count: u64,
    },
    /// The queue was full or the disk failed.
    EventsDropped {
        count: u64,
    },
}

impl AuditEvent {
    pub fn name(&self) -> &'static str {
        match self {
            AuditEvent::Started { .. } => "started",
            AuditEvent::Stopping { .. } => "stopping",
            AuditEvent::Refusal { .. } => "refusal",
            AuditEvent::BanAdded { .. } => "ban-added",
            AuditEvent::BanRemoved { .. } => "ban-removed",
            AuditEvent::BanExpired { .. } => "ban-expired",
            AuditEvent::ReloadOk { .. } => "reload-ok",
            AuditEvent::ReloadFailed { .. } => "reload-failed",
            AuditEvent::AdminAction { .. } => "admin-action",
            AuditEvent::Alert { .. } => "alert",
            AuditEvent::KernelDrop { .. } => "kernel-drop",
            AuditEvent::RefusalsSuppressed { .. } => "refusals-suppressed",
            AuditEvent::EventsDropped { .. } => "events-dropped",
        }
    }

    /// How many events are lost with it.
    pub(super) fn stands_for(&self) -> u64 {
        match self {
            AuditEvent::RefusalsSuppressed { count, .. } => *count,
            // Lost already, and counted.
            AuditEvent::EventsDropped { .. } => 0,
            _ => 1,
        }
    }

    /// Whether clients can cause it in any number.
    pub(super) fn is_bulk(&self) -> bool {
        matches!(
            self,
            AuditEvent::Refusal { .. } | AuditEvent::KernelDrop { .. }
        )
    }

    /// Writes the event's own members.
    pub(super) fn write(&self, record: &mut Object<'_>) {
        let text = |record: &mut Object<'_>, key: &str, value: &str| {
            record.text(key, value, TEXT_BYTES_MAX)
        };
        match self {
            AuditEvent::Started { version, config } => {
                text(record, "version", version);
                text(record, "config", config);
            }
            AuditEvent::Stopping { reason } => text(record, "reason", reason),
            AuditEvent::Refusal {
                id,
                client,
                route,
                rule,
                slug,
            } => {
                record.hex("id", &id.0.to_be_bytes());
                record.plain("client", client);
                record.text_or_null("route", route.as_deref(), TEXT_BYTES_MAX);
                text(record, "rule", rule);
                text(record, "slug", slug);
            }
            AuditEvent::BanAdded {
                target,
                reason,
                by,
                ttl_secs,
            } => {
                text(record, "target", target);
                text(record, "reason", reason);
                text(record, "by", by);
                record.number("ttl_secs", *ttl_secs);
            }
            AuditEvent::BanRemoved { target, by } => {
                text(record, "target", target);
                text(record, "by", by);
            }
            AuditEvent::BanExpired { target } => text(record, "target", target),
            AuditEvent::ReloadOk { by } => text(record, "by", by),
            AuditEvent::ReloadFailed { by, errors } => {
                text(record, "by", by);
                // The first says what to look at; the reload's caller got them all.
                text(record, "error", errors.first().map_or("", |e| e));
                record.number("errors", errors.len() as u64);
            }
            AuditEvent::AdminAction {
                actor,
                action,
                detail,
            } => {
                text(record, "actor", actor);
                text(record, "action", action);
                text(record, "detail", detail);
            }
            AuditEvent::Alert {
                status,
                signal,
                cause,
                route,
                value,
                limit,
            } => {
                text(record, "status", status);
                text(record, "signal", signal);
                text(record, "cause", cause);
                record.text_or_null("route", route.as_deref(), TEXT_BYTES_MAX);
                record.plain("value", value);
                record.plain("limit", limit);
            }
            AuditEvent::KernelDrop {
                source,
                reason,
                interface,
                port,
                stands_for,
            } => {
                record.plain("source", source);
                text(record, "reason", reason);
                text(record, "interface", interface);
                record.number("port", u64::from(*port));
                record.number("stands_for", *stands_for);
            }
            AuditEvent::RefusalsSuppressed {
                source,
                rule,
                slug,
                count,
            } => {
                record.text_or_null("client", source.as_deref(), TEXT_BYTES_MAX);
                record.text_or_null("rule", rule.as_deref(), TEXT_BYTES_MAX);
                text(record, "slug", slug);
                record.number("count", *count);
            }
            AuditEvent::EventsDropped { count } => record.number("count", *count),
        }
    }
}
