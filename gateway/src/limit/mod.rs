//! Shared, bounded tables written by every core: limiter state, strikes, bans.

/// GCRA state of every limited key.
pub struct LimitTable {}
