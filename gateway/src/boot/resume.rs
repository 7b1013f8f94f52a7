//! The kernel filter in a new worker: what a predecessor left in its maps becomes this one's.

use super::protected_ports;
use crate::clock::Now;
use crate::kernel::{self, Filter};
use crate::limit::{Ban, BanError, BanReason};
use crate::net::Shared;
use std::sync::atomic::Ordering::Relaxed;

/// Takes over the filter's bans, then applies the config. Before the cores start, so that none accepts a source that
/// is banned.
pub(super) fn filter(filter: &mut Filter, shared: &Shared) {
    filter.release_links();
    let bans = filter.adopt().unwrap_or_else(|error| {
        tracing::error!(%error, "bans from before stay in the kernel until they expire, unlisted");
        Vec::new()
    });
    let snapshot = shared.snapshot.load();
    if let Some(config) = &snapshot.filter
        && let Err(error) = filter.apply(config, &protected_ports(&snapshot))
    {
        // A replaced worker may have had another config than the one the filter was loaded with.
        tracing::error!(%error, "the kernel filter may still judge by an older config");
    }
    let now = Now::read();
    for ban in bans {
        restore(ban, filter, shared, now);
    }
    let active = shared.bans.len() as u64;
    shared.metrics.bans_active.store(active, Relaxed);
}

fn restore(ban: kernel::Ban, filter: &mut Filter, shared: &Shared, now: Now) {
    let target = ban.target;
    // The first sweep removes it.
    if ban.expires_mono_ns <= now.mono_ns {
        return;
    }
    let restored = shared.bans.insert(Ban {
        target,
        reason: BanReason::from_code(ban.cause).unwrap_or(BanReason::Manual),
        rule: "restored after a restart".into(),
        since_wall_ns: now.wall_ns,
        expires_mono_ns: ban.expires_mono_ns,
    });
    match restored {
        Ok(()) => tracing::info!(%target, "ban restored after a restart"),
        Err(error @ BanError::Trusted { .. }) => {
            tracing::warn!(%target, %error, "ban lifted");
            if let Err(error) = filter.unban(target) {
                tracing::error!(%target, %error, "the kernel goes on dropping until the ban expires");
            }
        }
        Err(error) => tracing::error!(%target, %error, "banned in the kernel only"),
    }
}
