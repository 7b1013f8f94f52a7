//! The config a test runs: a sound base, and the sections the test adds. Kept as text, as an operator would.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Port 0 would give ephemeral ports, which a client of another test may be using by the time the gateway binds.
const PORTS: std::ops::Range<u16> = 10_000..31_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that nobody uses and no other test of this process gets.
pub fn free_port() -> u16 {
    let span = PORTS.end - PORTS.start;
    let first = (std::process::id().wrapping_mul(97) % u32::from(span)) as u16;
    for _ in 0..span {
        let step = NEXT_PORT.fetch_add(1, Relaxed);
        let port = PORTS.start + (first.wrapping_add(step)) % span;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// What a test's gateway is configured with. Sections are TOML, appended as they are.
#[derive(Clone, Debug)]
pub struct Config {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub metrics: Option<SocketAddr>,
    /// Lines of `[server]`.
    pub server: String,
    /// Lines of both listeners, such as `timeouts = { … }`.
    pub listener: String,
    /// `[[upstreams]]`, `[[policies]]`, `[[routes]]`, in any order.
    pub sections: String,
    pub strikes: String,
    pub filter: String,
    pub alerts: String,
    pub access_log: String,
    pub audit_log: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            https: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            metrics: None,
            server: "workers = 2\ndrain_timeout = \"10s\"".into(),
            listener: String::new(),
            sections: String::new(),
            // Every client of a test is 127.0.0.1, and most tests misbehave.
            strikes: "enabled = false".into(),
            filter: String::new(),
            alerts: "baseline = { enabled = false }".into(),
            access_log: String::new(),
            audit_log: String::new(),
        }
    }
}

impl Config {
    /// One upstream called `up`, and a route `all` for everything.
    pub fn forwarding_to(upstream: SocketAddr) -> Config {
        Config::default()
            .upstream("up", &[upstream])
            .section("[[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\n")
    }

    pub fn upstream(self, name: &str, targets: &[SocketAddr]) -> Config {
        let targets: Vec<String> = targets.iter().map(|t| format!("\"{t}\"")).collect();
        let list = targets.join(", ");
        self.section(&format!(
            "[[upstreams]]\nname = \"{name}\"\ntargets = [{list}]\n"
        ))
    }

    /// More lines for the section added last, or a section of its own.
    pub fn section(mut self, toml: &str) -> Config {
        self.sections.push_str(toml.trim_end());
        self.sections.push('\n');
        self
    }

    pub fn listener(mut self, lines: &str) -> Config {
        self.listener = lines.into();
        self
    }

    /// The whole file. Paths are relative to it, logs absolute in `dir`.
    pub fn render(&self, dir: &std::path::Path) -> String {
        let mut text = format!("[server]\n{}\n", self.server);
        let log = |name: &str| toml_text(&dir.join("log").join(name));
        let _ = writeln!(
            text,
            "[admin]\nsocket = {}",
            toml_text(&dir.join("admin.sock"))
        );
        if let Some(metrics) = self.metrics {
            let _ = writeln!(text, "metrics = \"{metrics}\"");
        }
        for (name, address, tls) in [
            ("http", self.http, ""),
            (
                "https",
                self.https,
                "tls = { certificates = [{ cert = \"server.pem\", key = \"server.key\" }] }\n",
            ),
        ] {
            let _ = writeln!(
                text,
                "[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\n{tls}{}",
                self.listener
            );
        }
        text.push_str(&self.sections);
        let _ = writeln!(text, "[strikes]\n{}", self.strikes);
        if !self.filter.is_empty() {
            let _ = writeln!(text, "[filter]\n{}", self.filter);
        }
        let _ = writeln!(text, "[alerts]\n{}", self.alerts);
        let _ = writeln!(
            text,
            "[access_log]\npath = {}\n{}",
            log("access.jsonl"),
            self.access_log
        );
        let _ = writeln!(
            text,
            "[audit_log]\npath = {}\nkey_file = {}\n{}",
            log("audit.jsonl"),
            toml_text(&dir.join("key/audit.key")),
            self.audit_log
        );
        text
    }
}

fn toml_text(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}
