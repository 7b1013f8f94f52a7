//! Loads and attaches the kernel filter, or says loudly why it stays off.

use crate::boot::protected_ports;
use crate::config::Snapshot;
use crate::kernel::Filter;
use anyhow::Context;
use nix::unistd::Uid;

/// `Ok(None)`: not configured, or this process may not. What is configured and fails is an error: a filter that
/// silently is not there protects nobody.
pub(super) fn attach(snapshot: &Snapshot) -> anyhow::Result<Option<Filter>> {
    let Some(config) = snapshot.filter.as_ref().filter(|filter| filter.enabled) else {
        tracing::info!("kernel filter: not configured");
        return Ok(None);
    };
    if !Uid::effective().is_root() {
        tracing::warn!("KERNEL FILTER OFF: it is configured, but attaching it needs root");
        return Ok(None);
    }
    Filter::load(config, &protected_ports(snapshot))
        .context("kernel filter (set filter.enabled = false to start without)")
        .map(Some)
}
