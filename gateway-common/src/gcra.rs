//! The generic cell rate algorithm (ITU-T I.371) as pure arithmetic over one word of state.

/// A rate and its burst, in nanoseconds of credit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateKnobs {
    pub interval_ns: u64, // what one admitted event costs
    pub burst_ns: u64,    // credit a quiet caller may have saved up
}
const _: () = assert!(size_of::<RateKnobs>() == 16 && align_of::<RateKnobs>() == 8);

/// `Ok(next due time)` or `Err(nanoseconds to wait)`. One word of state: the kernel filter and the HTTP limiter share it.
#[inline(always)]
pub fn admit(due_ns: u64, now_ns: u64, knobs: RateKnobs) -> Result<u64, u64> {
    let ahead_ns = due_ns.saturating_sub(now_ns);
    if ahead_ns > knobs.burst_ns {
        return Err(ahead_ns - knobs.burst_ns);
    }
    Ok(due_ns.max(now_ns).saturating_add(knobs.interval_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOBS: RateKnobs = RateKnobs {
        interval_ns: 100,
        burst_ns: 200,
    };

    #[test]
    fn both_sides_of_the_line() {
        assert_eq!(admit(200, 0, KNOBS), Ok(300)); // exactly at the edge: admitted
        assert_eq!(admit(201, 0, KNOBS), Err(1)); // one nanosecond beyond: refused
        assert_eq!(admit(0, 1_000, KNOBS), Ok(1_100)); // credit never exceeds the burst
        assert_eq!(admit(u64::MAX, u64::MAX, KNOBS), Ok(u64::MAX)); // no wrap at the end of time
    }
}
