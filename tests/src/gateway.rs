//! The gateway as a process: started with a config of its own, looked into from outside, and always ended.

use crate::client::Client;
use crate::config::Config;
use crate::curl::Curl;
use crate::material;
use crate::wait::{PATIENCE, until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// The program under test.
pub fn program() -> PathBuf {
    let given = std::env::var_os("GATEWAY_BIN").map(PathBuf::from);
    let path = given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/gateway"));
    assert!(
        path.is_file(),
        "{} is not built: run `cargo xtask build`, or set GATEWAY_BIN",
        path.display()
    );
    path
}

/// Runs a subcommand that ends by itself.
pub fn command(arguments: &[&str]) -> Output {
    Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("start the gateway")
}

pub struct Gateway {
    pub dir: tempfile::TempDir,
    pub config: Config,
    child: Child,
    namespace: Option<String>,
}

impl Gateway {
    pub fn start(config: Config) -> Gateway {
        Gateway::start_with(config, &[], None)
    }

    /// `files` are written beside the config first; with a namespace it runs in there.
    pub fn start_with(config: Config, files: &[(&str, &str)], namespace: Option<&str>) -> Gateway {
        let dir = private_dir();
        material::write(dir.path());
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("write a file of the test");
        }
        let path = dir.path().join("gateway.toml");
        fs::write(&path, config.render(dir.path())).expect("write the config");
        let mut gateway = Gateway {
            child: spawn(dir.path(), namespace),
            dir,
            config,
            namespace: namespace.map(str::to_owned),
        };
        gateway.await_ready();
        gateway
    }

    /// After its end: the same config, keys and logs once more.
    pub fn run_again(&mut self) {
        assert!(
            self.child.try_wait().expect("wait").is_some(),
            "it still runs"
        );
        self.child = spawn(self.dir.path(), self.namespace.as_deref());
        self.await_ready();
    }

    fn await_ready(&mut self) {
        let ready = within(PATIENCE, || {
            let dead = self.child.try_wait().expect("wait");
            if dead.is_some() || self.is_healthy() {
                return Some(dead);
            }
            None
        });
        match ready {
            Some(None) => {}
            Some(Some(status)) => {
                panic!("the gateway ended at once ({status}):\n{}", self.stderr())
            }
            None => panic!("the gateway did not become ready:\n{}", self.stderr()),
        }
    }

    /// The admin API answers and, where this process can reach them, the listeners accept.
    fn is_healthy(&self) -> bool {
        let healthy = self.admin_get("/healthz").is_ok_and(|r| r.status == 200);
        let near = self.namespace.is_none();
        healthy && (!near || TcpStream::connect(self.config.http).is_ok())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn http(&self) -> Client {
        Client::connect(self.config.http)
    }

    pub fn curl(&self) -> Curl {
        Curl {
            ca: self.path("ca.pem"),
            https: self.config.https,
            namespace: None,
            max_seconds: 20.0,
        }
    }

    pub fn admin_get(&self, path: &str) -> std::io::Result<crate::client::Response> {
        let mut client = Client::unix(&self.path("admin.sock"))?;
        client.try_send(format!(
            "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
        ))?;
        client.try_response("GET")
    }

    /// A subcommand that speaks to this gateway.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let socket = self.path("admin.sock");
        Command::new(program())
            .arg("--admin-socket")
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("start the gateway's command")
    }

    /// The same, and it must succeed; stdout.
    pub fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Puts another config in the file, without a reload.
    pub fn rewrite(&mut self, config: Config) {
        let text = config.render(self.dir.path());
        fs::write(self.path("gateway.toml"), text).expect("write the config");
        self.config = config;
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.cli_ok(&["status", "--json"])).expect("status is JSON")
    }

    pub fn bans(&self) -> Vec<Value> {
        serde_json::from_str(&self.cli_ok(&["bans", "list", "--json"])).expect("bans are JSON")
    }

    pub fn warden_pid(&self) -> u32 {
        self.child.id()
    }

    pub fn worker_pid(&self) -> u32 {
        self.status()["pid"].as_u64().expect("a pid") as u32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("signal the gateway");
    }

    /// Waits for the process to end by itself.
    pub fn exit(&mut self, patience: Duration) -> Option<ExitStatus> {
        within(patience, || self.child.try_wait().expect("wait"))
    }

    /// SIGTERM, and the exit that must follow.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.exit(Duration::from_secs(20))
            .unwrap_or_else(|| panic!("no end after SIGTERM:\n{}", self.stderr()))
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr.log")).unwrap_or_default()
    }

    pub fn metrics_text(&self) -> String {
        self.admin_get("/metrics").expect("metrics").text()
    }

    /// The value of `name{labels}` as it stands in the text; 0 where it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.metrics_text();
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits for a metric: an exchange is counted after its answer is out.
    pub fn await_metric(&self, series: &str, value: f64) {
        let reached = within(PATIENCE, || (self.metric(series) == value).then_some(()));
        assert!(
            reached.is_some(),
            "{series} is {} instead of {value}",
            self.metric(series)
        );
    }

    /// The access records written so far. A line that is no JSON fails the test.
    pub fn records(&self) -> Vec<Value> {
        json_lines(&self.path("log/access.jsonl"))
    }

    pub fn audit_events(&self) -> Vec<Value> {
        json_lines(&self.path("log/audit.jsonl"))
    }

    /// The record of the exchange that the client knows by this id; it must be the only one.
    pub fn record(&self, id: &str) -> Value {
        self.record_where(&format!("access record {id}"), |r| r["id"] == id)
    }

    /// The one record for which `wanted` holds, once it is written.
    pub fn record_where(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = within(PATIENCE, || {
            let found: Vec<Value> = self.records().into_iter().filter(&wanted).collect();
            (!found.is_empty()).then_some(found)
        });
        let mut found = found
            .unwrap_or_else(|| panic!("no {what} in {:#?}\n{}", self.records(), self.stderr()));
        assert_eq!(found.len(), 1, "{what} stands more than once: {found:#?}");
        found.remove(0)
    }

    /// Waits for an audit event with these members.
    pub fn audit_where(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("audit event: {what}"), || {
            self.audit_events().into_iter().find(&wanted)
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- stderr of the gateway ---\n{}", self.stderr());
        }
        // The second signal tells the warden not to wait for its worker.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
            let patience = Duration::from_millis(if signal == Signal::SIGTERM { 50 } else { 5000 });
            if within(patience, || self.child.try_wait().ok().flatten()).is_some() {
                return;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, namespace: Option<&str>) -> Child {
    let mut command = match namespace {
        None => Command::new(program()),
        // `ip netns exec` becomes the program, so the process is the gateway.
        Some(name) => {
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", name]).arg(program());
            ip
        }
    };
    let stderr = File::options()
        .create(true)
        .append(true)
        .open(dir.join("stderr.log"));
    command
        .args(["run", "--config"])
        .arg(dir.join("gateway.toml"))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr.expect("a file for stderr"))
        .spawn()
        .expect("start the gateway")
}

/// Others may pass through it: the worker is another user, and its logs lie inside.
pub fn private_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("gateway-test-")
        .tempdir()
        .expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
    dir
}

/// Whole lines only: the last one may still be on its way.
pub fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
        })
        .collect()
}

/// A gateway in front of a scripted upstream, the most usual case.
pub fn before(upstream: SocketAddr) -> Gateway {
    Gateway::start(Config::forwarding_to(upstream))
}
