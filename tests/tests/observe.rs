//! What operators see: metrics that parse and agree with what was asked, logs that rotate, alerts that reach a
//! webhook and do not repeat.

use gateway_tests::client::{Client, get};
use gateway_tests::config::{Config, free_port};
use gateway_tests::gateway::{Gateway, json_lines};
use gateway_tests::upstream::{Upstream, answer, ok};
use gateway_tests::wait::{until, within};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn sometimes_failing() -> Upstream {
    Upstream::start(|seen| match seen.target() {
        "/fail" => answer("500 Internal Server Error", &[], "no"),
        _ => ok("x"),
    })
}

#[test]
fn metrics_parse_and_agree_with_what_was_asked() {
    let upstream = sometimes_failing();
    let mut config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"none\"\ntype = \"ip\"\ndeny = [\"127.0.0.0/8\"]\n")
        .section("[[routes]]\nname = \"open\"\npath = \"/open/*\"\nupstream = \"up\"\n")
        .section("[[routes]]\nname = \"fail\"\npath = \"/fail\"\nupstream = \"up\"\n")
        .section("[[routes]]\nname = \"shut\"\npath = \"/shut\"\nupstream = \"up\"\npolicies = [\"none\"]\n");
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    config.metrics = Some(metrics);
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    for (path, times) in [("/open/x", 7), ("/fail", 3), ("/shut", 2), ("/nowhere", 4)] {
        for _ in 0..times {
            client.ask(get(path));
        }
    }
    gateway.http().ask("BROKEN\r\n\r\n");
    assert_eq!(gateway.curl().get("/open/tls", &[]).status, 200);
    gateway.await_metric("gateway_responses_total{code=\"200\",class=\"2xx\"}", 8.0);

    let text = Client::connect(metrics).ask(get("/metrics")).text();
    let values = parse(&text);
    assert_eq!(parse(&gateway.metrics_text()).len(), values.len());
    for (series, value) in [
        ("gateway_responses_total{code=\"200\",class=\"2xx\"}", 8.0),
        ("gateway_responses_total{code=\"500\",class=\"5xx\"}", 3.0),
        ("gateway_responses_total{code=\"403\",class=\"4xx\"}", 2.0),
        ("gateway_responses_total{code=\"404\",class=\"4xx\"}", 4.0),
        ("gateway_responses_total{code=\"400\",class=\"4xx\"}", 1.0),
        ("gateway_refusals_total{reason=\"address-denied\"}", 2.0),
        ("gateway_refusals_total{reason=\"no-route\"}", 4.0),
        ("gateway_refusals_total{reason=\"malformed-head\"}", 1.0),
        ("gateway_refusals_total{reason=\"rate-limited\"}", 0.0),
        ("gateway_route_requests_total{route=\"open\"}", 8.0),
        ("gateway_route_requests_total{route=\"fail\"}", 3.0),
        ("gateway_route_server_errors_total{route=\"fail\"}", 3.0),
        ("gateway_route_client_errors_total{route=\"shut\"}", 2.0),
        ("gateway_route_duration_seconds_count{route=\"open\"}", 8.0),
        (
            "gateway_route_duration_seconds_bucket{route=\"open\",le=\"+Inf\"}",
            8.0,
        ),
        ("gateway_tls_handshakes_total{outcome=\"ok\"}", 1.0),
        ("gateway_log_dropped_total{log=\"access\"}", 0.0),
        ("gateway_log_dropped_total{log=\"audit\"}", 0.0),
        ("gateway_faults_total{reason=\"internal\"}", 0.0),
    ] {
        assert_eq!(values.get(series).copied(), Some(value), "{series}\n{text}");
    }
    let accepted = values["gateway_connections_accepted_total"];
    let open = values["gateway_connections_open"];
    assert!(
        accepted >= 3.0 && open >= 1.0 && open <= accepted,
        "{accepted} accepted, {open} open"
    );

    // Nothing else is served there.
    for path in ["/", "/status", "/bans", "/reload", "/healthz"] {
        assert_eq!(
            Client::connect(metrics).ask(get(path)).status,
            404,
            "{path}"
        );
    }
    // One record for each exchange, malformed ones too.
    until("a record of each", || {
        (gateway.records().len() == 18).then_some(())
    });
    let broken = gateway.record_where("the malformed head", |r| {
        r["decision"]["slug"] == "malformed-head"
    });
    assert_eq!(
        (&broken["status"], &broken["method"]),
        (&400.into(), &"".into())
    );
}

/// Series to value. Every sample must belong to a family with HELP and TYPE before it, every series stand once.
fn parse(text: &str) -> HashMap<String, f64> {
    let (mut helped, mut typed) = (HashSet::new(), HashMap::new());
    let mut values = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(
                !help.is_empty() && helped.insert(name.to_owned()),
                "HELP {name}"
            );
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(
                typed.insert(name.to_owned(), kind.to_owned()).is_none(),
                "TYPE {name} twice"
            );
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = series.split('{').next().expect("a name");
        let ends = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let family = ends
            .filter(|f| typed.get(*f).is_some_and(|k| k == "histogram"))
            .unwrap_or(name);
        assert!(
            helped.contains(family) && typed.contains_key(family),
            "no HELP or TYPE for {line}"
        );
        if typed[family] == "counter" {
            assert!(name.ends_with("_total"), "a counter called {name}");
        }
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(
            values.insert(series.to_owned(), value).is_none(),
            "{series} stands twice"
        );
    }
    assert!(values.len() > 30, "{text}");
    values
}

#[test]
fn sighup_opens_the_logs_anew() {
    let upstream = Upstream::ok("x");
    let gateway = gateway_tests::gateway::before(upstream.address);
    let first = gateway.http().ask(get("/first"));
    gateway.record(first.field("x-request-id").expect("an id"));
    let (log, moved) = (
        gateway.path("log/access.jsonl"),
        gateway.path("log/access.moved"),
    );
    fs::rename(&log, &moved).expect("move the log");
    gateway.signal(Signal::SIGHUP);
    until("a new log", || log.exists().then_some(()));
    let second = gateway.http().ask(get("/second"));
    gateway.record(second.field("x-request-id").expect("an id"));
    assert_eq!((json_lines(&log).len(), json_lines(&moved).len()), (1, 1));
    let mode = fs::metadata(&log).expect("the log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn logs_rotate_by_size_and_lose_nothing() {
    let upstream = Upstream::ok("x");
    let mut config = Config::forwarding_to(upstream.address);
    config.access_log = "max_size = \"64KiB\"\nkeep = 20".into();
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    let path = format!("/{}", "a".repeat(400));
    const REQUESTS: usize = 600;
    for _ in 0..REQUESTS {
        assert_eq!(client.ask(get(&path)).status, 200);
    }
    let all = || -> Vec<Value> {
        let rotated = (1..=20)
            .rev()
            .map(|n| gateway.path(&format!("log/access.jsonl.{n}")));
        let mut records: Vec<Value> = rotated.flat_map(|p| json_lines(&p)).collect();
        records.extend(gateway.records());
        records
    };
    until("every record in some file", || {
        (all().len() == REQUESTS).then_some(())
    });
    let ids: HashSet<String> = all().iter().map(|r| r["id"].to_string()).collect();
    assert_eq!(ids.len(), REQUESTS);
    for n in 1..=3 {
        let meta =
            fs::metadata(gateway.path(&format!("log/access.jsonl.{n}"))).expect("a rotated log");
        assert!(meta.len() <= 64 << 10, "{} bytes", meta.len());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(
        gateway.metric("gateway_log_dropped_total{log=\"access\"}"),
        0.0
    );
}

#[test]
fn an_alert_reaches_the_webhook_once_and_not_again_too_soon() {
    let upstream = sometimes_failing();
    let hook = Upstream::start(|_| ok("thanks"));
    let mut config = Config::forwarding_to(upstream.address);
    config.alerts = format!(
        "baseline = {{ enabled = false }}\nmin_interval = \"1h\"\n\
         webhooks = [{{ url = \"http://{}/hook/s3cret\" }}]\n\
         thresholds = [{{ signal = \"error_ratio\", above = 0.3, for = \"1s\" }}]",
        hook.address
    );
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    // The half of all fails, for as long as the threshold asks; the detector looks once a second.
    let fired = within(Duration::from_secs(15), || {
        client.ask(get("/fail"));
        client.ask(get("/fine"));
        (!hook.seen().is_empty()).then_some(())
    });
    assert!(fired.is_some(), "no alert: {}", gateway.stderr());
    let told = until("a whole body", || hook.seen().into_iter().find(|s| s.whole));
    assert_eq!((told.method(), told.target()), ("POST", "/hook/s3cret"));
    assert_eq!(told.field("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&told.body).expect("JSON");
    let alert = &body["alerts"][0];
    assert_eq!(
        (&alert["status"], &alert["signal"]),
        (&"firing".into(), &"error_ratio".into())
    );
    assert_eq!(alert["cause"], "threshold");
    assert!(alert["value"].as_f64().expect("a value") > 0.3, "{alert}");
    gateway.await_metric("gateway_alerts_firing", 1.0);
    gateway.audit_where("alert", |e| {
        e["event"] == "alert" && e["signal"] == "error_ratio"
    });

    // It goes on failing: nobody is told again.
    let again = within(Duration::from_secs(4), || {
        client.ask(get("/fail"));
        (hook.seen().len() > 1).then(|| hook.seen())
    });
    assert!(again.is_none(), "told again: {again:#?}");
    assert!(
        !gateway.stderr().contains("s3cret"),
        "the webhook's URL stands in the log"
    );
}

#[test]
fn failed_logins_raise_an_alert_and_its_end_is_told() {
    let upstream = Upstream::ok("x");
    let hook = Upstream::start(|_| ok("thanks"));
    let mut config = Config::default()
        .upstream("up", &[upstream.address])
        .section("[[policies]]\nname = \"keys\"\ntype = \"api_key\"\n")
        .section(
            "[[routes]]\nname = \"in\"\npath = \"/*\"\nupstream = \"up\"\npolicies = [\"keys\"]\n",
        );
    config.alerts = format!(
        "baseline = {{ enabled = false }}\nmin_interval = \"1s\"\n\
         webhooks = [{{ url = \"http://{}/\", format = \"alertmanager\" }}]\n\
         thresholds = [{{ signal = \"auth_failures\", above = 5, for = \"1s\" }}]",
        hook.address
    );
    let gateway = Gateway::start(config);
    let mut client = gateway.http();
    let ask = "GET / HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: gwk_wrong_wrong\r\n\r\n";
    let fired = within(Duration::from_secs(15), || {
        assert_eq!(client.ask(ask).status, 401);
        hook.seen().into_iter().find(|s| s.whole)
    });
    let body: Value = serde_json::from_slice(&fired.expect("an alert").body).expect("JSON");
    assert!(body.to_string().contains("auth_failures"), "{body}");
    // Calm now, and told so.
    until("the end of the alert", || {
        let events = gateway.audit_events();
        events
            .iter()
            .any(|e| e["event"] == "alert" && e["status"] == "resolved")
            .then_some(())
    });
    until("the webhook told of it", || {
        (hook.seen().len() >= 2).then_some(())
    });
}

#[test]
fn status_and_strikes_are_counted() {
    let upstream = Upstream::ok("x");
    let mut config = Config::forwarding_to(upstream.address);
    // Shadow: counted and logged, nobody is banned.
    config.strikes = "threshold = 20\nmode = \"shadow\"".into();
    let gateway = Gateway::start(config);
    for _ in 0..6 {
        gateway.http().ask("BROKEN\r\n\r\n");
    }
    gateway.await_metric("gateway_strikes_total{kind=\"syntax\"}", 6.0);
    assert_eq!(gateway.bans(), [Value::Null; 0]);
    gateway.audit_where("the shadow ban", |e| {
        e["event"] == "ban-added" && e["reason"].as_str().is_some_and(|r| r.contains("shadow"))
    });
    assert_eq!(gateway.http().ask(get("/")).status, 200);
    until("seven requests", || {
        (gateway.status()["requests"] == 7).then_some(())
    });
    let status = gateway.status();
    assert_eq!(status["filter"], Value::Array(vec![]));
    assert_eq!(status["log_records_lost"], 0);
}

#[test]
fn strikes_ban_in_user_space_too_and_the_ban_ends() {
    let upstream = Upstream::ok("x");
    let mut config = Config::forwarding_to(upstream.address);
    config.strikes = "threshold = 20\nban_ttl = \"2s\"".into();
    let gateway = Gateway::start(config);
    let mut kept = gateway.http();
    assert_eq!(kept.ask(get("/")).status, 200);
    let mut refused = 0;
    for _ in 0..20 {
        let Ok(mut client) = Client::try_connect(gateway.config.http) else {
            break;
        };
        let answered = client
            .try_send("BROKEN\r\n\r\n")
            .and_then(|()| client.try_response("GET"));
        refused += u32::from(answered.is_ok());
    }
    // The sum decays a little, and a strike counts after its answer is out: the next client may be in already.
    assert!(
        (4..=7).contains(&refused),
        "{refused} refusals before the ban"
    );
    let bans = gateway.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(bans[0]["target"], "127.0.0.1/32");
    assert_eq!(bans[0]["origin"], "syntax");
    // A connection that was open before is no way around it.
    let answer = kept
        .try_send(get("/"))
        .and_then(|()| kept.try_response("GET"));
    assert!(
        answer.as_ref().map_or(true, |r| r.status == 403),
        "{answer:?}"
    );
    until("the end of the ban", || {
        let mut client = Client::try_connect(gateway.config.http).ok()?;
        client.try_send(get("/")).ok()?;
        (client.try_response("GET").ok()?.status == 200).then_some(())
    });
    gateway.audit_where("the ban's end", |e| e["event"] == "ban-expired");
    assert_eq!(gateway.bans(), [Value::Null; 0]);
}
