//! Who may name what: each outside library has one home in the gateway, so that it can be replaced, and
//! time has one source, so that tests can set it. Test code is free: a test of the edge needs a client.

use super::Finding;
use super::source::{Source, line_of, words};

struct Rule {
    names: &'static [&'static str],
    home: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        names: &["tokio_uring", "io_uring"],
        home: &["gateway/src/net/"],
        why: "only the I/O edge, `net`, knows the ring",
    },
    Rule {
        names: &["aya", "aya_log"],
        home: &["gateway/src/kernel/"],
        why: "only `kernel` knows how the filter is loaded",
    },
    Rule {
        names: &["rustls"],
        home: &["gateway/src/tls/"],
        why: "only `tls` knows the TLS library",
    },
    Rule {
        names: &["SystemTime", "Instant"],
        home: &["gateway/src/clock.rs"],
        why: "decisions take a `Now`; only `clock` reads one",
    },
];

/// A file or directory outside the home that may use a name all the same.
struct Exception {
    name: &'static str,
    path: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "rustls",
        path: "gateway/src/observe/alerts",
        reason: "the webhook client is built without a crypto provider and must be given ours",
    },
    Exception {
        name: "Instant",
        path: "gateway/src/observe/alerts",
        reason: "how long a thread of its own waits at its end; no decision depends on it",
    },
    Exception {
        name: "Instant",
        path: "gateway/src/observe/audit",
        reason: "how long a thread of its own gathers records for one signature",
    },
    Exception {
        name: "Instant",
        path: "gateway/src/cli/demo.rs",
        reason: "how long the demo waits for its upstream to start",
    },
    Exception {
        name: "Instant",
        path: "gateway/src/warden/",
        reason: "how long a process waits for its child; it sees no requests",
    },
];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("gateway/src/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for rule in RULES {
        if rule.home.iter().any(|home| source.path.starts_with(home)) {
            continue;
        }
        for name in rule.names {
            if is_exempt(name, &source.path) {
                continue;
            }
            for offset in words(&source.shipped, name) {
                if reads_or_paths(&source.shipped, offset, name) {
                    let why = format!("`{name}` may not be named here: {}", rule.why);
                    findings.push(source.finding(line_of(&source.shipped, offset), why));
                }
            }
        }
    }
    findings
}

fn is_exempt(name: &str, path: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|e| e.name == name && path.starts_with(e.path) && !e.reason.is_empty())
}

/// A library counts where a path starts with it, not where a field or function happens to have its name;
/// a clock counts where it is read, not where a library hands its type around.
fn reads_or_paths(code: &str, offset: usize, name: &str) -> bool {
    let after = code[offset + name.len()..].trim_start();
    if matches!(name, "SystemTime" | "Instant") {
        return after
            .strip_prefix("::")
            .is_some_and(|rest| rest.trim_start().starts_with("now"));
    }
    let before = code[..offset].trim_end();
    let path_start =
        after.starts_with("::") && !before.ends_with("crate::") && !before.ends_with("self::");
    let imported = before.ends_with("use") || before.ends_with("extern crate");
    path_start || imported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn a_library_stays_at_home() {
        assert_eq!(
            findings("gateway/src/net/core.rs", "use tokio_uring::fs;"),
            0
        );
        assert_eq!(
            findings("gateway/src/pipeline/mod.rs", "use tokio_uring::fs;"),
            1
        );
        assert_eq!(
            findings(
                "gateway/src/boot.rs",
                "fn f() { io_uring::opcode::Nop::new(); }"
            ),
            1
        );
        assert_eq!(
            findings("gateway/src/kernel/loader.rs", "use aya::Ebpf;"),
            0
        );
        assert_eq!(findings("gateway/src/warden/mod.rs", "use aya;"), 1);
        assert_eq!(
            findings(
                "gateway/src/observe/alerts/webhook.rs",
                "use rustls::crypto;"
            ),
            0
        );
        assert_eq!(
            findings("gateway/src/observe/metrics.rs", "use rustls::crypto;"),
            1
        );
    }

    #[test]
    fn comments_fields_and_tests_are_free() {
        assert_eq!(
            findings(
                "gateway/src/boot.rs",
                "// aya::Ebpf\nlet rustls = 1; f(\"aya::x\");"
            ),
            0
        );
        assert_eq!(
            findings(
                "gateway/src/boot.rs",
                "#[cfg(test)]\nmod tests { use rustls::client; }"
            ),
            0
        );
        assert_eq!(findings("benches/src/lib.rs", "use aya::Ebpf;"), 0);
    }

    #[test]
    fn time_has_one_source() {
        assert_eq!(
            findings("gateway/src/limit/mod.rs", "let t = Instant::now();"),
            1
        );
        assert_eq!(
            findings(
                "gateway/src/limit/mod.rs",
                "let t = std::time::SystemTime::now();"
            ),
            1
        );
        assert_eq!(
            findings("gateway/src/limit/mod.rs", "fn f(at: Instant) {}"),
            0
        );
        assert_eq!(
            findings("gateway/src/clock.rs", "let t = SystemTime::now();"),
            0
        );
    }
}
