//! `gateway check`: a config that loads is a config that works, and one that does not says everything at once.

use gateway_tests::config::Config;
use gateway_tests::gateway::{command, private_dir};
use gateway_tests::material;
use std::fs;
use std::net::SocketAddr;
use std::process::Output;

fn check(text: &str) -> Output {
    let dir = private_dir();
    material::write(dir.path());
    let path = dir.path().join("gateway.toml");
    fs::write(&path, text).expect("write the config");
    command(&["check", "--config", &path.display().to_string()])
}

fn good() -> Config {
    Config::forwarding_to(SocketAddr::from(([127, 0, 0, 1], 9)))
}

fn rendered(config: &Config) -> String {
    config.render(std::path::Path::new("/var/log/gateway-test"))
}

#[test]
fn a_good_config_is_good() {
    let output = check(&rendered(&good()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("is good: 2 listeners, 1 routes"), "{text}");
}

#[test]
fn every_error_is_told_with_path_reason_and_hint() {
    let mut config = good()
        .section("polices = []")
        .section("[[policies]]\nname = \"Bad Name\"\ntype = \"ip\"\ndeny = [\"10.0.0.0/8\"]\n")
        .section("[[policies]]\nname = \"rate\"\ntype = \"rate_limit\"\nrate = \"fast\"\n")
        .section("[[policies]]\nname = \"what\"\ntype = \"magic\"\n")
        .section("[[policies]]\nname = \"schema\"\ntype = \"json_schema\"\nschema_file = \"missing.json\"\n")
        .section("[[routes]]\nname = \"two\"\npath = \"no-slash\"\nupstream = \"upp\"\npolicies = [\"nobody\"]\n")
        .section("[[upstreams]]\nname = \"bad\"\ntargets = [\"nowhere\"]\n")
        .section("[[surprise]]\nx = 1\n");
    config.server = "workers = \"many\"\nconnections_max = 0".into();
    config.strikes = "threshold = 0".into();
    config.filter = "interfaces = [{ name = \"eth0\" }]\nburst = 0".into();
    config.access_log = "max_size = \"1KiB\"".into();
    config.alerts = "thresholds = [{ signal = \"error_ratio\", above = 7 }]".into();
    let output = check(&rendered(&config));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for wanted in [
        "server.workers: ",
        "server.connections_max: ",
        "routes[0].polices: unknown key `polices`",
        "hint: did you mean `policies`?",
        "policies[0].name: ",
        "policies[1]",
        "hint: write a rate such as",
        "policies[2]",
        "policies[3].schema_file: ",
        "routes[1]: the path \"no-slash\"",
        "routes[1].upstream: no upstream is called `upp`",
        "hint: did you mean `up`?",
        "upstreams[1].targets",
        "surprise: unknown section",
        "strikes.threshold: ",
        "filter.burst: ",
        "access_log.max_size: ",
        "alerts.thresholds[0].above: ",
        "nobody",
    ] {
        assert!(text.contains(wanted), "no `{wanted}` in:\n{text}");
    }
    let first = text.lines().next().unwrap_or_default();
    let count: usize = first
        .split(' ')
        .rev()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{first}"));
    assert!(count >= 15, "{first}");
    let hints = text.matches("hint: ").count();
    assert!(hints >= 12, "{hints} hints in:\n{text}");
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    for (place, config) in [
        (
            "server",
            Config {
                server: "worker = 2".into(),
                ..good()
            },
        ),
        ("listeners", good().listener("timeout = {}")),
        ("timeouts", good().listener("timeouts = { haed = \"1s\" }")),
        ("limits", good().listener("limits = { fielts = 3 }")),
        ("routes", good().section("stripprefix = true")),
        (
            "strikes",
            Config {
                strikes: "treshold = 3".into(),
                ..good()
            },
        ),
        (
            "filter",
            Config {
                filter: "interface = []".into(),
                ..good()
            },
        ),
        (
            "alerts",
            Config {
                alerts: "webhook = []".into(),
                ..good()
            },
        ),
        (
            "access_log",
            Config {
                access_log: "pth = \"x\"".into(),
                ..good()
            },
        ),
        (
            "audit_log",
            Config {
                audit_log: "kee = 3".into(),
                ..good()
            },
        ),
        (
            "policies",
            good().section("[[policies]]\nname = \"a\"\ntype = \"ip\"\ndenny = []\n"),
        ),
    ] {
        let output = check(&rendered(&config));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{place}: {text}");
        assert!(text.contains("unknown"), "{place}: {text}");
    }
}

#[test]
fn syntax_files_and_keys_are_checked() {
    let broken = check("[server\n");
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&broken.stderr).contains("TOML"),
        "{broken:?}"
    );

    let swapped = rendered(&good()).replace("key = \"server.key\"", "key = \"ca.pem\"");
    let output = check(&swapped);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("listeners[1].tls.certificates[0]"), "{text}");

    let missing = command(&["check", "--config", "/nonexistent/gateway.toml"]);
    assert_ne!(missing.status.code(), Some(0));
    let ran = command(&["run", "--config", "/nonexistent/gateway.toml"]);
    assert_ne!(ran.status.code(), Some(0));
    assert_eq!(command(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(command(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_bad_config_does_not_start() {
    let dir = private_dir();
    material::write(dir.path());
    let path = dir.path().join("gateway.toml");
    let config = good().section("polices = []");
    fs::write(&path, config.render(dir.path())).expect("write the config");
    let output = command(&["run", "--config", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("polices"),
        "{output:?}"
    );
    assert!(!dir.path().join("admin.sock").exists());
}
