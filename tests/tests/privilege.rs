//! The data plane has no rights: read from /proc, thread by thread. And the warden replaces a worker that dies.

use gateway_tests::client::{Client, get};
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before, private_dir, program};
use gateway_tests::skip::skip_without_root;
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::{until, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn status_field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn no_thread_of_the_worker_has_any_right() {
    if skip_without_root("root, to have rights that can be dropped") {
        return;
    }
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    assert_eq!(gateway.http().ask(get("/")).status, 200);
    let worker = gateway.worker_pid();
    assert_ne!(worker, gateway.warden_pid());
    let threads: Vec<_> = fs::read_dir(format!("/proc/{worker}/task"))
        .expect("threads")
        .flatten()
        .collect();
    assert!(
        threads.len() >= 3,
        "two cores and the control thread, at least"
    );
    for thread in threads {
        let status = fs::read_to_string(thread.path().join("status")).expect("its status");
        let name = status_field(&status, "Name");
        for (field, wanted) in [
            ("Uid", "65534 65534 65534 65534"),
            ("Gid", "65534 65534 65534 65534"),
            ("Groups", ""),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            assert_eq!(
                status_field(&status, field),
                wanted,
                "{field} of thread {name}"
            );
        }
    }
    assert_eq!(gateway.status()["uid"], 65534);
}

#[test]
fn logs_keys_and_the_admin_socket_are_private() {
    if skip_without_root("root, to give files to another user") {
        return;
    }
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    assert_eq!(gateway.http().ask(get("/")).status, 200);
    until("a record", || (!gateway.records().is_empty()).then_some(()));
    for (name, mode, owner) in [
        ("log/access.jsonl", 0o600, 65534),
        ("log/audit.jsonl", 0o600, 65534),
        ("log/audit.jsonl.head", 0o600, 65534),
        ("key/audit.key", 0o600, 0),
        ("admin.sock", 0o600, 0),
    ] {
        let meta = fs::metadata(gateway.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(meta.permissions().mode() & 0o777, mode, "mode of {name}");
        assert_eq!(meta.uid(), owner, "owner of {name}");
    }
    // What the worker was not given it does not hold open: no key file, no config.
    let worker = gateway.worker_pid();
    let open = fs::read_dir(format!("/proc/{worker}/fd"))
        .expect("descriptors")
        .flatten();
    let targets: Vec<_> = open
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .collect();
    let signals = targets
        .iter()
        .any(|t| t.display().to_string().contains("signalfd"));
    assert!(!signals, "the worker holds the warden's signals");
    for secret in ["audit.key", "server.key", "gateway.toml"] {
        let held = targets
            .iter()
            .any(|t| t.file_name().is_some_and(|n| n == secret));
        assert!(!held, "the worker holds {secret} open");
    }
}

#[test]
fn a_killed_worker_is_replaced_and_serves() {
    let upstream = Upstream::ok("x");
    let gateway = before(upstream.address);
    let mut client = gateway.http();
    assert_eq!(client.ask(get("/before")).status, 200);
    let first = gateway.worker_pid();
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).expect("kill the worker");
    assert!(client.is_closed());
    until("another worker", || {
        let output = gateway.cli(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["pid"].as_u64()? != u64::from(first)).then_some(())
    });
    let response = gateway.http().ask(get("/after"));
    assert_eq!(response.status, 200);
    gateway.record(response.field("x-request-id").expect("an id"));
    assert_eq!(gateway.curl().get("/after-tls", &[]).status, 200);
    let log = gateway.path("log/audit.jsonl");
    assert_intact(&gateway, &log);
}

fn assert_intact(gateway: &Gateway, log: &Path) {
    let output = gateway.cli(&["audit", "verify", &log.display().to_string()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_worker_does_not_outlive_its_warden() {
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let worker = gateway.worker_pid();
    gateway.signal(Signal::SIGKILL);
    gateway
        .exit(std::time::Duration::from_secs(5))
        .expect("the warden's end");
    until("the worker's end", || {
        let status = fs::read_to_string(format!("/proc/{worker}/status"));
        let gone = status.is_err() || status.is_ok_and(|s| s.contains("State:\tZ"));
        gone.then_some(())
    });
}

/// A gateway with what the unit file leaves to root, and no more.
struct Confined(Child);

impl Confined {
    fn start(dir: &Path) -> Confined {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/gateway.service");
        let unit = fs::read_to_string(unit).expect("the unit");
        let bounding = unit
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .expect("a bounding set");
        let kept: Vec<String> = bounding
            .split_whitespace()
            .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let stderr = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("stderr.log"));
        let child = Command::new("setpriv")
            .arg(format!("--bounding-set=-all{}", kept.concat()))
            .args(["--inh-caps=-all", "--no-new-privs", "sh", "-c"])
            .arg("umask 0077 && exec \"$0\" run --config \"$1\"")
            .arg(program())
            .arg(dir.join("gateway.toml"))
            .env("LOGS_DIRECTORY", dir.join("log"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.expect("a file for stderr"))
            .spawn()
            .expect("start setpriv");
        Confined(child)
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).expect("SIGTERM");
        let status = within(Duration::from_secs(20), || self.0.try_wait().expect("wait"));
        assert_eq!(status.expect("an end").code(), Some(0));
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_starts_and_starts_again_with_just_the_rights_of_its_unit() {
    if skip_without_root("root, whose rights the unit bounds") {
        return;
    }
    let upstream = Upstream::ok("x");
    let dir = private_dir();
    gateway_tests::material::write(dir.path());
    let config = Config::forwarding_to(upstream.address);
    fs::write(dir.path().join("gateway.toml"), config.render(dir.path())).expect("the config");
    // As the service manager makes it: root's, and for root alone.
    let log = dir.path().join("log");
    fs::create_dir(&log).expect("the log folder");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).expect("its mode");

    let stderr = || fs::read_to_string(dir.path().join("stderr.log")).unwrap_or_default();
    for round in 1..=2 {
        let gateway = Confined::start(dir.path());
        let ready = within(Duration::from_secs(15), || {
            (stderr().matches(" ready").count() >= round).then_some(())
        });
        assert!(ready.is_some(), "not ready:\n{}", stderr());
        assert_eq!(Client::connect(config.http).ask(get("/")).status, 200);
        let access = log.join("access.jsonl");
        let moved = log.join(format!("moved{round}"));
        until("a record", || {
            (fs::metadata(&access).ok()?.len() > 0).then_some(())
        });
        fs::rename(&access, &moved).expect("move the log away");
        kill(Pid::from_raw(gateway.0.id() as i32), Signal::SIGHUP).expect("SIGHUP");
        until("a new log", || fs::metadata(&access).ok());
        let meta = fs::metadata(&access).expect("the new log");
        until("the new log with the worker", || {
            (fs::metadata(&access).ok()?.uid() == 65534).then_some(())
        });
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        until("the reload", || {
            (stderr().matches("reloaded").count() >= round).then_some(())
        });
        assert_eq!(Client::connect(config.http).ask(get("/")).status, 200);
        gateway.stop();
        assert!(!stderr().contains("ERROR"), "{}", stderr());
    }
    assert_eq!(fs::metadata(&log).expect("the folder").uid(), 65534);
}

#[test]
fn a_second_gateway_on_the_same_address_is_refused() {
    let upstream = Upstream::ok("x");
    let first = before(upstream.address);
    let dir = private_dir();
    gateway_tests::material::write(dir.path());
    let path = dir.path().join("gateway.toml");
    // The same ports, everything else its own.
    fs::write(&path, first.config.render(dir.path())).expect("the config");
    let path = path.display().to_string();
    let output = gateway_tests::gateway::command(&["run", "--config", &path]);
    assert_ne!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another process does already"), "{said}");
    assert_eq!(first.http().ask(get("/")).status, 200);
}

#[test]
fn a_log_in_a_folder_of_roots_is_made_anew_for_the_worker_when_it_is_moved_away() {
    if skip_without_root("root, whose folder the worker cannot write to") {
        return;
    }
    let upstream = Upstream::ok("x");
    let dir = private_dir();
    gateway_tests::material::write(dir.path());
    let config = Config::forwarding_to(upstream.address);
    let text = config.render(dir.path());
    let text = text.replace("log/access.jsonl", "roots/access.jsonl");
    fs::write(dir.path().join("gateway.toml"), text).expect("the config");
    let folder = dir.path().join("roots");
    fs::create_dir(&folder).expect("the folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");

    let gateway = Confined::start(dir.path());
    until("the worker", || {
        let stderr = fs::read_to_string(dir.path().join("stderr.log")).ok()?;
        stderr.contains(" ready").then_some(())
    });
    let access = folder.join("access.jsonl");
    fs::rename(&access, folder.join("moved")).expect("move the log away");
    kill(Pid::from_raw(gateway.0.id() as i32), Signal::SIGHUP).expect("SIGHUP");
    until("a record in the new log", || {
        assert_eq!(Client::connect(config.http).ask(get("/")).status, 200);
        (fs::metadata(&access).ok()?.len() > 0).then_some(())
    });
    let meta = fs::metadata(&access).expect("the new log");
    assert_eq!(
        (meta.uid(), meta.permissions().mode() & 0o777),
        (65534, 0o600)
    );
    gateway.stop();
}
