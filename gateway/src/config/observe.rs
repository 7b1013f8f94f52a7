//! `[access_log]`, `[audit_log]`, `[alerts]`: what is told, to whom, and how much of it is kept.

mod alerts;

pub use alerts::{
    Alerts, PayloadFormat, RawAlerts, RawBaseline, RawThreshold, RawWebhook, Webhook,
};

use crate::diagnose::Compiler;
use crate::units::Bytes;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const LOG_BYTES_MIN: u64 = 64 << 10;
const KEEP_MAX: u32 = 1000;

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
    /// Refusals of one source by one rule that get a record each, per second; the rest of that second are one
    /// record with their number. 0, the default: every refusal gets its own.
    pub refusals_per_second: u64,
}

impl Default for RawAuditLog {
    fn default() -> Self {
        RawAuditLog {
            path: "/var/log/gateway/audit.jsonl".into(),
            key_file: "/var/lib/gateway/audit.key".into(),
            max_size: Bytes(256 << 20),
            keep: 50,
            refusals_per_second: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLog {
    pub place: LogPlace,
    pub key_file: PathBuf,
    pub refusals_per_second: u64,
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
                refusals_per_second: self.refusals_per_second,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Files;
    use std::time::Duration;

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
}
