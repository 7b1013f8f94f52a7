//! RFC 3339 times in UTC with microseconds, without a calendar crate. The date part is kept per second.

use std::fmt::Write as _;

/// Formats wall-clock nanoseconds; remembers the text of the last second it saw.
#[derive(Clone, Debug)]
pub struct Stamp {
    second: u64,
    /// `2026-11-24T16:58:00.`
    prefix: String,
}

impl Default for Stamp {
    fn default() -> Self {
        let mut stamp = Stamp {
            second: 0,
            prefix: String::with_capacity(24),
        };
        stamp.set_second(0);
        stamp
    }
}

impl Stamp {
    /// Appends such as `2026-11-24T16:58:00.123456Z`: 27 bytes up to the year 9999.
    pub fn write(&mut self, wall_ns: u64, out: &mut Vec<u8>) {
        let second = wall_ns / 1_000_000_000;
        if second != self.second {
            self.set_second(second);
        }
        out.extend_from_slice(self.prefix.as_bytes());
        let mut micros = (wall_ns % 1_000_000_000) / 1_000;
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&digits);
        out.push(b'Z');
    }

    fn set_second(&mut self, second: u64) {
        self.second = second;
        let (year, month, day) = civil(second / 86_400);
        let of_day = second % 86_400;
        self.prefix.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            self.prefix,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.",
            of_day / 3_600,
            of_day / 60 % 60,
            of_day % 60
        );
    }
}

/// The same for a single value.
pub fn rfc3339(wall_ns: u64) -> String {
    let mut out = Vec::with_capacity(27);
    Stamp::default().write(wall_ns, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Days since 1970-01-01 to (year, month, day), by Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (secs, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, 7, "2000-03-01T00:00:00.000007Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000Z"),
        ] {
            // The last one is beyond u64 nanoseconds; only the calendar is checked for it.
            if secs < u64::MAX / 1_000_000_000 {
                assert_eq!(rfc3339(secs * 1_000_000_000 + micros * 1_000 + 999), text);
            } else {
                assert_eq!(civil(secs / 86_400), (9999, 12, 31));
            }
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for days in 1..60_000 {
            let (y, m, d) = civil(days);
            let next_day = (y, m) == (before.0, before.1) && d == before.2 + 1;
            let next_month = d == 1 && (y * 12 + m) == (before.0 * 12 + before.1) + 1;
            assert!(next_day || next_month, "{before:?} then {:?}", (y, m, d));
            before = (y, m, d);
        }
    }

    #[test]
    fn the_cache_follows_the_clock_both_ways() {
        let mut stamp = Stamp::default();
        for ns in [5_000_000_000, 5_000_001_000, 4_000_000_000, 6_999_999_999] {
            let mut out = Vec::new();
            stamp.write(ns, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), rfc3339(ns));
        }
    }
}
