//! The audit log proves itself: any edit, loss, swap or cut of a real gateway's log is found by `gateway audit verify`.

use gateway_tests::client::get;
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, command};
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

/// A gateway's audit log with a bit of everything, after its end.
fn written() -> (Gateway, PathBuf) {
    let upstream = Upstream::ok("x");
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"none\"\ntype = \"ip\"\ndeny = [\"127.0.0.0/8\"]\n")
        .section("[[routes]]\nname = \"all\"\npath = \"/all\"\nupstream = \"up\"\npolicies = [\"none\"]\n");
    let mut gateway = Gateway::start(config);
    let mut client = gateway.http();
    for path in ["/all", "/nowhere", "/all"] {
        client.ask(get(path));
    }
    gateway.http().ask("BROKEN\r\n\r\n");
    gateway.cli_ok(&[
        "bans",
        "add",
        "192.0.2.7",
        "--ttl",
        "1h",
        "--reason",
        "test",
    ]);
    gateway.cli_ok(&["bans", "remove", "192.0.2.7"]);
    gateway.cli_ok(&["reload"]);
    assert_eq!(gateway.stop().code(), Some(0));
    let log = gateway.path("log/audit.jsonl");
    (gateway, log)
}

fn verify(log: &Path) -> (i32, String) {
    let output = command(&["audit", "verify", &log.display().to_string()]);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.into_owned())
}

#[test]
fn a_whole_log_verifies_and_tells_what_happened() {
    let (gateway, log) = written();
    let (code, text) = verify(&log);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is intact"), "{text}");
    let events = gateway.audit_events();
    let named = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!(named("started"), 1);
    assert_eq!(named("refusal"), 4);
    assert_eq!((named("ban-added"), named("ban-removed")), (1, 1));
    assert_eq!((named("reload-ok"), named("stopping")), (1, 1));
    let ban = events
        .iter()
        .find(|e| e["event"] == "ban-added")
        .expect("a ban");
    assert!(ban.to_string().contains("192.0.2.7"), "{ban}");
    // A refusal names the exchange.
    let refusal = events
        .iter()
        .find(|e| e["event"] == "refusal" && e["rule"] == "none")
        .expect("a refusal");
    let id = refusal["id"].as_str().expect("an id");
    assert!(gateway.records().iter().any(|r| r["id"] == id));
}

#[test]
fn every_change_is_found_and_named() {
    let (gateway, log) = written();
    let good = fs::read_to_string(&log).expect("the log");
    let lines: Vec<&str> = good.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    let without = |at: usize| {
        let mut lines = lines.clone();
        lines.remove(at);
        join(&lines)
    };
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(2, 3);
        join(&lines)
    };
    let doubled = |at: usize| {
        let mut lines = lines.clone();
        lines.insert(at, lines[at]);
        join(&lines)
    };
    let last = lines.len() - 1;
    let mut changes = vec![
        ("first deleted".to_owned(), without(0)),
        ("one deleted".to_owned(), without(3)),
        ("last deleted".to_owned(), without(last)),
        ("cut at a line".to_owned(), join(&lines[..last - 1])),
        (
            "cut within a line".to_owned(),
            good[..good.len() - 20].to_owned(),
        ),
        (
            "cut by its last byte".to_owned(),
            good[..good.len() - 1].to_owned(),
        ),
        ("swapped".to_owned(), swapped),
        ("doubled".to_owned(), doubled(2)),
        ("last doubled".to_owned(), doubled(last)),
        ("emptied".to_owned(), String::new()),
        (
            "a line of its own".to_owned(),
            good.clone() + "{\"event\":\"started\"}\n",
        ),
        (
            "a blank line".to_owned(),
            join(&lines[..2]) + "\n" + &join(&lines[2..]),
        ),
        (
            "another address".to_owned(),
            good.replacen("127.0.0.1", "127.0.0.2", 1),
        ),
        (
            "another event".to_owned(),
            good.replacen("refusal", "Refusal", 1),
        ),
    ];
    // One byte anywhere: in every line, near its beginning, middle and end.
    let mut at = 0;
    for (i, line) in lines.iter().enumerate() {
        for place in [2, line.len() / 2, line.len() - 3] {
            let mut bytes = good.clone().into_bytes();
            let byte = &mut bytes[at + place];
            *byte = if *byte == b'a' { b'b' } else { b'a' };
            let text = String::from_utf8(bytes).expect("ASCII stays ASCII");
            if text != good {
                changes.push((format!("byte {place} of line {i}"), text));
            }
        }
        at += line.len() + 1;
    }
    for (what, text) in changes {
        assert_ne!(text, good, "{what} changes nothing");
        fs::write(&log, text).expect("write the log");
        let (code, said) = verify(&log);
        assert_eq!(code, 1, "{what} was not found: {said}");
        assert!(
            said.contains("NOT intact: ") && said.trim_end().len() > 40,
            "{what}: {said}"
        );
    }
    fs::write(&log, &good).expect("write the log");
    assert_eq!(verify(&log).0, 0, "the original no longer verifies");
    drop(gateway);
}

#[test]
fn another_key_does_not_verify_and_nor_does_a_log_without_its_head() {
    let (gateway, log) = written();
    let (other_gateway, other_log) = written();
    let other_key = other_log.with_file_name("audit.jsonl.pub");
    let output = command(&[
        "audit",
        "verify",
        &log.display().to_string(),
        "--public-key",
        &other_key.display().to_string(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    // Cut together with its head: an attacker without the key cannot make another one.
    fs::remove_file(log.with_file_name("audit.jsonl.head")).expect("remove the head");
    assert_ne!(verify(&log).0, 0, "a log without its head passed");
    // Another log's head is no substitute.
    fs::copy(
        other_log.with_file_name("audit.jsonl.head"),
        log.with_file_name("audit.jsonl.head"),
    )
    .expect("copy");
    assert_ne!(verify(&log).0, 0);
    drop((gateway, other_gateway));
}

#[test]
fn a_log_goes_on_after_a_restart_and_a_break_is_on_record() {
    let (mut gateway, log) = written();
    let before = gateway.audit_events().len();
    gateway.run_again();
    assert_eq!(gateway.stop().code(), Some(0));
    assert_eq!(verify(&log).0, 0);
    assert!(gateway.audit_events().len() > before, "the log began anew");

    // Changed while the gateway was down: it says so and begins another chain instead of signing a lie.
    let text = fs::read_to_string(&log)
        .expect("the log")
        .replacen("127.0.0.1", "127.0.0.9", 1);
    fs::write(&log, text).expect("write the log");
    gateway.run_again();
    assert_eq!(gateway.stop().code(), Some(0));
    let (code, said) = verify(&log);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("earlier log was found changed"), "{said}");
}

#[test]
fn a_rotated_log_verifies_file_by_file_and_a_crash_costs_no_proof() {
    let upstream = Upstream::ok("x");
    let mut config = Config::forwarding_to(upstream.address);
    config.audit_log = "max_size = \"64KiB\"\nkeep = 50".into();
    config.sections = config.sections.replace("/*", "/only");
    let mut gateway = Gateway::start(config);
    let log = gateway.path("log/audit.jsonl");
    let refuse = |gateway: &Gateway, times: usize| {
        let mut client = gateway.http();
        for _ in 0..times {
            assert_eq!(client.ask(get("/nowhere")).status, 404);
        }
    };
    // It rotates between batches, so one flood does not make two files.
    until("two rotated logs", || {
        refuse(&gateway, 300);
        let second = log.with_file_name("audit.jsonl.2");
        second.exists().then_some(())
    });
    let worker = gateway.worker_pid();
    let client = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut client = gateway.http();
            let asked = |c: &mut gateway_tests::client::Client| {
                c.try_send(get("/nowhere")).is_ok() && c.try_response("GET").is_ok()
            };
            (0..100_000).take_while(|_| asked(&mut client)).count()
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        kill(Pid::from_raw(worker as i32), Signal::SIGKILL).expect("kill the worker");
        busy.join().expect("the client")
    });
    assert!(client > 0);
    until("another worker", || {
        gateway
            .cli(&["status", "--json"])
            .status
            .success()
            .then_some(())
    });
    refuse(&gateway, 50);
    assert_eq!(gateway.stop().code(), Some(0));
    let mut files: Vec<PathBuf> = (1..=50)
        .map(|n| log.with_file_name(format!("audit.jsonl.{n}")))
        .filter(|p| p.exists())
        .collect();
    files.push(log.clone());
    assert!(files.len() >= 3);
    let key = log.with_file_name("audit.jsonl.pub").display().to_string();
    for file in &files {
        let output = command(&[
            "audit",
            "verify",
            &file.display().to_string(),
            "--public-key",
            &key,
        ]);
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", file.display());
    }
    // A rotated file ends with a record that says so: it cannot be cut either.
    let text = fs::read_to_string(&files[0]).expect("a rotated log");
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&files[0], lines[..lines.len() - 1].join("\n") + "\n").expect("write");
    let output = command(&[
        "audit",
        "verify",
        &files[0].display().to_string(),
        "--public-key",
        &key,
    ]);
    assert_eq!(output.status.code(), Some(1), "a cut rotated log passed");
}
