//! A reload, or the end, costs no request: under load, by signal and by command, good configs and bad.

use gateway_tests::client::get;
use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, before, command, json_lines};
use gateway_tests::load::{Load, OnClose};
use gateway_tests::upstream::{Step, Upstream, ok};
use gateway_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const RELOADS: usize = 20;
/// No reload stops the world for as long as a person would notice.
const LONGEST: Duration = Duration::from_secs(1);

fn route(name: &str, path: &str) -> String {
    format!("[[routes]]\nname = \"{name}\"\npath = \"{path}\"\nupstream = \"up\"\n")
}

#[test]
fn twenty_reloads_under_load_cost_no_request() {
    let upstream = Upstream::ok("x");
    let plain = Config::default()
        .upstream("up", &[upstream.address])
        .section(&route("load", "/load"));
    let mut gateway = Gateway::start(plain.clone());
    let load = Load::start(gateway.config.http, "/load", 6, OnClose::Reconnect);
    until("load", || (load.done() > 100).then_some(()));
    for i in 0..RELOADS {
        // Each config differs, so that each reload has something to do.
        let wanted = format!("/extra{i}");
        gateway.rewrite(plain.clone().section(&route("extra", &wanted)));
        let before_this = load.done();
        if i % 2 == 0 {
            gateway.cli_ok(&["reload"]);
        } else {
            gateway.signal(Signal::SIGHUP);
        }
        until("the new config", || {
            (gateway.http().ask(get(&wanted)).status == 200).then_some(())
        });
        until("load going on", || {
            (load.done() > before_this + 20).then_some(())
        });
    }
    let longest = load.longest();
    let (done, failures) = load.finish();
    assert!(longest < LONGEST, "a request took {longest:?}");
    assert!(
        failures.is_empty(),
        "{} of {done} failed: {failures:#?}",
        failures.len()
    );
    until("an audit event of each reload", || {
        let events = gateway.audit_events();
        let reloads = events.iter().filter(|e| e["event"] == "reload-ok").count();
        (reloads == RELOADS).then_some(())
    });
    assert!(gateway.stderr().matches("reloaded").count() >= RELOADS);
}

#[test]
fn a_new_route_a_new_key_and_a_new_certificate_take_effect() {
    let upstream = Upstream::ok("x");
    let keys = "[[policies]]\nname = \"keys\"\ntype = \"api_key\"\nfile = \"keys.toml\"\n";
    let config = Config::default()
        .upstream("up", &[upstream.address])
        .section(keys)
        .section(&(route("one", "/one") + "policies = [\"keys\"]\n"));
    let mut gateway = Gateway::start_with(config, &[("keys.toml", "")], None);
    let mut kept = gateway.http();
    assert_eq!(kept.ask(get("/one")).status, 401);
    assert_eq!(kept.ask(get("/two")).status, 404);

    let output = command(&["key", "new", "--owner", "ann"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let key = text
        .lines()
        .map(str::trim)
        .find(|l| l.starts_with("gwk_"))
        .expect("a key");
    let entry = &text[text.find("[[keys]]").expect("an entry")..];
    std::fs::write(gateway.path("keys.toml"), entry).expect("write the keys");
    gateway_tests::material::write(gateway.dir.path()); // another authority, another certificate
    let more = gateway.config.clone().section(&route("two", "/two"));
    gateway.rewrite(more);
    gateway.cli_ok(&["reload"]);

    // On the connection that was open before, too.
    assert_eq!(kept.ask(get("/two")).status, 200);
    let with_key = format!("GET /one HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n\r\n");
    assert_eq!(kept.ask(with_key).status, 200);
    assert_eq!(
        gateway.curl().get("/two", &[]).status,
        200,
        "the new authority signs the new certificate"
    );
}

#[test]
fn a_bad_config_is_refused_whole_and_the_old_one_stays() {
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let good = gateway.config.clone();
    let bad = good
        .clone()
        .section(&route("two", "/two"))
        .section("polices = [\"nobody\"]")
        .section("[[routes]]\nname = \"three\"\npath = \"no-slash\"\nupstream = \"upp\"\npolicies = [\"nobody\"]\n");
    gateway.rewrite(bad);
    let refused = gateway.cli(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    for wanted in [
        "polices",
        "did you mean `policies`",
        "no upstream is called `upp`",
        "routes[2]",
        "nobody",
    ] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    assert_eq!(gateway.http().ask(get("/anything")).status, 200);
    gateway.audit_where("reload-failed", |e| e["event"] == "reload-failed");

    // What needs a restart is refused as well, and said so.
    let mut moved = good.clone();
    moved.http.set_port(gateway_tests::config::free_port());
    gateway.rewrite(moved);
    let refused = gateway.cli(&["reload"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("restart"),
        "{refused:?}"
    );

    gateway.rewrite(good);
    gateway.cli_ok(&["reload"]);
    assert_eq!(gateway.http().ask(get("/anything")).status, 200);
}

#[test]
fn a_request_in_flight_keeps_the_config_it_began_with() {
    let upstream = Upstream::start(|seen| {
        let wait = if seen.target() == "/slow" { 600 } else { 0 };
        let mut steps = vec![Step::Wait(Duration::from_millis(wait))];
        steps.extend(ok("x"));
        steps
    });
    let mut gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(get("/slow"));
    until("the request at the upstream", || {
        (!upstream.seen().is_empty()).then_some(())
    });
    let other = Config {
        sections: String::new(),
        ..gateway.config.clone()
    };
    gateway.rewrite(
        other
            .upstream("up", &[upstream.address])
            .section(&route("other", "/other")),
    );
    gateway.cli_ok(&["reload"]);
    let response = client.response();
    assert_eq!(response.status, 200);
    assert_eq!(
        gateway.record(response.field("x-request-id").expect("an id"))["route"],
        "all"
    );
    assert_eq!(client.ask(get("/slow")).status, 404);
}

#[test]
fn a_drain_under_load_loses_no_request_and_ends_well() {
    let upstream = Upstream::start(|_| {
        let mut steps = vec![Step::Wait(Duration::from_millis(5))];
        steps.extend(ok("x"));
        steps
    });
    let mut gateway = before(upstream.address);
    let load = Load::start(gateway.config.http, "/load", 8, OnClose::Stop);
    until("load", || (load.done() > 200).then_some(()));
    let status = gateway.stop();
    let (done, failures) = load.finish();
    assert!(
        failures.is_empty(),
        "{} of {done} failed: {failures:#?}",
        failures.len()
    );
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
    assert!(
        !gateway.path("admin.sock").exists(),
        "the admin socket was left behind"
    );
    let answered = gateway.records().len() as u64;
    assert_eq!(answered, done, "records and answers differ");
    assert!(upstream.seen().len() as u64 >= done);
}

#[test]
fn a_drain_waits_for_the_slow_but_not_for_ever() {
    let upstream = Upstream::start(|seen| {
        if seen.target() == "/never" {
            return vec![Step::ReadBody, Step::Stall];
        }
        let mut steps = vec![Step::Wait(Duration::from_millis(900))];
        steps.extend(ok("slow"));
        steps
    });
    let mut config = Config::forwarding_to(upstream.address);
    config.server = "workers = 2\ndrain_timeout = \"2s\"".into();
    let mut gateway = Gateway::start(config);
    let mut idle = gateway.http();
    assert_eq!(idle.ask(get("/x")).status, 200);
    let (mut slow, mut never) = (gateway.http(), gateway.http());
    slow.send(get("/slow"));
    never.send(get("/never"));
    until("both at the upstream", || {
        (upstream.seen().len() == 3).then_some(())
    });
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let response = slow.response();
    assert_eq!((response.status, response.text().as_str()), (200, "slow"));
    assert!(response.closes());
    assert!(idle.is_closed());
    let status = gateway.exit(Duration::from_secs(12)).expect("an end");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(1500) && took < Duration::from_secs(10),
        "{took:?}"
    );
    assert!(never.try_response("GET").is_err());
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
}

#[test]
fn a_reload_while_the_worker_is_down_is_what_its_successors_serve() {
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let plain = Config::default().upstream("up", &[upstream.address]);
    let base = Config {
        sections: plain.sections,
        ..gateway.config.clone()
    };
    let crash = |gateway: &Gateway| {
        let pid = gateway.worker_pid();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("kill the worker");
        pid
    };
    let replaced = |gateway: &Gateway, dead: u32| {
        until("another worker", || {
            let output = gateway.cli(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["pid"].as_u64()? != u64::from(dead)).then_some(())
        });
    };
    let serves = |gateway: &Gateway, i: usize| {
        assert_eq!(gateway.http().ask(get(&format!("/new{i}"))).status, 200);
        assert_eq!(gateway.http().ask(get("/new-none")).status, 404);
    };
    for i in 0..3 {
        gateway.rewrite(base.clone().section(&route("new", &format!("/new{i}"))));
        let dead = crash(&gateway);
        gateway.signal(Signal::SIGHUP);
        replaced(&gateway, dead);
        serves(&gateway, i);
    }
    // Not only the next one: a reload that works comes between, and then one more end.
    gateway.rewrite(base.clone().section(&route("new", "/new3")));
    gateway.cli_ok(&["reload"]);
    serves(&gateway, 3);
    let dead = crash(&gateway);
    replaced(&gateway, dead);
    serves(&gateway, 3);
    assert!(!gateway.stderr().contains("was not sent"));
}

#[test]
fn who_is_allowed_is_never_banned_and_a_ban_says_how_far_it_reaches() {
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let said = gateway.cli_ok(&["bans", "add", "127.0.0.9", "--ttl", "1m"]);
    assert!(said.contains("in user space only"), "{said}");
    let said = gateway.cli_ok(&["bans", "add", "192.0.2.1", "--ttl", "1m", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(answer["kernel"], false);
    assert!(
        answer["why"]
            .as_str()
            .is_some_and(|why| why.contains("off"))
    );
    for all in ["::ffff:0:0/96", "0.0.0.0/0"] {
        let refused = gateway.cli(&["bans", "add", all]);
        assert_eq!(refused.status.code(), Some(1), "{all}");
    }
    let mut config = gateway.config.clone();
    config.filter = "enabled = false\nallow = [\"127.0.0.0/8\"]".into();
    gateway.rewrite(config);
    gateway.cli_ok(&["reload"]);
    let targets: Vec<String> = gateway
        .bans()
        .iter()
        .map(|b| b["target"].to_string())
        .collect();
    assert_eq!(targets, ["\"192.0.2.1/32\""]);
    let refused = gateway.cli(&["bans", "add", "127.0.0.9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("trusted"));
}

#[test]
fn a_drain_lets_a_long_download_end() {
    const BYTES: usize = 16 << 20;
    let upstream = Upstream::start(|_| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        vec![
            Step::Send(head.into_bytes()),
            Step::Send(vec![b'x'; BYTES / 2]),
            Step::Wait(Duration::from_millis(1500)),
            Step::Send(vec![b'x'; BYTES / 2]),
        ]
    });
    let mut gateway = before(upstream.address);
    let mut client = gateway.http();
    client.send(get("/big"));
    let head = client.head().expect("a head");
    gateway.signal(Signal::SIGTERM);
    let mut got = 0;
    client
        .body(&head, |part| got += part.len())
        .expect("the whole body");
    assert_eq!(got, BYTES);
    let status = gateway.exit(Duration::from_secs(10)).expect("an end");
    assert_eq!(status.code(), Some(0), "{}", gateway.stderr());
}

#[test]
fn logs_opened_anew_under_load_lose_no_record() {
    let upstream = Upstream::ok("x");
    let mut gateway = before(upstream.address);
    let load = Load::start(gateway.config.http, "/load", 4, OnClose::Reconnect);
    let log = gateway.path("log/access.jsonl");
    for n in 0..5 {
        let before_this = load.done();
        until("load", || (load.done() > before_this + 50).then_some(()));
        std::fs::rename(&log, gateway.path(&format!("log/moved.{n}"))).expect("move the log");
        gateway.signal(Signal::SIGHUP);
        until("a new log", || log.exists().then_some(()));
    }
    let (done, failures) = load.finish();
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(gateway.stop().code(), Some(0));
    let moved = (0..5).map(|n| gateway.path(&format!("log/moved.{n}")));
    let records: usize = moved.chain([log]).map(|p| json_lines(&p).len()).sum();
    assert_eq!(records as u64, done);
}
