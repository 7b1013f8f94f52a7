//! Bans, from strikes and by hand: into the daemon's table, the kernel's map and the audit log, and out again.

use super::control::Control;
use crate::admin::bans::{BanAdded, BanView, NewBan};
use crate::admin::{Refused, peer::Actor};
use crate::clock::Now;
use crate::config::Snapshot;
use crate::config::filter::canonical;
use crate::limit::{Ban, BanError, BanOrder, BanReason, BanTable, Mode};
use crate::observe::audit::AuditEvent;
use axum::http::StatusCode;
use ipnet::IpNet;
use std::sync::atomic::Ordering::Relaxed;

const SECOND_NS: u64 = 1_000_000_000;

/// Who is never banned: in the kernel the filter's allow list beats every ban, and so it must where there is no
/// filter.
pub(super) fn trusted(snapshot: &Snapshot) -> Vec<IpNet> {
    let allowed = snapshot.filter.iter().flat_map(|filter| &filter.allow);
    let mut all: Vec<IpNet> = snapshot
        .strikes
        .trusted
        .iter()
        .chain(allowed)
        .copied()
        .map(canonical)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The ban that stands on exactly `target`.
fn in_force(bans: &BanTable, target: IpNet, now_ns: u64) -> Option<Ban> {
    // Nearly always this finds it without going through the whole table.
    let near = bans.covers(target.addr(), now_ns);
    near.filter(|ban| ban.target == target).or_else(|| {
        let all = bans.list(now_ns);
        all.into_iter().find(|ban| ban.target == target)
    })
}

impl Control {
    /// A source has crossed the threshold of strikes.
    pub fn carry_out(&mut self, order: BanOrder) {
        let now = Now::read();
        let ttl_secs = order.ttl_ns / SECOND_NS;
        if order.mode == Mode::Shadow {
            tracing::info!(target = %order.target, reason = order.reason.slug(), "would be banned (shadow)");
            self.audit.sink().emit_at(
                now,
                AuditEvent::BanAdded {
                    target: order.target.to_string(),
                    reason: format!("{} (shadow: not carried out)", order.reason.slug()),
                    by: "strikes".into(),
                    ttl_secs,
                },
            );
            return;
        }
        let ban = Ban {
            target: order.target,
            reason: order.reason,
            rule: "strikes".into(),
            since_wall_ns: now.wall_ns,
            expires_mono_ns: order.expires_mono_ns,
        };
        if let Err(error) = self.enforce(ban, now, ttl_secs, "strikes") {
            tracing::warn!(target = %order.target, %error, "ban not taken");
        }
    }

    pub fn ban_by_hand(&mut self, new: NewBan, actor: Actor) -> Result<BanAdded, Refused> {
        let now = Now::read();
        let ban = Ban {
            target: new.target,
            reason: BanReason::Manual,
            rule: new.reason,
            since_wall_ns: now.wall_ns,
            expires_mono_ns: now.plus(new.ttl).mono_ns,
        };
        let view = view(&ban, now);
        let why = self
            .enforce(ban, now, new.ttl.as_secs(), &actor.to_string())
            .map_err(|e| match e {
                BanError::Trusted { .. } | BanError::NeverExpires => {
                    Refused::new(StatusCode::CONFLICT, e.to_string())
                }
                BanError::Full { .. } | BanError::PrefixesFull { .. } => {
                    Refused::new(StatusCode::INSUFFICIENT_STORAGE, e.to_string())
                }
            })?;
        Ok(BanAdded {
            ban: view,
            kernel: why.is_none(),
            why,
        })
    }

    pub fn unban_by_hand(&mut self, target: IpNet, actor: Actor) -> Result<BanView, Refused> {
        let now = Now::read();
        let all = self.shared.bans.list(now.mono_ns);
        let known = all.into_iter().find(|ban| ban.target == target.trunc());
        // Whoever was forgiven can be banned again by new strikes.
        self.shared.strikes.forgive(target.addr());
        // Out of the kernel in any case: the table could be behind it.
        let in_kernel = self.unban_in_kernel(target);
        let removed = self.shared.bans.remove(target);
        if !removed && !in_kernel {
            let reason = format!("{target} is not banned by itself; see `gateway bans list`");
            return Err(Refused::new(StatusCode::NOT_FOUND, reason));
        }
        self.audit.sink().emit_at(
            now,
            AuditEvent::BanRemoved {
                target: target.to_string(),
                by: actor.to_string(),
            },
        );
        self.count_bans();
        Ok(known.map_or_else(
            || BanView {
                target: target.to_string(),
                origin: "kernel".into(),
                reason: String::new(),
                since_unix: 0,
                remaining_secs: 0,
            },
            |ban| view(&ban, now),
        ))
    }

    pub fn list_bans(&self) -> Vec<BanView> {
        let now = Now::read();
        let all = self.shared.bans.list(now.mono_ns);
        all.iter().map(|ban| view(ban, now)).collect()
    }

    /// Ends the bans whose time is over, in the table and in the kernel (which ignores them already).
    pub fn expire_bans(&mut self, now: Now) {
        let over = self.shared.bans.sweep(now.mono_ns);
        if let Some(filter) = &mut self.filter
            && let Err(error) = filter.sweep_expired(now.mono_ns)
        {
            tracing::error!(%error, "expired bans stay in the kernel's map, without effect");
        }
        if over.is_empty() {
            return;
        }
        let expired = &self.shared.metrics.bans_expired;
        expired.fetch_add(over.len() as u64, Relaxed);
        for ban in over {
            let target = ban.target.to_string();
            tracing::info!(target, "ban expired");
            self.audit
                .sink()
                .emit_at(now, AuditEvent::BanExpired { target });
        }
        self.count_bans();
    }

    /// A reload changed who is trusted: bans that now overlap are lifted.
    pub fn trust(&mut self, trusted: Vec<IpNet>) {
        for ban in self.shared.bans.set_trusted(trusted) {
            self.unban_in_kernel(ban.target);
            self.shared.strikes.forgive(ban.target.addr());
            self.audit.sink().emit(AuditEvent::BanRemoved {
                target: ban.target.to_string(),
                by: "reload: trusted now".into(),
            });
        }
        self.count_bans();
    }

    /// The table first, which refuses trusted targets: those never reach the kernel. Then the kernel, then the paper.
    /// `Some`: why the kernel did not take it.
    fn enforce(
        &mut self,
        ban: Ban,
        now: Now,
        ttl_secs: u64,
        by: &str,
    ) -> Result<Option<String>, BanError> {
        let ban = Ban {
            target: canonical(ban.target),
            ..ban
        };
        let target = ban.target;
        let reason = match ban.reason {
            BanReason::Manual => ban.rule.clone(),
            strikes => strikes.slug().to_owned(),
        };
        self.shared.bans.insert(ban.clone())?;
        // An older ban may outrank this one, as one by hand does: then it is that which the kernel must hold.
        let Some(stands) = in_force(&self.shared.bans, target, now.mono_ns) else {
            return Ok(Some("it was over at once".into()));
        };
        let why = match &mut self.filter {
            None => Some("the kernel filter is off".to_owned()),
            Some(filter) => filter
                .ban(target, stands.reason.code(), stands.expires_mono_ns)
                .err()
                .map(|error| {
                    tracing::error!(%target, %error, "banned in user space only");
                    error.to_string()
                }),
        };
        if stands != ban {
            tracing::debug!(%target, by, "a longer ban, or one by hand, stands already");
            return Ok(why);
        }
        tracing::info!(%target, reason, by, ttl_secs, "banned");
        self.shared.metrics.bans_added.fetch_add(1, Relaxed);
        self.count_bans();
        self.audit.sink().emit_at(
            now,
            AuditEvent::BanAdded {
                target: target.to_string(),
                reason,
                by: by.to_owned(),
                ttl_secs,
            },
        );
        Ok(why)
    }

    fn unban_in_kernel(&mut self, target: IpNet) -> bool {
        let Some(filter) = &mut self.filter else {
            return false;
        };
        filter.unban(target).unwrap_or_else(|error| {
            tracing::error!(%target, %error, "the kernel goes on dropping until the ban expires");
            false
        })
    }

    fn count_bans(&self) {
        let active = self.shared.bans.len() as u64;
        self.shared.metrics.bans_active.store(active, Relaxed);
    }
}

fn view(ban: &Ban, now: Now) -> BanView {
    BanView {
        target: ban.target.to_string(),
        origin: ban.reason.slug().to_owned(),
        reason: ban.rule.clone(),
        since_unix: ban.since_wall_ns / SECOND_NS,
        remaining_secs: ban
            .expires_mono_ns
            .saturating_sub(now.mono_ns)
            .div_ceil(SECOND_NS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(target: &str, reason: BanReason, expires_mono_ns: u64) -> Ban {
        Ban {
            target: target.parse().unwrap(),
            reason,
            rule: "r".into(),
            since_wall_ns: 1,
            expires_mono_ns,
        }
    }

    #[test]
    fn what_stands_after_an_insert_is_what_the_kernel_gets() {
        let bans = BanTable::default();
        for target in ["192.0.2.1/32", "2001:db8::/64", "10.0.0.0/8"] {
            let by_hand = ban(target, BanReason::Manual, 1000);
            bans.insert(by_hand.clone()).unwrap();
            // Bans that also cover its first address, and are not the ones asked for.
            let first = by_hand.target.addr();
            let length = if first.is_ipv4() { 31 } else { 128 };
            let other = ban(&format!("{first}/{length}"), BanReason::Limit, 50);
            bans.insert(other).unwrap();
            bans.insert(ban(target, BanReason::Limit, 100)).unwrap();
            assert_eq!(
                in_force(&bans, by_hand.target, 10),
                Some(by_hand.clone()),
                "{target}"
            );
            let longer = ban(target, BanReason::Manual, 2000);
            bans.insert(longer.clone()).unwrap();
            assert_eq!(
                in_force(&bans, by_hand.target, 10),
                Some(longer),
                "{target}"
            );
        }
        assert_eq!(in_force(&bans, "192.0.2.2/32".parse().unwrap(), 10), None);
    }

    #[test]
    fn the_filters_allow_list_is_trusted_too_even_while_the_filter_is_off() {
        let text = "[[upstreams]]\nname = \"u\"\ntargets = [\"127.0.0.1:1\"]\n\
            [[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:2\"\n\
            [[routes]]\nname = \"r\"\npath = \"/\"\nupstream = \"u\"\n\
            [strikes]\ntrusted = [\"192.0.2.0/24\", \"10.0.0.0/8\"]\n\
            [filter]\nenabled = false\nallow = [\"::ffff:10.0.0.0/104\", \"2001:db8::/32\"]\n";
        let files = crate::diagnose::Files::default();
        let compiled = crate::config::compile(text, &files, &mut crate::config::Ids::default());
        let snapshot = match compiled {
            Ok(compiled) => compiled.snapshot,
            Err(errors) => panic!("{}", crate::warden::load::render(&errors)),
        };
        let all: Vec<String> = trusted(&snapshot).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
    }
}
