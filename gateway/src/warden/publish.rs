//! Reloads: which config the worker runs, and which one its successor would start with.

use super::channel::ToWorker;
use super::load::{Loaded, load, render};
use super::restart;
use super::supervise::Warden;
use crate::clock;
use crate::diagnose::Diagnostic;

/// Bundles sent that the worker has not answered; more reloads are refused until it has.
const UNANSWERED_MAX: usize = 4;
/// Of what the worker reports, this much reaches the log.
const REPORT_ERRORS_MAX: usize = 32;
const REPORT_CHARS_MAX: usize = 512;

/// A config on its way to the worker.
pub(super) struct Sent {
    /// The warden's own count: tickets are the worker's, and a signal has none.
    number: u64,
    loaded: Loaded,
}

impl Warden {
    /// Reads, compiles and sends the config, or says why not.
    pub(super) fn reload(&mut self, ticket: u64) {
        // A signal may be told before the end of a worker that it followed.
        self.reap();
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(errors) => {
                tracing::error!(
                    "reload refused, the old config stays:\n{}",
                    render(&errors).trim_end()
                );
                self.tell(&ToWorker::Refused { ticket, errors });
                return;
            }
        };
        if self.worker.is_none() {
            tracing::info!(
                routes = loaded.snapshot.routes.len(),
                "reloaded: the next worker starts with it"
            );
            self.adopt(loaded);
            return;
        }
        self.notify.reloading(clock::mono_ns());
        self.sent_count += 1;
        let number = self.sent_count;
        let bundle = loaded.bundle.clone();
        self.sent.push_back(Sent { number, loaded });
        self.tell(&ToWorker::Publish {
            ticket,
            number,
            bundle,
        });
    }

    fn load(&self) -> Result<Loaded, Vec<Diagnostic>> {
        if self.stop_at.is_some() {
            return Err(vec![self.diagnostic("the gateway is stopping")]);
        }
        if self.sent.len() >= UNANSWERED_MAX {
            return Err(vec![self.diagnostic("earlier reloads are still under way")]);
        }
        let loaded = load(&self.config)?;
        let changes = restart::needed(&self.good.snapshot, &loaded.snapshot);
        if changes.is_empty() {
            Ok(loaded)
        } else {
            Err(changes)
        }
    }

    /// No compile for a worker that asks too often.
    pub(super) fn refuse_reload(&mut self, ticket: u64) {
        tracing::debug!(ticket, "the worker asks for reloads too often");
        let errors = vec![self.diagnostic("too many reloads at once; ask again in a second")];
        self.tell(&ToWorker::Refused { ticket, errors });
    }

    fn diagnostic(&self, reason: &str) -> Diagnostic {
        Diagnostic {
            path: self.config.display().to_string(),
            reason: reason.into(),
            hint: String::new(),
        }
    }

    /// The worker's answer to a bundle. Only the oldest may be answered: anything else changes nothing.
    pub(super) fn published(&mut self, number: u64, errors: &[Diagnostic]) {
        let expected = self.sent.front().is_some_and(|sent| sent.number == number);
        let sent = if expected {
            self.sent.pop_front()
        } else {
            None
        };
        let Some(sent) = sent else {
            tracing::error!(
                number,
                "the worker answers a bundle that was not sent: killed"
            );
            self.kill_worker();
            return;
        };
        self.notify.ready();
        if errors.is_empty() {
            tracing::info!(routes = sent.loaded.snapshot.routes.len(), "reloaded");
            self.good = sent.loaded;
            self.fallback = None;
        } else {
            let plain: Vec<Diagnostic> = errors.iter().take(REPORT_ERRORS_MAX).map(plain).collect();
            tracing::error!(
                "the worker refused the config:\n{}",
                render(&plain).trim_end()
            );
        }
    }

    /// Takes a config over that no worker has published yet, and remembers the one that worked.
    fn adopt(&mut self, loaded: Loaded) {
        let before = std::mem::replace(&mut self.good, loaded);
        self.fallback.get_or_insert(before);
    }

    /// After a worker's end: with what its successor starts.
    pub(super) fn choose_config(&mut self, was_ready: bool) {
        if let Some(newest) = self.sent.pop_back() {
            tracing::warn!(
                "the worker ended before it answered a reload: its successor starts with the new config"
            );
            self.sent.clear();
            self.adopt(newest.loaded);
            // This manager's reload ends here; the successor reports again when it serves.
            self.notify.ready();
        } else if !was_ready && let Some(before) = self.fallback.take() {
            tracing::error!("no worker came up with the new config: back to the one before");
            self.good = before;
        }
    }
}

/// The worker's words without anything that a terminal or a line-based log would act on.
fn plain(from: &Diagnostic) -> Diagnostic {
    let text = |text: &str| -> String {
        let mut out = String::new();
        for c in text.chars().take(REPORT_CHARS_MAX) {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        out
    };
    Diagnostic {
        path: text(&from.path),
        reason: text(&from.reason),
        hint: text(&from.hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_worker_says_cannot_forge_lines() {
        let said = plain(&Diagnostic {
            path: "a\nERROR forged".into(),
            reason: "\u{1b}[2J\r\u{9b}".into(),
            hint: "é".repeat(1000),
        });
        assert_eq!(said.path, "a\\nERROR forged");
        assert_eq!(said.reason, "\\u{1b}[2J\\r\\u{9b}");
        assert_eq!(said.hint.chars().count(), REPORT_CHARS_MAX);
    }
}
