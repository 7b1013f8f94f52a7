//! The daemon's own ban list: checked by each core at accept and after each strike, so that it works
//! with the kernel filter off; the filter's map is filled from the same orders.

use crate::outcome::StrikeKind;
use crate::units::unmapped;
use dashmap::DashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

/// Why an address is banned. The code crosses into the kernel filter's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BanReason {
    Manual = 1,
    Syntax = 2,
    Authentication = 3,
    Limit = 4,
    NotFound = 5,
    Policy = 6,
}

impl BanReason {
    pub const ALL: [BanReason; 6] = [
        BanReason::Manual,
        BanReason::Syntax,
        BanReason::Authentication,
        BanReason::Limit,
        BanReason::NotFound,
        BanReason::Policy,
    ];

    pub const fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<BanReason> {
        BanReason::ALL.into_iter().find(|r| r.code() == code)
    }

    pub const fn slug(self) -> &'static str {
        match self {
            BanReason::Manual => "manual",
            BanReason::Syntax => "syntax",
            BanReason::Authentication => "authentication",
            BanReason::Limit => "limit",
            BanReason::NotFound => "not-found",
            BanReason::Policy => "policy",
        }
    }
}

impl From<StrikeKind> for BanReason {
    fn from(kind: StrikeKind) -> BanReason {
        match kind {
            StrikeKind::Syntax => BanReason::Syntax,
            StrikeKind::Authentication => BanReason::Authentication,
            StrikeKind::Limit => BanReason::Limit,
            StrikeKind::NotFound => BanReason::NotFound,
            StrikeKind::Policy => BanReason::Policy,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub target: IpNet,
    pub reason: BanReason,
    /// The rule whose refusal led here, or a person's note.
    pub rule: String,
    pub since_wall_ns: u64,
    /// `u64::MAX`: never, which only a manual ban may be.
    pub expires_mono_ns: u64,
}

impl Ban {
    fn live(&self, now_ns: u64) -> bool {
        self.expires_mono_ns > now_ns
    }
}

/// Why a ban was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    #[error("{target} overlaps the trusted prefix {trusted}")]
    Trusted { target: IpNet, trusted: IpNet },
    #[error("an automatic ban must expire")]
    NeverExpires,
    #[error("the ban list is full ({max} entries)")]
    Full { max: usize },
    #[error("the list of banned prefixes is full ({max} entries)")]
    PrefixesFull { max: usize },
}

pub const BANS_MAX_DEFAULT: usize = 1 << 16;
/// Prefixes other than single addresses and IPv6 /64 are scanned, so there are few.
pub const PREFIXES_MAX: usize = 256;

pub struct BanTable {
    /// IPv4 /32, IPv6 /64 and /128: found by hash.
    exact: DashMap<IpNet, Ban>,
    /// Any other length.
    prefixes: RwLock<Vec<Ban>>,
    trusted: RwLock<Vec<IpNet>>,
    /// Entries in `exact` and in `prefixes`, so that the usual case costs two loads.
    exact_len: AtomicUsize,
    prefixes_len: AtomicUsize,
    max: usize,
}

impl BanTable {
    pub fn new(max: usize, trusted: Vec<IpNet>) -> BanTable {
        BanTable {
            exact: DashMap::new(),
            prefixes: RwLock::default(),
            trusted: RwLock::new(trusted),
            exact_len: AtomicUsize::new(0),
            prefixes_len: AtomicUsize::new(0),
            max,
        }
    }

    /// Takes over a new list of trusted prefixes (on reload) and lifts the bans that now overlap it.
    pub fn set_trusted(&self, trusted: Vec<IpNet>) -> Vec<Ban> {
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = trusted.clone();
        self.take(|ban| trusted.iter().any(|t| overlap(*t, ban.target)))
    }

    /// Adds a ban or replaces the one on the same target. An automatic ban never replaces a manual
    /// one, nor a longer one; that is no error: the target is banned.
    pub fn insert(&self, ban: Ban) -> Result<(), BanError> {
        let ban = Ban {
            target: canonical(ban.target),
            ..ban
        };
        if ban.reason != BanReason::Manual && ban.expires_mono_ns == u64::MAX {
            return Err(BanError::NeverExpires);
        }
        let trusted = self.trusted.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(hit) = trusted.iter().find(|t| overlap(**t, ban.target)) {
            return Err(BanError::Trusted {
                target: ban.target,
                trusted: *hit,
            });
        }
        // The guard on `trusted` is held to the end: a reload that adds a trusted prefix then sees this ban.
        if is_exact(ban.target) {
            self.insert_exact(ban)
        } else {
            self.insert_prefix(ban)
        }
    }

    /// Whether there was one.
    pub fn remove(&self, target: IpNet) -> bool {
        let target = canonical(target);
        if is_exact(target) {
            let removed = self.exact.remove(&target).is_some();
            if removed {
                self.exact_len.fetch_sub(1, Relaxed);
            }
            return removed;
        }
        let mut prefixes = self
            .prefixes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = prefixes.len();
        prefixes.retain(|ban| ban.target != target);
        self.prefixes_len.store(prefixes.len(), Relaxed);
        prefixes.len() < before
    }

    /// The ban in force on an address, if any.
    pub fn covers(&self, ip: IpAddr, now_ns: u64) -> Option<Ban> {
        if self.exact_len.load(Relaxed) > 0 {
            let ip = unmapped(ip);
            let hit = match ip {
                IpAddr::V4(v4) => self.live(&IpNet::V4(v4.into()), now_ns),
                IpAddr::V6(v6) => self
                    .live(&IpNet::V6(v6.into()), now_ns)
                    .or_else(|| self.live(&IpNet::V6(subscriber(v6)), now_ns)),
            };
            if hit.is_some() {
                return hit;
            }
        }
        if self.prefixes_len.load(Relaxed) > 0 {
            let ip = unmapped(ip);
            let prefixes = self.prefixes.read().unwrap_or_else(PoisonError::into_inner);
            return prefixes
                .iter()
                .find(|ban| ban.target.contains(&ip) && ban.live(now_ns))
                .cloned();
        }
        None
    }

    /// The bans in force, by target.
    pub fn list(&self, now_ns: u64) -> Vec<Ban> {
        let mut all: Vec<Ban> = self
            .exact
            .iter()
            .filter(|entry| entry.live(now_ns))
            .map(|entry| entry.value().clone())
            .collect();
        let prefixes = self.prefixes.read().unwrap_or_else(PoisonError::into_inner);
        all.extend(prefixes.iter().filter(|ban| ban.live(now_ns)).cloned());
        all.sort_by_key(|ban| ban.target);
        all
    }

    /// Takes out what has run out, for the control thread.
    pub fn sweep(&self, now_ns: u64) -> Vec<Ban> {
        self.take(|ban| !ban.live(now_ns))
    }

    /// Entries, those not yet swept included.
    pub fn len(&self) -> usize {
        self.exact_len.load(Relaxed) + self.prefixes_len.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn live(&self, target: &IpNet, now_ns: u64) -> Option<Ban> {
        let ban = self.exact.get(target)?;
        ban.live(now_ns).then(|| ban.clone())
    }

    fn insert_exact(&self, ban: Ban) -> Result<(), BanError> {
        use dashmap::Entry;
        // Counted before it is there: two cores at the bound cannot both pass.
        if self.exact_len.fetch_add(1, Relaxed) >= self.max && !self.exact.contains_key(&ban.target)
        {
            self.exact_len.fetch_sub(1, Relaxed);
            return Err(BanError::Full { max: self.max });
        }
        match self.exact.entry(ban.target) {
            Entry::Vacant(entry) => {
                entry.insert(ban);
            }
            Entry::Occupied(mut entry) => {
                self.exact_len.fetch_sub(1, Relaxed);
                if replaces(&ban, entry.get()) {
                    entry.insert(ban);
                }
            }
        }
        Ok(())
    }

    fn insert_prefix(&self, ban: Ban) -> Result<(), BanError> {
        let mut prefixes = self
            .prefixes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let full = prefixes.len() >= PREFIXES_MAX;
        match prefixes.iter_mut().find(|old| old.target == ban.target) {
            Some(old) if replaces(&ban, old) => *old = ban,
            Some(_) => {}
            None if full => {
                return Err(BanError::PrefixesFull { max: PREFIXES_MAX });
            }
            None => prefixes.push(ban),
        }
        self.prefixes_len.store(prefixes.len(), Relaxed);
        Ok(())
    }

    fn take(&self, goes: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let mut taken = Vec::new();
        let candidates: Vec<IpNet> = self
            .exact
            .iter()
            .filter(|entry| goes(entry.value()))
            .map(|entry| *entry.key())
            .collect();
        for target in candidates {
            // Judged again under the write guard: it may have been renewed in between.
            if let Some((_, ban)) = self.exact.remove_if(&target, |_, ban| goes(ban)) {
                self.exact_len.fetch_sub(1, Relaxed);
                taken.push(ban);
            }
        }
        let mut prefixes = self
            .prefixes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        taken.extend(prefixes.extract_if(.., |ban| goes(ban)));
        self.prefixes_len.store(prefixes.len(), Relaxed);
        taken
    }
}

impl Default for BanTable {
    fn default() -> Self {
        BanTable::new(BANS_MAX_DEFAULT, Vec::new())
    }
}

fn replaces(new: &Ban, old: &Ban) -> bool {
    new.reason == BanReason::Manual
        || (old.reason != BanReason::Manual && new.expires_mono_ns >= old.expires_mono_ns)
}

fn is_exact(net: IpNet) -> bool {
    match net {
        IpNet::V4(v4) => v4.prefix_len() == 32,
        IpNet::V6(v6) => matches!(v6.prefix_len(), 64 | 128),
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Host bits cleared, and IPv4-mapped prefixes as the IPv4 prefixes they are.
fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(len) = v6.prefix_len().checked_sub(96)
        && let Ok(net) = Ipv4Net::new(v4, len)
    {
        return IpNet::V4(net.trunc());
    }
    net.trunc()
}

fn subscriber(v6: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::new(v6, 64).map_or_else(|_| v6.into(), |net| net.trunc())
}

#[cfg(test)]
mod tests;
