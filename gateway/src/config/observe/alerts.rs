//! `[alerts]`: thresholds, the learned baseline, and who is told.

use crate::anomaly::{BaselineKnobs, DetectorKnobs, Signal, Threshold};
use crate::diagnose::{Compiler, did_you_mean};
use crate::units::Span;
use serde::Deserialize;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const WEBHOOKS_MAX: usize = 16;
const THRESHOLDS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    #[default]
    Generic,
    Slack,
    Alertmanager,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    pub url: String,
    #[serde(default)]
    pub format: PayloadFormat,
    #[serde(default = "ten_seconds")]
    pub timeout: Span,
    /// PEM certificates to trust instead of the public ones.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn ten_seconds() -> Span {
    Span::secs(10)
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawThreshold {
    pub signal: Signal,
    pub above: f64,
    #[serde(rename = "for", default = "one_minute")]
    pub hold: Span,
    #[serde(default)]
    pub route: Option<String>,
}

fn one_minute() -> Span {
    Span::secs(60)
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBaseline {
    pub enabled: bool,
    pub half_life: Span,
    pub deviations: f64,
    pub warm_up: Span,
    #[serde(rename = "for")]
    pub hold: Span,
}

impl Default for RawBaseline {
    fn default() -> Self {
        RawBaseline {
            enabled: true,
            half_life: Span::secs(6 * 3600),
            deviations: 4.0,
            warm_up: Span::secs(3600),
            hold: Span::secs(60),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAlerts {
    pub webhooks: Vec<RawWebhook>,
    pub min_interval: Span,
    pub thresholds: Vec<RawThreshold>,
    pub baseline: RawBaseline,
}

impl Default for RawAlerts {
    fn default() -> Self {
        RawAlerts {
            webhooks: Vec::new(),
            min_interval: Span::secs(300),
            thresholds: Vec::new(),
            baseline: RawBaseline::default(),
        }
    }
}

/// Where alerts are posted. The URL often is a secret, so it is not in the debug form.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// Scheme and authority, without user information: what may stand in logs.
    pub origin: String,
    pub format: PayloadFormat,
    pub timeout: Duration,
    /// PEM; `None`: the public roots.
    pub roots: Option<Arc<[u8]>>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("origin", &self.origin)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alerts {
    pub webhooks: Vec<Webhook>,
    pub detector: DetectorKnobs,
}

impl Alerts {
    /// A threshold on a route that does not exist would wait for ever. To be called once the routes' names are known.
    pub fn check_routes(&self, known: &HashSet<String>, c: &mut Compiler<'_>) {
        for (i, threshold) in self.detector.thresholds.iter().enumerate() {
            let Some(route) = threshold.route.as_deref() else {
                continue;
            };
            // Of kernel drops on a route it is said already that there are none.
            if known.contains(route) || threshold.signal == Signal::KernelDrops {
                continue;
            }
            let hint = match did_you_mean(route, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name one of [[routes]], or leave it out to watch all together".to_owned(),
            };
            c.at(format!("alerts.thresholds[{i}].route"), |c| {
                c.error(format!("there is no route \"{route}\""), hint)
            });
        }
    }
}

impl RawAlerts {
    pub fn compile(&self, c: &mut Compiler<'_>) -> Alerts {
        c.at("alerts", |c| {
            if self.webhooks.len() > WEBHOOKS_MAX {
                c.at("webhooks", |c| {
                    c.error("too many", format!("at most {WEBHOOKS_MAX}"))
                });
            }
            if self.thresholds.len() > THRESHOLDS_MAX {
                c.at("thresholds", |c| {
                    c.error("too many", format!("at most {THRESHOLDS_MAX}"))
                });
            }
            let min_interval = self.min_interval.0;
            let webhooks = each(c, "webhooks", &self.webhooks, RawWebhook::compile);
            let thresholds = each(c, "thresholds", &self.thresholds, RawThreshold::compile);
            let baseline = c.at("baseline", |c| self.baseline.compile(c, min_interval));
            Alerts {
                webhooks: webhooks.into_iter().flatten().collect(),
                detector: DetectorKnobs {
                    thresholds,
                    min_interval,
                    baseline,
                },
            }
        })
    }
}

fn each<R, T>(
    c: &mut Compiler<'_>,
    name: &str,
    raws: &[R],
    compile: impl Fn(&R, &mut Compiler<'_>) -> T,
) -> Vec<T> {
    let mut out = Vec::with_capacity(raws.len());
    for (i, raw) in raws.iter().enumerate() {
        out.push(c.at(name, |c| c.at(format!("[{i}]"), |c| compile(raw, c))));
    }
    out
}

impl RawWebhook {
    fn compile(&self, c: &mut Compiler<'_>) -> Option<Webhook> {
        let Some(origin) = origin(&self.url) else {
            c.at("url", |c| {
                c.error(
                    "is not an http or https URL",
                    "such as \"https://alerts.example/api/v2/alerts\"",
                );
            });
            return None;
        };
        if origin.starts_with("http://") {
            c.at("url", |c| {
                c.warn(
                    "alerts go out unencrypted",
                    "use https unless the receiver is on this machine",
                )
            });
        }
        if self.timeout.0.is_zero() || self.timeout.0 > Duration::from_secs(60) {
            c.at("timeout", |c| {
                c.error("is out of range", "between \"1ms\" and \"60s\"")
            });
        }
        let roots = self
            .ca_file
            .as_ref()
            .and_then(|path| c.at("ca_file", |c| c.read(path)));
        if roots
            .as_ref()
            .is_some_and(|pem| !pem.windows(11).any(|w| w == b"-----BEGIN "))
        {
            c.at("ca_file", |c| {
                c.error(
                    "holds no PEM certificate",
                    "a file with -----BEGIN CERTIFICATE----- lines",
                )
            });
        }
        Some(Webhook {
            url: self.url.clone(),
            origin,
            format: self.format,
            timeout: self.timeout.0,
            roots,
        })
    }
}

/// `https://host:port` of an absolute URL.
fn origin(url: &str) -> Option<String> {
    let clean = url.bytes().all(|b| b.is_ascii_graphic());
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let known = scheme == "http" || scheme == "https";
    (clean && known && !host.is_empty() && !host.starts_with(':'))
        .then(|| format!("{scheme}://{host}"))
}

impl RawThreshold {
    fn compile(&self, c: &mut Compiler<'_>) -> Threshold {
        if !self.above.is_finite() || self.above < 0.0 {
            c.at("above", |c| c.error("must be a number from 0 up", ""));
        }
        if self.signal == Signal::ErrorRatio && self.above >= 1.0 {
            c.at("above", |c| {
                c.error("an error ratio is never above 1", "such as 0.05 for 5 %")
            });
        }
        if self.signal == Signal::KernelDrops && self.route.is_some() {
            c.at("route", |c| {
                c.error("the kernel filter knows no routes", "remove it")
            });
        }
        Threshold {
            signal: self.signal,
            above: self.above,
            hold: self.hold.0,
            route: self.route.as_deref().map(Into::into),
        }
    }
}

impl RawBaseline {
    fn compile(&self, c: &mut Compiler<'_>, min_interval: Duration) -> Option<BaselineKnobs> {
        if self.half_life.0 < Duration::from_secs(60) {
            c.at("half_life", |c| {
                c.error("is too short to learn anything", "at least \"1m\"")
            });
        }
        if !(1.0..=1000.0).contains(&self.deviations) {
            c.at("deviations", |c| {
                c.error("is out of range", "between 1 and 1000; 4 is usual")
            });
        }
        self.enabled.then_some(BaselineKnobs {
            half_life: self.half_life.0,
            deviations: self.deviations,
            warm_up: self.warm_up.0,
            hold: self.hold.0,
            min_interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_drop_what_may_be_secret() {
        assert_eq!(
            origin("https://u:p@h.example:8443/s3cret?x").as_deref(),
            Some("https://h.example:8443")
        );
        assert_eq!(origin("https://h/\n"), None);
    }
}
