//! What all cores share: read mostly, or written by single words.

use crate::config::Snapshot;
use crate::limit::strikes::{BanOrder, StrikeTable};
use crate::limit::{BanTable, LimitTable};
use crate::observe::metrics::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

pub struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub limits: LimitTable,
    pub strikes: StrikeTable,
    pub bans: BanTable,
    /// To the control thread, which writes them into the kernel's map. Bounded: a core never waits.
    pub ban_orders: tokio::sync::mpsc::Sender<BanOrder>,
    pub draining: AtomicBool,
    /// Open client connections over all cores.
    pub connections: AtomicUsize,
    pub metrics: Arc<Metrics>,
}

#[cfg(test)]
impl Shared {
    /// For tests of the edge: empty tables, an audit sink that nobody reads.
    pub fn for_tests(snapshot: Snapshot) -> Shared {
        let (ban_orders, _) = tokio::sync::mpsc::channel(16);
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            limits: LimitTable::default(),
            strikes: StrikeTable::default(),
            bans: BanTable::new(1024, Vec::new()),
            ban_orders,
            draining: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            metrics: Metrics::new(),
        }
    }
}
