//! Bans, from strikes and by hand: into the daemon's table, the kernel's map and the audit log, and out again.

use super::control::Control;
use crate::admin::bans::{BanView, NewBan};
use crate::admin::{Refused, peer::Actor};
use crate::clock::Now;
use crate::limit::{Ban, BanError, BanOrder, BanReason, Mode};
use crate::observe::audit::AuditEvent;
use axum::http::StatusCode;
use ipnet::IpNet;
use std::sync::atomic::Ordering::Relaxed;

const SECOND_NS: u64 = 1_000_000_000;

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

    pub fn ban_by_hand(&mut self, new: NewBan, actor: Actor) -> Result<BanView, Refused> {
        let now = Now::read();
        let ban = Ban {
            target: new.target,
            reason: BanReason::Manual,
            rule: new.reason,
            since_wall_ns: now.wall_ns,
            expires_mono_ns: now.plus(new.ttl).mono_ns,
        };
        let view = view(&ban, now);
        self.enforce(ban, now, new.ttl.as_secs(), &actor.to_string())
            .map_err(|e| match e {
                BanError::Trusted { .. } | BanError::NeverExpires => {
                    Refused::new(StatusCode::CONFLICT, e.to_string())
                }
                BanError::Full { .. } | BanError::PrefixesFull { .. } => {
                    Refused::new(StatusCode::INSUFFICIENT_STORAGE, e.to_string())
                }
            })?;
        Ok(view)
    }

    pub fn unban_by_hand(&mut self, target: IpNet, actor: Actor) -> Result<BanView, Refused> {
        let now = Now::read();
        let all = self.shared.bans.list(now.mono_ns);
        let known = all.into_iter().find(|ban| ban.target == target.trunc());
        // Out of the kernel in any case: a worker that was replaced does not know its predecessor's bans.
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
            self.audit.sink().emit(AuditEvent::BanRemoved {
                target: ban.target.to_string(),
                by: "reload: trusted now".into(),
            });
        }
        self.count_bans();
    }

    /// The table first, which refuses trusted targets: those never reach the kernel. Then the kernel, then the paper.
    fn enforce(&mut self, ban: Ban, now: Now, ttl_secs: u64, by: &str) -> Result<(), BanError> {
        let (target, cause, expires) = (ban.target, ban.reason, ban.expires_mono_ns);
        let reason = match cause {
            BanReason::Manual => ban.rule.clone(),
            strikes => strikes.slug().to_owned(),
        };
        self.shared.bans.insert(ban)?;
        if let Some(filter) = &mut self.filter
            && let Err(error) = filter.ban(target, cause.code(), expires)
        {
            tracing::error!(%target, %error, "banned in user space only");
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
        Ok(())
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
