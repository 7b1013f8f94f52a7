//! One core's counters, and their sums.

use super::render::{Kind, Sample};
use crate::outcome::{Decision, FaultKind, RejectionKind, StrikeKind, UpstreamFaultKind};
use crate::pipeline::Exchange;
use crate::pipeline::exchange::RouteRef;
use std::array::from_fn;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Upper bounds of the latency buckets, microseconds; one more counts the rest.
pub const LATENCY_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// Routes with numbers of their own; the rest share one set under the name `(other)`.
pub const ROUTES_MAX: usize = PAGES * PAGE;
const PAGES: usize = 256;
const PAGE: usize = 64;
const OTHER: &str = "(other)";

/// Statuses are three digits; 0 is "nothing was sent".
const STATUSES: usize = 600;

/// A counter with one writer: no locked instruction, no shared line.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct RouteCells {
    name: OnceLock<Arc<str>>,
    requests: Count,
    client_errors: Count,
    server_errors: Count,
    auth_failures: Count,
    latency_sum_us: Count,
    buckets: [Count; BUCKETS],
}

type Page = Box<[RouteCells; PAGE]>;

pub(super) struct CoreCells {
    statuses: Box<[Count; STATUSES]>,
    refusals: [Count; RejectionKind::ALL.len()],
    upstream_faults: [Count; UpstreamFaultKind::ALL.len()],
    faults: [Count; FaultKind::ALL.len()],
    shadowed: [Count; RejectionKind::ALL.len()],
    strikes: [Count; StrikeKind::ALL.len()],
    incomplete: Count,
    accepted: Count,
    closed: Count,
    refused: Count,
    ban_orders_dropped: Count,
    handshakes_ok: Count,
    handshakes_failed: Count,
    bytes_in: Count,
    bytes_out: Count,
    dropped_fields: Count,
    total: RouteCells,
    other: RouteCells,
    pages: Box<[OnceLock<Page>; PAGES]>,
}

impl Default for CoreCells {
    fn default() -> Self {
        CoreCells {
            statuses: Box::new(from_fn(|_| Count::default())),
            refusals: from_fn(|_| Count::default()),
            upstream_faults: from_fn(|_| Count::default()),
            faults: from_fn(|_| Count::default()),
            shadowed: from_fn(|_| Count::default()),
            strikes: from_fn(|_| Count::default()),
            incomplete: Count::default(),
            accepted: Count::default(),
            closed: Count::default(),
            refused: Count::default(),
            ban_orders_dropped: Count::default(),
            handshakes_ok: Count::default(),
            handshakes_failed: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            dropped_fields: Count::default(),
            total: RouteCells::default(),
            other: RouteCells::default(),
            pages: Box::new(from_fn(|_| OnceLock::new())),
        }
    }
}

/// The writing side of one core. Not `Clone` and not `Sync`: its cells have exactly one writer.
pub struct CoreMetrics {
    cells: Arc<CoreCells>,
    one_thread: PhantomData<Cell<()>>,
}

impl CoreMetrics {
    pub(super) fn over(cells: Arc<CoreCells>) -> CoreMetrics {
        CoreMetrics {
            cells,
            one_thread: PhantomData,
        }
    }

    /// Counts a finished exchange. Once each.
    pub fn exchange(&self, ex: &Exchange) {
        let c = &self.cells;
        c.statuses[usize::from(ex.status).min(STATUSES - 1)].add(1);
        c.bytes_in.add(ex.bytes_in);
        c.bytes_out.add(ex.bytes_out);
        c.dropped_fields.add(u64::from(ex.dropped_fields));
        match &ex.decision {
            Decision::Refused { kind, .. } => c.refusals[*kind as usize].add(1),
            Decision::UpstreamFault(kind) => c.upstream_faults[*kind as usize].add(1),
            Decision::Fault(kind) => c.faults[*kind as usize].add(1),
            Decision::Incomplete => c.incomplete.add(1),
            Decision::Allowed => {}
        }
        for hit in &ex.shadowed {
            c.shadowed[hit.kind as usize].add(1);
        }
        c.total.count(ex);
        if let Some(route) = &ex.route {
            c.route(route).count(ex);
        }
    }

    pub fn accepted(&self) {
        self.cells.accepted.add(1);
    }

    pub fn closed(&self) {
        self.cells.closed.add(1);
    }

    /// Closed at accept: banned, or too many connections.
    pub fn refused(&self) {
        self.cells.refused.add(1);
    }

    /// A ban that stays out of the kernel because the control thread is behind.
    pub fn ban_order_dropped(&self) {
        self.cells.ban_orders_dropped.add(1);
    }

    pub fn handshake(&self, ok: bool) {
        let c = &self.cells;
        if ok {
            c.handshakes_ok.add(1)
        } else {
            c.handshakes_failed.add(1)
        }
    }

    pub fn strike(&self, kind: StrikeKind) {
        self.cells.strikes[kind as usize].add(1);
    }
}

impl CoreCells {
    fn route(&self, route: &RouteRef) -> &RouteCells {
        let index = route.id as usize;
        let cells = match self.pages.get(index / PAGE) {
            Some(page) => {
                &page.get_or_init(|| Box::new(from_fn(|_| RouteCells::default())))[index % PAGE]
            }
            None => &self.other,
        };
        cells.name.get_or_init(|| {
            if index < ROUTES_MAX {
                route.name.clone()
            } else {
                OTHER.into()
            }
        });
        cells
    }

    pub(super) fn add_to(&self, t: &mut Totals) {
        add_named(
            &mut t.refusals,
            RejectionKind::ALL.iter().map(|k| k.slug()),
            &self.refusals,
        );
        add_named(
            &mut t.upstream_faults,
            UpstreamFaultKind::ALL.iter().map(|k| k.slug()),
            &self.upstream_faults,
        );
        add_named(
            &mut t.faults,
            FaultKind::ALL.iter().map(|k| k.slug()),
            &self.faults,
        );
        add_named(
            &mut t.shadowed,
            RejectionKind::ALL.iter().map(|k| k.slug()),
            &self.shadowed,
        );
        add_named(
            &mut t.strikes,
            StrikeKind::ALL.iter().map(|k| k.slug()),
            &self.strikes,
        );
        for (status, count) in self.statuses.iter().enumerate() {
            if count.get() > 0 {
                *t.statuses.entry(status as u16).or_default() += count.get();
            }
        }
        t.incomplete += self.incomplete.get();
        t.accepted += self.accepted.get();
        t.closed += self.closed.get();
        t.refused += self.refused.get();
        t.ban_orders_dropped += self.ban_orders_dropped.get();
        t.handshakes_ok += self.handshakes_ok.get();
        t.handshakes_failed += self.handshakes_failed.get();
        t.bytes_in += self.bytes_in.get();
        t.bytes_out += self.bytes_out.get();
        t.dropped_fields += self.dropped_fields.get();
        self.total.add_to(&mut t.all);
        let paged = self
            .pages
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|page| page.iter());
        for cells in paged.chain([&self.other]) {
            if let Some(name) = cells.name.get() {
                cells.add_to(t.routes.entry(name.clone()).or_default());
            }
        }
    }
}

fn add_named(
    to: &mut BTreeMap<&'static str, u64>,
    names: impl Iterator<Item = &'static str>,
    counts: &[Count],
) {
    for (name, count) in names.zip(counts) {
        *to.entry(name).or_default() += count.get();
    }
}

impl RouteCells {
    fn count(&self, ex: &Exchange) {
        self.requests.add(1);
        match ex.status {
            400..500 => self.client_errors.add(1),
            500.. => self.server_errors.add(1),
            _ => {}
        }
        if let Decision::Refused {
            kind: RejectionKind::CredentialsInvalid | RejectionKind::CredentialsExpired,
            ..
        } = ex.decision
        {
            self.auth_failures.add(1);
        }
        let us = ex.timings.total_us;
        self.latency_sum_us.add(us);
        self.buckets[LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)].add(1);
    }

    fn add_to(&self, t: &mut RouteTotals) {
        t.requests += self.requests.get();
        t.client_errors += self.client_errors.get();
        t.server_errors += self.server_errors.get();
        t.auth_failures += self.auth_failures.get();
        t.latency_sum_us += self.latency_sum_us.get();
        for (sum, count) in t.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.get();
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTotals {
    pub requests: u64,
    pub client_errors: u64,
    pub server_errors: u64,
    pub auth_failures: u64,
    pub latency_sum_us: u64,
    /// One more than [`LATENCY_BOUNDS_US`]; each counts its own range only.
    pub buckets: [u64; BUCKETS],
}

/// Everything counted since start. By slug where a thing has kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub statuses: BTreeMap<u16, u64>,
    pub refusals: BTreeMap<&'static str, u64>,
    pub upstream_faults: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    pub shadowed: BTreeMap<&'static str, u64>,
    pub strikes: BTreeMap<&'static str, u64>,
    pub incomplete: u64,
    pub accepted: u64,
    pub closed: u64,
    pub refused: u64,
    pub ban_orders_dropped: u64,
    pub handshakes_ok: u64,
    pub handshakes_failed: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub dropped_fields: u64,
    pub all: RouteTotals,
    pub routes: BTreeMap<Arc<str>, RouteTotals>,
}

impl Totals {
    pub fn connections_open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed)
    }

    /// All but the per-route series.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let mut out = Vec::with_capacity(128);
        for (status, n) in &self.statuses {
            let (code, class) = (format!("{status:03}"), format!("{}xx", status / 100));
            let sample = Sample::counter(
                "gateway_responses_total",
                "Exchanges by status; 000: nothing was sent.",
                *n,
            );
            out.push(sample.label("code", code).label("class", class));
        }
        for (name, help, label, counts) in [
            (
                "gateway_refusals_total",
                "Requests refused, by reason.",
                "reason",
                &self.refusals,
            ),
            (
                "gateway_upstream_faults_total",
                "Exchanges an upstream failed, by reason.",
                "reason",
                &self.upstream_faults,
            ),
            (
                "gateway_faults_total",
                "Exchanges the gateway itself failed, by reason.",
                "reason",
                &self.faults,
            ),
            (
                "gateway_shadow_hits_total",
                "What shadow policies would have refused.",
                "reason",
                &self.shadowed,
            ),
            (
                "gateway_strikes_total",
                "Strikes against sources, by kind.",
                "kind",
                &self.strikes,
            ),
        ] {
            out.extend(
                counts
                    .iter()
                    .map(|(slug, n)| Sample::counter(name, help, *n).label(label, *slug)),
            );
        }
        let open = self.connections_open() as f64;
        out.push(Sample::new(
            "gateway_connections_open",
            "Client connections open now.",
            Kind::Gauge,
            open,
        ));
        for (name, help, n) in [
            (
                "gateway_incomplete_requests_total",
                "Clients that left before their request was complete.",
                self.incomplete,
            ),
            (
                "gateway_connections_accepted_total",
                "Client connections accepted.",
                self.accepted,
            ),
            (
                "gateway_connections_closed_total",
                "Client connections closed.",
                self.closed,
            ),
            (
                "gateway_connections_refused_total",
                "Client connections closed at accept: banned, or too many.",
                self.refused,
            ),
            (
                "gateway_ban_orders_dropped_total",
                "Bans put off because the queue to the control thread was full.",
                self.ban_orders_dropped,
            ),
            (
                "gateway_received_bytes_total",
                "Bytes from clients, before TLS.",
                self.bytes_in,
            ),
            (
                "gateway_sent_bytes_total",
                "Bytes to clients, before TLS.",
                self.bytes_out,
            ),
            (
                "gateway_dropped_fields_total",
                "Request fields dropped for their name.",
                self.dropped_fields,
            ),
        ] {
            out.push(Sample::counter(name, help, n));
        }
        for (outcome, n) in [
            ("ok", self.handshakes_ok),
            ("failed", self.handshakes_failed),
        ] {
            let sample = Sample::counter(
                "gateway_tls_handshakes_total",
                "TLS handshakes with clients.",
                n,
            );
            out.push(sample.label("outcome", outcome));
        }
        out
    }
}
