//! What all cores share: read mostly, or written by single words.

use crate::config::Snapshot;
use crate::limit::strikes::{BanOrder, StrikeTable};
use crate::limit::{BanTable, LimitTable};
use crate::observe::audit::AuditSink;
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
    pub audit: AuditSink,
}
