//! What a webhook is told, in the form its receiver knows.

use super::stamp::rfc3339;
use crate::anomaly::{AlertChange, Signal, Status};
use crate::config::observe::PayloadFormat;
use serde_json::{Value, json};

/// An Alertmanager forgets a firing alert at its `endsAt`; ours are told once, so they get this long.
const FIRING_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The body for a batch of changes. `instance` says which gateway speaks.
pub fn body(format: PayloadFormat, instance: &str, changes: &[AlertChange]) -> Vec<u8> {
    let value = match format {
        PayloadFormat::Generic => json!({
            "instance": instance,
            "alerts": changes.iter().map(generic).collect::<Vec<_>>(),
        }),
        PayloadFormat::Slack => json!({ "text": slack(instance, changes) }),
        PayloadFormat::Alertmanager => changes.iter().map(|c| alertmanager(instance, c)).collect(),
    };
    value.to_string().into_bytes()
}

/// One sentence for a person.
pub fn summary(change: &AlertChange) -> String {
    let place = change
        .route
        .as_deref()
        .map_or("all routes".into(), |r| format!("route {r}"));
    let verb = match change.status {
        Status::Firing => "is above",
        Status::Resolved => "is no longer above",
    };
    let (value, limit) = (rounded(change.value), rounded(change.limit));
    let (name, unit, cause) = (
        change.signal.name(),
        unit(change.signal),
        change.cause.name(),
    );
    format!("{name} on {place} {verb} its {cause} of {limit}{unit} (now {value}{unit})")
}

fn unit(signal: Signal) -> &'static str {
    match signal {
        Signal::RequestRate | Signal::AuthFailures | Signal::KernelDrops => "/s",
        Signal::LatencyMs => " ms",
        Signal::ErrorRatio => "",
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn generic(change: &AlertChange) -> Value {
    json!({
        "status": change.status.name(),
        "signal": change.signal.name(),
        "cause": change.cause.name(),
        "route": change.route.as_deref(),
        "value": rounded(change.value),
        "limit": rounded(change.limit),
        "since": rfc3339(change.since.wall_ns),
        "at": rfc3339(change.at.wall_ns),
        "summary": summary(change),
    })
}

fn slack(instance: &str, changes: &[AlertChange]) -> String {
    let lines: Vec<_> = changes
        .iter()
        .map(|c| {
            format!(
                "[{}] {instance}: {}",
                c.status.name().to_uppercase(),
                summary(c)
            )
        })
        .collect();
    // Slack reads these three as mark-up: a route's name must not mention a channel.
    lines
        .join("\n")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// One entry of `POST /api/v2/alerts`.
fn alertmanager(instance: &str, change: &AlertChange) -> Value {
    let ends_ns = match change.status {
        Status::Firing => change.at.wall_ns.saturating_add(FIRING_NS),
        Status::Resolved => change.at.wall_ns,
    };
    json!({
        "labels": {
            "alertname": format!("gateway_{}", change.signal.name()),
            "cause": change.cause.name(),
            "route": change.route.as_deref().unwrap_or(""),
            "instance": instance,
        },
        "annotations": { "summary": summary(change) },
        "startsAt": rfc3339(change.since.wall_ns),
        "endsAt": rfc3339(ends_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anomaly::Cause;
    use crate::clock::Now;

    pub(crate) fn change(status: Status) -> AlertChange {
        AlertChange {
            status,
            route: Some("<!channel>".into()),
            signal: Signal::ErrorRatio,
            cause: Cause::Threshold,
            value: 0.25,
            limit: 0.05,
            since: Now::at(0, 1_700_000_000),
            at: Now::at(0, 1_700_000_060),
        }
    }

    fn parsed(format: PayloadFormat, status: Status) -> Value {
        serde_json::from_slice(&body(format, "gw1", &[change(status)])).unwrap()
    }

    #[test]
    fn generic_holds_every_field() {
        let v = parsed(PayloadFormat::Generic, Status::Firing);
        let alert = &v["alerts"][0];
        assert_eq!(v["instance"], "gw1");
        assert_eq!(
            (&alert["status"], &alert["signal"]),
            (&"firing".into(), &"error_ratio".into())
        );
        assert_eq!(
            (&alert["value"], &alert["limit"]),
            (&0.25.into(), &0.05.into())
        );
        assert_eq!(alert["since"], "2023-11-14T22:13:20.000000Z");
    }

    #[test]
    fn slack_is_text_without_mark_up() {
        let v = parsed(PayloadFormat::Slack, Status::Resolved);
        assert_eq!(
            v["text"],
            "[RESOLVED] gw1: error_ratio on route &lt;!channel&gt; is no longer above its threshold of 0.05 (now 0.25)"
        );
    }

    #[test]
    fn alertmanager_resolves_by_end_time_under_the_same_labels() {
        let (firing, resolved) = (
            parsed(PayloadFormat::Alertmanager, Status::Firing),
            parsed(PayloadFormat::Alertmanager, Status::Resolved),
        );
        assert_eq!(firing[0]["labels"], resolved[0]["labels"]);
        assert_eq!(firing[0]["labels"]["alertname"], "gateway_error_ratio");
        assert_eq!(firing[0]["endsAt"], "2023-11-15T22:14:20.000000Z");
        assert_eq!(resolved[0]["endsAt"], "2023-11-14T22:14:20.000000Z");
    }
}
