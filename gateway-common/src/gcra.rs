//! The generic cell rate algorithm (ATM Forum TM 4.0, section 4.4.3) as one function on one word.

/// Rate and burst as the algorithm wants them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RateKnobs {
    /// What one admitted event costs. 0: no limit.
    pub interval_ns: u64,
    /// The credit a quiet caller may have saved up, beyond the event itself.
    pub burst_ns: u64,
}
const _: () = assert!(size_of::<RateKnobs>() == 16 && align_of::<RateKnobs>() == 8);

impl RateKnobs {
    /// `count` events per `per_ns`, of which `burst` may come at once. `None` where the arithmetic would overflow
    /// or the rate is finer than a nanosecond.
    pub const fn new(count: u64, per_ns: u64, burst: u64) -> Option<RateKnobs> {
        if count == 0 || burst == 0 || per_ns < count {
            return None;
        }
        let interval_ns = per_ns / count;
        match interval_ns.checked_mul(burst - 1) {
            Some(burst_ns) => Some(RateKnobs {
                interval_ns,
                burst_ns,
            }),
            None => None,
        }
    }
}

/// `Ok(next due time)` or `Err(nanoseconds to wait)`. One word of state: the kernel filter and the HTTP limiter share it.
#[inline(always)]
pub fn admit(due_ns: u64, now_ns: u64, knobs: RateKnobs) -> Result<u64, u64> {
    let ahead_ns = due_ns.saturating_sub(now_ns);
    if ahead_ns > knobs.burst_ns {
        return Err(ahead_ns - knobs.burst_ns);
    }
    Ok(due_ns.max(now_ns).saturating_add(knobs.interval_ns))
}
