//! What is counted, and what a scrape reads.

use super::*;
use crate::outcome::{Decision, RejectionKind, StrikeKind};
use crate::pipeline::Exchange;
use crate::pipeline::exchange::RouteRef;

fn exchange(route: u32, status: u16, total_us: u64) -> Exchange {
    let mut ex = Exchange::example();
    ex.route = Some(RouteRef {
        id: route,
        name: format!("r{route}").into(),
    });
    ex.status = status;
    ex.timings.total_us = total_us;
    ex.decision = Decision::Allowed;
    (ex.bytes_in, ex.bytes_out) = (10, 100);
    ex
}

#[test]
fn cores_add_up() {
    let metrics = Metrics::new();
    let (a, b) = (metrics.core(), metrics.core());
    a.accepted();
    a.accepted();
    b.closed();
    a.handshake(true);
    b.handshake(false);
    b.strike(StrikeKind::Syntax);
    a.exchange(&exchange(1, 200, 100));
    b.exchange(&exchange(1, 502, 101));
    let mut refused = exchange(2, 401, 5);
    refused.decision = Decision::Refused {
        kind: RejectionKind::CredentialsInvalid,
        rule: "keys".into(),
    };
    b.exchange(&refused);
    let t = metrics.totals();
    assert_eq!(
        (t.connections_open(), t.handshakes_ok, t.handshakes_failed),
        (1, 1, 1)
    );
    assert_eq!((t.bytes_in, t.bytes_out, t.all.requests), (30, 300, 3));
    assert_eq!(
        (t.refusals["credentials-invalid"], t.strikes["syntax"]),
        (1, 1)
    );
    let r1 = t.routes["r1"];
    assert_eq!(
        (r1.requests, r1.server_errors, r1.latency_sum_us),
        (2, 1, 201)
    );
    assert_eq!(r1.buckets[..3], [1, 1, 0]); // 100 µs is within the first bound, 101 beyond
    assert_eq!(
        (t.routes["r2"].auth_failures, t.routes["r2"].client_errors),
        (1, 1)
    );
}

#[test]
fn latencies_find_their_bucket_on_both_sides_of_each_bound() {
    for (i, bound) in LATENCY_BOUNDS_US.into_iter().enumerate() {
        let metrics = Metrics::new();
        let core = metrics.core();
        core.exchange(&exchange(0, 200, bound));
        core.exchange(&exchange(0, 200, bound + 1));
        let buckets = metrics.totals().routes["r0"].buckets;
        assert_eq!((buckets[i], buckets[i + 1]), (1, 1), "{bound}");
    }
}

#[test]
fn routes_beyond_the_bound_share_one_name() {
    let metrics = Metrics::new();
    let core = metrics.core();
    for id in [0, ROUTES_MAX as u32 - 1, ROUTES_MAX as u32, u32::MAX] {
        core.exchange(&exchange(id, 200, 1));
    }
    let t = metrics.totals();
    assert_eq!(t.routes.len(), 3);
    assert_eq!(t.routes["(other)"].requests, 2);
}

#[test]
fn odd_statuses_are_counted_somewhere() {
    let metrics = Metrics::new();
    let core = metrics.core();
    core.exchange(&exchange(0, 0, 1));
    core.exchange(&exchange(0, 999, 1));
    assert_eq!(
        metrics
            .totals()
            .statuses
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [0, 599]
    );
}

#[test]
fn the_text_is_well_formed() {
    let metrics = Metrics::new();
    let core = metrics.core();
    let mut ex = exchange(0, 200, 300);
    ex.route = Some(RouteRef {
        id: 0,
        name: "a\"b\\c\nd".into(),
    });
    core.exchange(&ex);
    let extra = [
        Sample::filter_mode("eth0", "native"),
        Sample::counter("gateway_kernel_packets_total", "Packets.", 7).label("reason", "pass"),
        Sample::log_drops("access", 3),
        Sample::counter("gateway_kernel_packets_total", "Packets.", 8).label("reason", "banned"),
        Sample::log_drops("audit", 0),
    ];
    let text = metrics.render(&extra);
    for line in [
        "gateway_filter_mode{interface=\"eth0\",mode=\"native\"} 1",
        "gateway_kernel_packets_total{reason=\"banned\"} 8",
        "gateway_log_dropped_total{log=\"access\"} 3",
        "gateway_responses_total{code=\"200\",class=\"2xx\"} 1",
        "gateway_route_requests_total{route=\"a\\\"b\\\\c\\nd\"} 1",
        "gateway_route_duration_seconds_bucket{route=\"a\\\"b\\\\c\\nd\",le=\"0.00025\"} 0",
        "gateway_route_duration_seconds_bucket{route=\"a\\\"b\\\\c\\nd\",le=\"0.0005\"} 1",
        "gateway_route_duration_seconds_bucket{route=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 1",
        "gateway_route_duration_seconds_sum{route=\"a\\\"b\\\\c\\nd\"} 0.0003",
        "# TYPE gateway_route_duration_seconds histogram",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nin\n{text}");
    }
    check_families(&text);
}

/// Each family is announced once and its series follow at once, without a duplicate.
fn check_families(text: &str) {
    let (mut families, mut seen) = (
        std::collections::HashSet::new(),
        std::collections::HashSet::new(),
    );
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} stands twice");
        } else if !line.starts_with('#') {
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(key.starts_with(family), "{key} under {family}");
            assert!(seen.insert(key), "{key} stands twice");
            assert!(value.parse::<f64>().is_ok());
        }
    }
    assert!(families.len() > 20);
}
