//! Import direction: a module of the gateway may use those before it in this list, never those after.
//! Test code too: a test that needs a module further on belongs there.

use super::Finding;
use super::source::{Source, line_of, words};

/// Modules of one line may use each other and every line above.
const ORDER: &[&[&str]] = &[
    &["clock", "outcome", "diagnose", "units"],
    &["http", "tls", "limit", "anomaly", "route"],
    &["policy"],
    &["upstream"],
    &["config"],
    &["pipeline"],
    &["observe"],
    &["kernel", "net"],
    &["admin"],
    &["demo"],
    &["boot", "warden", "privilege"],
    &["cli"],
];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let Some(module) = module_of(&source.path) else {
        return Vec::new();
    };
    if matches!(module, "lib" | "main") {
        return Vec::new();
    }
    let Some(own_rank) = rank(module) else {
        let why = format!(
            "module `{module}` has no place in the import order: add it to xtask/src/tidy/imports.rs and lib.rs"
        );
        return vec![source.finding(1, why)];
    };
    let mut findings = Vec::new();
    for (offset, used) in used_modules(&source.code) {
        let Some(used_rank) = rank(&used) else {
            continue;
        };
        if used_rank > own_rank {
            let why = format!(
                "`{module}` may not use `{used}`, which comes after it in the import order"
            );
            findings.push(source.finding(line_of(&source.code, offset), why));
        }
    }
    findings
}

/// The first segment below `gateway/src`, without its extension.
fn module_of(path: &str) -> Option<&str> {
    let first = path.strip_prefix("gateway/src/")?.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.contains(&module))
}

/// What follows `crate::`, through one level of braces: `crate::a::b` and `crate::{a::x, b}`.
fn used_modules(code: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for at in words(code, "crate") {
        let Some(path) = code[at + "crate".len()..].trim_start().strip_prefix("::") else {
            continue;
        };
        let path = path.trim_start();
        if let Some(group) = path.strip_prefix('{') {
            used.extend(group_members(group).into_iter().map(|name| (at, name)));
        } else {
            used.push((at, leading_name(path)));
        }
    }
    used
}

/// First names of the members of a group, up to its closing brace.
fn group_members(group: &str) -> Vec<String> {
    let mut members = Vec::new();
    let mut depth = 0;
    let mut expecting = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            _ if expecting && !c.is_whitespace() => {
                members.push(leading_name(&group[at..]));
                expecting = false;
            }
            _ => {}
        }
    }
    members
}

fn leading_name(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn left_may_not_use_right() {
        assert_eq!(
            findings("gateway/src/policy/chain.rs", "use crate::http::Head;"),
            0
        );
        assert_eq!(
            findings("gateway/src/policy/chain.rs", "use crate::policy::Named;"),
            0
        );
        assert_eq!(
            findings(
                "gateway/src/policy/chain.rs",
                "use crate::config::Snapshot;"
            ),
            1
        );
        assert_eq!(
            findings("gateway/src/clock.rs", "fn f() { crate::net::x() }"),
            1
        );
        assert_eq!(
            findings("gateway/src/tls/mod.rs", "use crate::http::Head;"),
            0
        ); // one line of the order
        assert_eq!(
            findings("gateway/src/tls/mod.rs", "// use crate::net::Core;\n"),
            0
        );
    }

    #[test]
    fn groups_are_looked_into() {
        let text = "pub(crate) fn f() {}\nuse crate::{\n    http::{Head, Framing},\n    net,\n    config::{self, Snapshot},\n};";
        let source = Source::new("gateway/src/upstream/mod.rs", text);
        let why: Vec<String> = check(&source).iter().map(ToString::to_string).collect();
        assert_eq!(why.len(), 2, "{why:?}");
        assert!(why[0].starts_with("gateway/src/upstream/mod.rs:2:") && why[0].contains("`net`"));
    }

    #[test]
    fn a_new_module_needs_a_place() {
        assert_eq!(findings("gateway/src/newcomer/mod.rs", ""), 1);
        assert_eq!(findings("gateway/src/lib.rs", "use crate::cli::x;"), 0);
        assert_eq!(findings("tests/src/lib.rs", "use crate::whatever;"), 0);
    }
}
