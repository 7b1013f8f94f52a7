//! The audit log proves itself: any edit, loss, swap or cut of a real gateway's log is found by `gateway audit verify`.

use gateway_tests::client::get;
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, command};
use gateway_tests::upstream::Upstream;
use gateway_tests::wait::until;
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
    verify_with(log, &[])
}

fn verify_with(log: &Path, more: &[&str]) -> (i32, String) {
    let log = log.display().to_string();
    let output = command(&[&["audit", "verify", &log], more].concat());
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

/// A log in three files: twice somebody moves the live one away, as log rotation does, and the gateway seals it.
fn in_three_files() -> (Gateway, PathBuf, [PathBuf; 2]) {
    let (mut gateway, log) = written();
    gateway.run_again();
    let [newer, oldest] = ["1", "2"].map(|n| log.with_file_name(format!("audit.jsonl.{n}")));
    for _ in 0..2 {
        if newer.exists() {
            fs::rename(&newer, &oldest).expect("rename");
        }
        fs::rename(&log, &newer).expect("rename");
        gateway.http().ask(get("/nowhere"));
        until("the next file", || log.exists().then_some(()));
    }
    assert_eq!(gateway.stop().code(), Some(0));
    (gateway, log, [newer, oldest])
}

#[test]
fn a_file_that_is_gone_as_a_whole_is_found() {
    let (gateway, log, [newer, oldest]) = in_three_files();
    let head = log.with_file_name("audit.jsonl.head");
    let (code, said) = verify(&log);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("in 3 files") && !said.contains("note"),
        "{said}"
    );

    // One of the middle: each file left is whole, but they do not join.
    let aside = log.with_file_name("aside");
    fs::rename(&newer, &aside).expect("rename");
    let (code, said) = verify(&log);
    assert!(code == 1 && said.contains("were removed"), "{said}");
    fs::rename(&aside, &newer).expect("rename");

    // The oldest: `keep` does that too, so it is told, not held against the log.
    fs::rename(&oldest, &aside).expect("rename");
    let (code, said) = verify(&log);
    assert!(code == 0 && said.contains("are not here"), "{said}");
    fs::rename(&aside, &oldest).expect("rename");

    // The newest with its head, the one before in its place.
    fs::remove_file(&log).expect("remove");
    fs::remove_file(&head).expect("remove");
    assert_eq!(verify(&log).0, 1);
    fs::rename(&newer, &log).expect("rename");
    let (code, said) = verify(&log);
    assert!(
        code == 1 && said.contains("newer file, which is not here"),
        "{said}"
    );

    // Unless that is what was asked for.
    let (code, said) = verify_with(&log, &["--archived"]);
    assert!(code == 0 && said.contains("were not checked"), "{said}");
    drop(gateway);
}

#[test]
fn a_write_torn_by_a_crash_is_recovered_and_recorded() {
    let (mut gateway, log) = written();
    let good = fs::read_to_string(&log).expect("the log");
    let next = good.lines().count();
    let torn = format!("{{\"seq\":{next},\"time\":\"2026-");
    fs::write(&log, good + &torn).expect("write");
    assert_eq!(verify(&log).0, 1);
    gateway.run_again();
    assert_eq!(gateway.stop().code(), Some(0));
    let (code, said) = verify(&log);
    assert!(code == 0 && !said.contains("note"), "{said}");
    let events = gateway.audit_events();
    let recovered = events.iter().find(|e| e["event"] == "recovered");
    assert!(recovered.is_some_and(|e| e["torn_bytes"] == torn.len()));
}

#[test]
fn every_refusal_is_a_record_unless_a_bound_is_set_and_then_none_is_uncounted() {
    for (bound, singles) in [("", 500..=500), ("refusals_per_second = 10", 10..=250)] {
        refuse_500_times(bound, &singles);
    }
}

fn refuse_500_times(bound: &str, singles: &std::ops::RangeInclusive<u64>) {
    let upstream = Upstream::ok("x");
    let mut config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[routes]]\nname = \"all\"\npath = \"/all\"\nupstream = \"up\"\n");
    config.audit_log = bound.into();
    let mut gateway = Gateway::start(config);
    let mut client = gateway.http();
    for _ in 0..500 {
        client.ask(get("/nowhere"));
    }
    assert_eq!(gateway.stop().code(), Some(0));
    let events = gateway.audit_events();
    let single = events.iter().filter(|e| e["event"] == "refusal").count() as u64;
    let counted = events
        .iter()
        .filter(|e| e["event"] == "refusals-suppressed")
        .map(|e| {
            assert_eq!(
                (&e["client"], &e["slug"]),
                (&"127.0.0.1".into(), &"no-route".into())
            );
            e["count"].as_u64().expect("a count")
        })
        .sum::<u64>();
    assert_eq!(single + counted, 500);
    assert!(singles.contains(&single), "{single} records");
    assert_eq!(verify(&gateway.path("log/audit.jsonl")).0, 0);
}
