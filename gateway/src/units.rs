//! Units as an operator writes them: `"30s"`, `"16KiB"`, `"100/s"`, `"10.0.0.0/8"`.
//! Each parses into the type the program needs, or says what it expected.

use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

macro_rules! from_string {
    ($name:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct V;
                impl de::Visitor<'_> for V {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, s: &str) -> Result<$name, E> {
                        s.parse()
                            .map_err(|()| E::invalid_value(de::Unexpected::Str(s), &self))
                    }
                }
                d.deserialize_str(V)
            }
        }
    };
}

/// A length of time: `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);
from_string!(
    Span,
    "a time such as \"250ms\", \"30s\", \"5m\", \"2h\" or \"7d\""
);

impl FromStr for Span {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (number, unit) = split_unit(s)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(()),
        };
        number
            .checked_mul(millis)
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or(())
    }
}

impl Span {
    pub const fn secs(s: u64) -> Span {
        Span(Duration::from_secs(s))
    }
    pub const fn millis(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }
    pub fn as_nanos(self) -> u64 {
        self.0.as_nanos().min(u128::from(u64::MAX)) as u64
    }
}

/// A number of bytes: `"512"`, `"16KiB"`, `"10MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);
from_string!(
    Bytes,
    "a size such as \"512B\", \"16KiB\", \"10MB\" or \"1GiB\""
);

impl FromStr for Bytes {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (number, unit) = split_unit(s)?;
        let factor = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(()),
        };
        number.checked_mul(factor).map(Bytes).ok_or(())
    }
}

/// Events per time: `"100/s"`, `"10/m"`, `"1000/h"`, `"5/10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub per: Duration,
}
from_string!(
    Rate,
    "a rate such as \"100/s\", \"10/m\", \"1000/h\" or \"5/10s\", at least one event"
);

impl FromStr for Rate {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        let (count, per) = s.split_once('/').ok_or(())?;
        let count: u64 = count.trim().parse().map_err(|_| ())?;
        let per = per.trim();
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
            per.parse::<Span>()?
        } else {
            format!("1{per}").parse::<Span>()?
        };
        if count == 0 || per.0.is_zero() {
            return Err(());
        }
        Ok(Rate { count, per: per.0 })
    }
}

/// A prefix, or one address as its longest prefix. Host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(pub ipnet::IpNet);
from_string!(
    Prefix,
    "an address or prefix such as \"192.0.2.7\", \"10.0.0.0/8\" or \"2001:db8::/32\""
);

impl FromStr for Prefix {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        if let Ok(net) = s.parse::<ipnet::IpNet>() {
            return Ok(Prefix(net.trunc()));
        }
        s.parse::<IpAddr>()
            .map(|ip| Prefix(ip.into()))
            .map_err(|_| ())
    }
}

impl Prefix {
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&unmapped(ip))
    }
}

/// `::ffff:192.0.2.1` is the IPv4 address it carries, whichever socket it came through.
pub fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn split_unit(s: &str) -> Result<(u64, &str), ()> {
    let s = s.trim();
    let digits = s.bytes().take_while(u8::is_ascii_digit).count();
    let number = s[..digits].parse().map_err(|_| ())?;
    Ok((number, s[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!("250ms".parse(), Ok(Span::millis(250)));
        assert_eq!("5m".parse(), Ok(Span::secs(300)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1 fortnight",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(bad.parse::<Span>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("16KiB".parse(), Ok(Bytes(16384)));
        assert_eq!("512".parse(), Ok(Bytes(512)));
        assert_eq!("16kib".parse::<Bytes>(), Err(()));
    }

    #[test]
    fn rates() {
        assert_eq!(
            "100/s".parse(),
            Ok(Rate {
                count: 100,
                per: Duration::from_secs(1)
            })
        );
        assert_eq!(
            "5/10s".parse(),
            Ok(Rate {
                count: 5,
                per: Duration::from_secs(10)
            })
        );
        for bad in ["0/s", "5", "5/", "/s", "5/0s"] {
            assert_eq!(bad.parse::<Rate>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn prefixes() {
        let p: Prefix = "10.1.2.3/8".parse().unwrap();
        assert_eq!(p.0.to_string(), "10.0.0.0/8");
        assert!(p.contains("::ffff:10.9.9.9".parse().unwrap()));
        assert!("300.1.1.1".parse::<Prefix>().is_err());
    }
}
