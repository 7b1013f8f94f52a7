//! The one function that applies what operators ask for, and the publication of a new config.

use super::control::Control;
use super::link::Link;
use super::protected_ports;
use crate::admin::{Command, peer::Actor, reload::ReloadReport};
use crate::config;
use crate::diagnose::Diagnostic;
use crate::observe::alerts::{AlertSender, Retry};
use crate::observe::audit::AuditEvent;
use crate::warden::channel::Bundle;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Control {
    /// A reply that nobody waits for any more is no error.
    pub fn apply(&mut self, command: Command, link: &Link) {
        match command {
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Metrics { reply } => {
                let _ = reply.send(self.metrics());
            }
            Command::ListBans { reply } => {
                let _ = reply.send(self.list_bans());
            }
            Command::AddBan { ban, actor, reply } => {
                let detail = format!("{} for {} s: {}", ban.target, ban.ttl.as_secs(), ban.reason);
                let done = self.ban_by_hand(ban, actor);
                self.note(actor, "bans add", detail, done.is_ok());
                let _ = reply.send(done);
            }
            Command::RemoveBan {
                target,
                actor,
                reply,
            } => {
                let done = self.unban_by_hand(target, actor);
                self.note(actor, "bans remove", target.to_string(), done.is_ok());
                let _ = reply.send(done);
            }
            Command::Reload { actor, reply } => {
                self.note(actor, "reload", String::new(), true);
                self.ask_reload(actor, reply, link);
            }
        }
    }

    fn note(&self, actor: Actor, action: &str, detail: String, done: bool) {
        let action = if done {
            action.to_owned()
        } else {
            format!("{action} (refused)")
        };
        self.audit.sink().emit(AuditEvent::AdminAction {
            actor: actor.to_string(),
            action,
            detail,
        });
    }

    /// Compiles with the numbers that routes and targets have had, and swaps the whole config at once. Errors leave
    /// everything as it was.
    pub fn publish(&mut self, bundle: &Bundle) -> Vec<Diagnostic> {
        let snapshot = match config::compile(&bundle.text, &bundle.files, &mut self.ids) {
            Ok(compiled) => Arc::new(compiled.snapshot),
            Err(errors) => return errors,
        };
        let alerts = AlertSender::start(
            &snapshot.alerts.webhooks,
            &super::instance(),
            Retry::default(),
        );
        let alerts = match alerts {
            Ok(alerts) => alerts,
            Err(e) => {
                return vec![Diagnostic {
                    path: "alerts".into(),
                    reason: e.to_string(),
                    hint: String::new(),
                }];
            }
        };
        if let (Some(filter), Some(config)) = (&mut self.filter, &snapshot.filter)
            && let Err(e) = filter.apply(config, &protected_ports(&snapshot))
        {
            return vec![Diagnostic {
                path: "filter".into(),
                reason: format!("{e}"),
                hint: "the config before is still in force".into(),
            }];
        }
        let before = std::mem::replace(&mut self.alerts, alerts);
        // Waits for deliveries under way, which the loop must not.
        std::thread::spawn(move || before.stop());
        self.rewatch(snapshot.alerts.detector.clone());
        self.trust(super::bans::trusted(&snapshot));
        self.shared.snapshot.store(snapshot);
        Vec::new()
    }

    /// Tells whoever asked, the counters and the audit log how a reload went.
    pub fn answer(&mut self, ticket: u64, errors: &[Diagnostic]) {
        let metrics = &self.shared.metrics;
        let asked = self.waiting.iter().position(|w| w.ticket == ticket);
        let asked = asked.map(|at| self.waiting.swap_remove(at));
        let by = asked
            .as_ref()
            .map_or_else(|| "SIGHUP".to_owned(), |w| w.actor.to_string());
        if errors.is_empty() {
            metrics.reloads_ok.fetch_add(1, Relaxed);
            self.audit.sink().emit(AuditEvent::ReloadOk { by });
        } else {
            metrics.reloads_failed.fetch_add(1, Relaxed);
            self.audit.sink().emit(AuditEvent::ReloadFailed {
                by,
                errors: errors.iter().map(ToString::to_string).collect(),
            });
        }
        if let Some(waiting) = asked {
            let _ = waiting.reply.send(ReloadReport {
                errors: errors.to_vec(),
            });
        }
    }
}
