//! The compiler as a whole: what is written compiles, what is wrong is said, all of it.

use super::{Compiled, Ids, compile};
use crate::diagnose::{Diagnostic, Files};

const BASE: &str = r#"
[[listeners]]
name = "plain"
address = "127.0.0.1:8080"
[[upstreams]]
name = "u"
targets = ["127.0.0.1:9000"]
[[policies]]
name = "deny"
type = "ip"
deny = ["203.0.113.0/24"]
[[routes]]
name = "r"
path = "/*"
upstream = "u"
policies = ["deny"]
"#;

fn check(text: &str) -> Result<Compiled, Vec<Diagnostic>> {
    compile(text, &Files::default(), &mut Ids::default())
}

fn errors(text: &str) -> Vec<String> {
    check(text)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_small_config_compiles_with_defaults() {
    let snapshot = check(BASE).unwrap().snapshot;
    assert_eq!(snapshot.listeners.len(), 1);
    assert_eq!(
        snapshot.routes[0].upstream.targets[0].label.as_ref(),
        "127.0.0.1:9000"
    );
    assert!(snapshot.filter.is_none());
}

#[test]
fn every_error_is_reported_at_once_with_path_and_hint() {
    let text = r#"
        [server]
        wrokers = 2
        drain_timeout = "soon"
        [[listeners]]
        name = "a"
        address = "nowhere"
        limits = { fields = 500 }
        [[listeners]]
        name = "a"
        address = "127.0.0.1:8080"
        [[upstreams]]
        name = "u"
        targets = []
        [[policies]]
        name = "limit"
        type = "rate_limit"
        rate = "0/s"
        [[routes]]
        name = "r"
        path = "no-slash"
        upstream = "uu"
        policies = ["limit", "limti", "ghost"]
        [routs]
    "#;
    let all = errors(text);
    for expected in [
        "server.wrokers: unknown key `wrokers`",
        "server.drain_timeout: ",
        "listeners[0].address: `nowhere`",
        "listeners[0].limits.fields: 500",
        "upstreams[0].targets: 0 targets",
        "policies[0].rate: ",
        "routes[0]: the path",
        "routes[0].policies[1]: there is no policy \"limti\"",
        "routes[0].policies[2]: there is no policy \"ghost\"",
        "routes[0].upstream: no upstream is called `uu`",
        "routs: unknown section",
    ] {
        assert!(
            all.iter().any(|e| e.starts_with(expected)),
            "{expected} is missing in {all:#?}"
        );
    }
    assert!(all.iter().any(|e| e.contains("did you mean `workers`?")));
    assert!(all.iter().any(|e| e.contains("did you mean `routes`?")));
}

#[test]
fn dangling_and_double_names_are_refused() {
    for (extra, expected) in [
        (
            "[[routes]]\nname = \"r\"\npath = \"/x\"\nupstream = \"u\"",
            "routes[1].name: routes[0] is called `r` too",
        ),
        (
            "[[routes]]\nname = \"s\"\npath = \"/*\"\nupstream = \"u\"",
            "routes: `r` and `s` would match the same requests",
        ),
        (
            "[[routes]]\nname = \"s\"\npath = \"/s\"\nupstream = \"u\"\npolicies = [\"denny\"]",
            "routes[1].policies[0]: ",
        ),
        (
            "[[upstreams]]\nname = \"u\"\ntargets = [\"127.0.0.1:1\"]",
            "upstreams[1].name: two upstreams",
        ),
        (
            "[[upstreams]]\nname = \"v\"\ntargets = [\"127.0.0.1:0\"]",
            "upstreams[1].targets[0]: port 0",
        ),
        (
            "[[listeners]]\nname = \"plain\"\naddress = \"127.0.0.1:1\"",
            "listeners[1]: listener `plain` has the same",
        ),
        (
            "[[listeners]]\nname = \"t\"\naddress = \"127.0.0.1:1\"\ntls = { certificates = [{ cert = \"a\", key = \"b\" }] }",
            "listeners[1].tls.certificates[0].cert: cannot read a",
        ),
    ] {
        let all = errors(&format!("{BASE}{extra}"));
        assert!(
            all.iter().any(|e| e.starts_with(expected)),
            "{expected} is missing in {all:#?}"
        );
    }
}

#[test]
fn numbers_of_routes_and_targets_survive_a_reload() {
    let mut ids = Ids::default();
    let first = compile(BASE, &Files::default(), &mut ids).unwrap().snapshot;
    let text = format!("[[routes]]\nname = \"first\"\npath = \"/first\"\nupstream = \"u\"\n{BASE}");
    let second = compile(&text, &Files::default(), &mut ids)
        .unwrap()
        .snapshot;
    let find = |s: &super::Snapshot| s.routes.iter().find(|r| &*r.name == "r").unwrap().id;
    assert_eq!(find(&first), find(&second));
    let health = |s: &super::Snapshot| {
        s.routes
            .iter()
            .find(|r| &*r.name == "r")
            .unwrap()
            .upstream
            .targets[0]
            .health
            .clone()
    };
    assert!(std::sync::Arc::ptr_eq(&health(&first), &health(&second)));
}

/// The blocks of a page, put together: they may name files that are not there, and nothing else may be wrong.
fn page_compiles(page: &str) {
    let blocks: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty());
    let all = errors(&blocks.concat());
    let wrong: Vec<_> = all.iter().filter(|e| !e.contains("cannot read ")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_documentation_compiles() {
    page_compiles(include_str!("../../../docs/configuration.md"));
    page_compiles(include_str!("../../../README.md"));
}

#[test]
fn a_threshold_names_a_route_that_is_there() {
    let with = |route: &str| {
        let threshold = format!("{{ signal = \"error_ratio\", above = 0.1, route = \"{route}\" }}");
        BASE.replace("name = \"r\"", "name = \"orders\"")
            + &format!("[alerts]\nthresholds = [{threshold}]\n")
    };
    assert_eq!(errors(&with("orders")), [""; 0]);
    for (route, hint) in [("order", "did you mean `orders`?"), ("x", "[[routes]]")] {
        let found = errors(&with(route));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("alerts.thresholds[0].route"), "{found:?}");
        assert!(found[0].contains(hint), "{found:?}");
    }
}
