//! `[access_log]`, `[audit_log]`, `[alerts]`: what is told, to whom, and how much of it is kept.

use crate::anomaly::{BaselineKnobs, DetectorKnobs, Signal, Threshold};
use crate::diagnose::Compiler;
use crate::units::{Bytes, Span};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LOG_BYTES_MIN: u64 = 64 << 10;
const KEEP_MAX: u32 = 1000;
const WEBHOOKS_MAX: usize = 16;
const THRESHOLDS_MAX: usize = 256;

/// Where a log goes and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    pub path: PathBuf,
    /// Rotated before it grows beyond this.
    pub bytes_max: u64,
    /// Rotated files kept beside the live one.
    pub keep: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAccessLog {
    pub enabled: bool,
    pub path: PathBuf,
    pub max_size: Bytes,
    pub keep: u32,
}

impl Default for RawAccessLog {
    fn default() -> Self {
        RawAccessLog {
            enabled: true,
            path: "/var/log/gateway/access.jsonl".into(),
            max_size: Bytes(256 << 20),
            keep: 10,
        }
    }
}

impl RawAccessLog {
    /// `None` when switched off.
    pub fn compile(&self, c: &mut Compiler<'_>) -> Option<LogPlace> {
        let place = c.at("access_log", |c| {
            place(c, &self.path, self.max_size, self.keep)
        });
        self.enabled.then_some(place)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAuditLog {
    pub path: PathBuf,
    /// Ed25519, PKCS#8; made on first start.
    pub key_file: PathBuf,
    pub max_size: Bytes,
    pub keep: u32,
}

impl Default for RawAuditLog {
    fn default() -> Self {
        RawAuditLog {
            path: "/var/log/gateway/audit.jsonl".into(),
            key_file: "/var/lib/gateway/audit.key".into(),
            max_size: Bytes(256 << 20),
            keep: 50,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLog {
    pub place: LogPlace,
    pub key_file: PathBuf,
}

impl RawAuditLog {
    pub fn compile(&self, c: &mut Compiler<'_>) -> AuditLog {
        c.at("audit_log", |c| {
            if self.key_file == self.path {
                c.at("key_file", |c| {
                    c.error("is the log itself", "name another file")
                });
            }
            c.at("key_file", |c| absolute(c, &self.key_file));
            AuditLog {
                place: place(c, &self.path, self.max_size, self.keep),
                key_file: self.key_file.clone(),
            }
        })
    }
}

fn place(c: &mut Compiler<'_>, path: &Path, max_size: Bytes, keep: u32) -> LogPlace {
    c.at("path", |c| absolute(c, path));
    if max_size.0 < LOG_BYTES_MIN {
        c.at("max_size", |c| {
            c.error(
                "is too small to hold a batch of records",
                "use at least \"64KiB\"",
            )
        });
    }
    if keep > KEEP_MAX {
        c.at("keep", |c| {
            c.error(
                format!("{keep} rotated files are too many"),
                "keep at most 1000, of a larger max_size",
            )
        });
    }
    LogPlace {
        path: path.to_owned(),
        bytes_max: max_size.0,
        keep,
    }
}

fn absolute(c: &mut Compiler<'_>, path: &Path) {
    if !path.is_absolute() || path.file_name().is_none() {
        c.error(
            format!("\"{}\" is not the absolute path of a file", path.display()),
            "write it from /: the daemon's working directory is not yours",
        );
    }
}

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
    use crate::diagnose::Files;

    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Raw {
        access_log: RawAccessLog,
        audit_log: RawAuditLog,
        alerts: RawAlerts,
    }

    fn errors(text: &str) -> Vec<String> {
        let raw: Raw = toml::from_str(text).unwrap();
        let files = Files::default();
        let mut c = Compiler::new(&files);
        raw.access_log.compile(&mut c);
        raw.audit_log.compile(&mut c);
        raw.alerts.compile(&mut c);
        c.errors.into_iter().map(|d| d.path).collect()
    }

    #[test]
    fn defaults_and_a_full_example_compile() {
        assert_eq!(errors(""), [""; 0]);
        let text = r#"
            [access_log]
            path = "/var/log/gateway/a.jsonl"
            max_size = "64KiB"
            keep = 3
            [audit_log]
            key_file = "/etc/gateway/audit.key"
            [alerts]
            min_interval = "5m"
            webhooks = [{ url = "https://hooks.example/T0/SECRET", format = "slack", timeout = "5s" }]
            thresholds = [
              { signal = "error_ratio", above = 0.05, for = "2m", route = "orders" },
              { signal = "kernel_drops", above = 10000, for = "10s" },
            ]
            baseline = { enabled = true, half_life = "6h", deviations = 4, warm_up = "1h" }
        "#;
        assert_eq!(errors(text), [""; 0]);
        let raw: Raw = toml::from_str(text).unwrap();
        let files = Files::default();
        let alerts = raw.alerts.compile(&mut Compiler::new(&files));
        assert_eq!(alerts.detector.thresholds[0].hold, Duration::from_secs(120));
        assert!(!format!("{alerts:?}").contains("SECRET"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, path) in [
            ("access_log.path = \"a.jsonl\"", "access_log.path"),
            ("access_log.max_size = \"1KiB\"", "access_log.max_size"),
            ("audit_log.keep = 1001", "audit_log.keep"),
            (
                "audit_log.key_file = \"/var/log/gateway/audit.jsonl\"",
                "audit_log.key_file",
            ),
            (
                "alerts.webhooks = [{ url = \"ftp://x\" }]",
                "alerts.webhooks[0].url",
            ),
            (
                "alerts.webhooks = [{ url = \"https:///x\" }]",
                "alerts.webhooks[0].url",
            ),
            (
                "alerts.webhooks = [{ url = \"https://x\", timeout = \"61s\" }]",
                "alerts.webhooks[0].timeout",
            ),
            (
                "alerts.webhooks = [{ url = \"https://x\", ca_file = \"no.pem\" }]",
                "alerts.webhooks[0].ca_file",
            ),
            (
                "alerts.thresholds = [{ signal = \"error_ratio\", above = 5 }]",
                "alerts.thresholds[0].above",
            ),
            (
                "alerts.thresholds = [{ signal = \"kernel_drops\", above = 5, route = \"x\" }]",
                "alerts.thresholds[0].route",
            ),
            (
                "alerts.baseline.deviations = 0.5",
                "alerts.baseline.deviations",
            ),
            (
                "alerts.baseline.half_life = \"1s\"",
                "alerts.baseline.half_life",
            ),
        ] {
            assert_eq!(errors(text), [path], "{text}");
        }
        for text in [
            "access_log.pth = 1",
            "alerts.thresholds = [{ signal = \"x\", above = 1 }]",
        ] {
            assert!(toml::from_str::<Raw>(text).is_err());
        }
    }

    #[test]
    fn origins_drop_what_may_be_secret() {
        assert_eq!(
            origin("https://u:p@h.example:8443/s3cret?x").as_deref(),
            Some("https://h.example:8443")
        );
        assert_eq!(origin("https://h/\n"), None);
    }
}
