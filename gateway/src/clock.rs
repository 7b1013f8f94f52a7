//! Time as a value. Decisions take a [`Now`]; only the edge reads a clock, once per event.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, nanoseconds: limits, deadlines, timings. The kernel filter uses the same clock.
    pub mono_ns: u64,
    /// Nanoseconds since the Unix epoch: log records, `exp` and `nbf`.
    pub wall_ns: u64,
}

impl Now {
    /// Reads the real clocks.
    pub fn read() -> Now {
        Now {
            mono_ns: mono_ns(),
            wall_ns: wall_ns(),
        }
    }

    /// A fixed point for tests: both clocks at values that leave room on both sides.
    pub const fn at(mono_ns: u64, wall_secs: u64) -> Now {
        Now {
            mono_ns,
            wall_ns: wall_secs * 1_000_000_000,
        }
    }

    /// The same instant moved forward on both clocks.
    pub fn plus(self, by: Duration) -> Now {
        let ns = by.as_nanos() as u64;
        Now {
            mono_ns: self.mono_ns + ns,
            wall_ns: self.wall_ns + ns,
        }
    }

    /// The value of a `Date` field (RFC 9110 section 5.6.7).
    pub fn http_date(self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.wall_secs()))
    }

    /// Seconds since the Unix epoch.
    pub fn wall_secs(self) -> u64 {
        self.wall_ns / 1_000_000_000
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of `bpf_ktime_get_ns`.
pub fn mono_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// The monotonic clock of the last timer tick (1–4 ms coarse): for deadlines, at a tenth of the price.
pub fn mono_coarse_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

#[allow(
    unsafe_code,
    reason = "std has no access to the clock id that the kernel filter uses"
)]
fn read(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a live, writable timespec and the clock ids used here exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}
