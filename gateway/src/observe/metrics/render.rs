//! The Prometheus text format 0.0.4.

use super::cells::{LATENCY_BOUNDS_US, RouteTotals};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One value of one series. Names and label names are ours and valid; label values may hold anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    pub value: f64,
}

impl Sample {
    pub fn new(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Sample {
        Sample {
            name,
            help,
            kind,
            labels: Vec::new(),
            value,
        }
    }

    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
        Sample::new(name, help, Kind::Counter, value as f64)
    }

    pub fn label(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Sample {
        self.labels.push((name, value.into()));
        self
    }

    /// The mode in which the kernel filter is attached, as a label of a constant.
    pub fn filter_mode(
        interface: impl Into<Cow<'static, str>>,
        mode: impl Into<Cow<'static, str>>,
    ) -> Sample {
        Sample::new(
            "gateway_filter_mode",
            "How the kernel filter is attached.",
            Kind::Gauge,
            1.0,
        )
        .label("interface", interface)
        .label("mode", mode)
    }

    /// Records lost by a log: `access` or `audit`.
    pub fn log_drops(log: &'static str, count: u64) -> Sample {
        Sample::counter(
            "gateway_log_dropped_total",
            "Records lost because a queue was full or a disk failed.",
            count,
        )
        .label("log", log)
    }
}

/// A family's samples stand together, in the order in which its name first came.
pub(super) fn text(samples: &[Sample], routes: &BTreeMap<Arc<str>, RouteTotals>) -> String {
    let mut out = String::with_capacity(4096 + samples.len() * 80 + routes.len() * 1600);
    let mut done = HashSet::new();
    for first in samples {
        if !done.insert(first.name) {
            continue;
        }
        let kind = match first.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        family(&mut out, first.name, first.help, kind);
        for sample in samples.iter().filter(|s| s.name == first.name) {
            let labels: Vec<_> = sample
                .labels
                .iter()
                .map(|(n, v)| (*n, v.as_ref()))
                .collect();
            series(&mut out, sample.name, &labels, sample.value);
        }
    }
    route_counters(&mut out, routes);
    route_latencies(&mut out, routes);
    out
}

fn route_counters(out: &mut String, routes: &BTreeMap<Arc<str>, RouteTotals>) {
    type Pick = fn(&RouteTotals) -> u64;
    let families: [(&str, &str, Pick); 4] = [
        (
            "gateway_route_requests_total",
            "Exchanges per route.",
            |t| t.requests,
        ),
        (
            "gateway_route_client_errors_total",
            "Responses 4xx per route.",
            |t| t.client_errors,
        ),
        (
            "gateway_route_server_errors_total",
            "Responses 5xx per route.",
            |t| t.server_errors,
        ),
        (
            "gateway_route_auth_failures_total",
            "Wrong or expired credentials per route.",
            |t| t.auth_failures,
        ),
    ];
    for (name, help, pick) in families {
        family(out, name, help, "counter");
        for (route, totals) in routes {
            series(out, name, &[("route", route)], pick(totals) as f64);
        }
    }
}

fn route_latencies(out: &mut String, routes: &BTreeMap<Arc<str>, RouteTotals>) {
    const NAME: &str = "gateway_route_duration_seconds";
    family(
        out,
        NAME,
        "First byte in to last byte out, per route.",
        "histogram",
    );
    let bucket_name = format!("{NAME}_bucket");
    for (route, totals) in routes {
        let mut below = 0;
        for (bound_us, count) in LATENCY_BOUNDS_US.iter().zip(totals.buckets) {
            below += count;
            let le = (*bound_us as f64 / 1e6).to_string();
            series(
                out,
                &bucket_name,
                &[("route", route), ("le", &le)],
                below as f64,
            );
        }
        // Taken from the same buckets, so that the histogram agrees with itself while cores go on counting.
        let count: u64 = totals.buckets.iter().sum();
        series(
            out,
            &bucket_name,
            &[("route", route), ("le", "+Inf")],
            count as f64,
        );
        series(
            out,
            &format!("{NAME}_sum"),
            &[("route", route)],
            totals.latency_sum_us as f64 / 1e6,
        );
        series(
            out,
            &format!("{NAME}_count"),
            &[("route", route)],
            count as f64,
        );
    }
}

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    for c in help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "\n# TYPE {name} {kind}\n");
}

fn series(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    out.push_str(name);
    for (i, (label, text)) in labels.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(label);
        out.push_str("=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}
