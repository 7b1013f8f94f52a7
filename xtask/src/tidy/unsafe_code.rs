//! Where `unsafe` may stand, and that each use says why it is sound.

use super::Finding;
use super::source::{Source, line_of, words};

/// Where it may stand, and what for.
const ALLOWED: &[(&str, &str)] = &[
    ("gateway/src/net/", "ring submissions and socket options"),
    ("gateway/src/kernel/", "mapped tables and raw bpf calls"),
    ("gateway/src/warden/", "descriptors across processes"),
    ("gateway/src/privilege", "prctl, seccomp, capabilities"),
    (
        "gateway/src/clock.rs",
        "a clock id that std has no access to",
    ),
    ("gateway-ebpf/", "packets and map values are raw pointers"),
    (
        "gateway-common/src/",
        "marks types as plain data for map access",
    ),
    ("tests/", "namespaces and descriptors of the harness"),
    (
        "benches/",
        "test runs of the filter by raw bpf calls, CPU times",
    ),
];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let allowed = ALLOWED
        .iter()
        .any(|(path, _)| source.path.starts_with(path));
    let mut findings = Vec::new();
    for offset in words(&source.code, "unsafe") {
        if !is_use(&source.code[offset + "unsafe".len()..]) {
            continue;
        }
        let line = line_of(&source.code, offset);
        if !allowed {
            let why = "`unsafe` may not stand here; see ALLOWED in xtask/src/tidy/unsafe_code.rs";
            findings.push(source.finding(line, why));
        } else if !is_explained(&source.text, line) {
            findings.push(source.finding(line, "no `SAFETY:` just above this `unsafe`"));
        }
    }
    findings
}

/// A block, an impl, a function; not an attribute and not the type of a function pointer.
fn is_use(after: &str) -> bool {
    let after = after.trim_start();
    after.starts_with('{')
        || after.starts_with("impl")
        || after
            .strip_prefix("fn")
            .is_some_and(|rest| !rest.trim_start().starts_with('('))
}

/// Looks up from the line through comments, attributes and the start of the same statement.
fn is_explained(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    for above in lines[..line - 1].iter().rev() {
        let above = above.trim();
        if above.starts_with("//") {
            if above.contains("SAFETY:") || above.contains("# Safety") {
                return true;
            }
            continue;
        }
        if above.is_empty() || above.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn only_where_it_is_allowed() {
        let text = "// SAFETY: fine.\nunsafe { f() };";
        assert_eq!(findings("gateway/src/net/ops.rs", text), 0);
        assert_eq!(findings("gateway/src/policy/mod.rs", text), 1);
        assert_eq!(
            findings(
                "gateway/src/policy/mod.rs",
                "#![deny(unsafe_code)] // unsafe { }"
            ),
            0
        );
        assert_eq!(
            findings(
                "gateway/src/policy/mod.rs",
                "#[unsafe(no_mangle)]\nfn f() {}"
            ),
            0
        );
    }

    #[test]
    fn each_says_why() {
        let table = [
            ("// SAFETY: a.\nlet x =\n    unsafe { f() };", 0),
            ("let x = unsafe { f() };", 1),
            (
                "// SAFETY: a.\nlet x = unsafe { f() };\nlet y = unsafe { g() };",
                1,
            ),
            (
                "// SAFETY: a long\n// story.\n#[allow(x)]\nunsafe impl Pod for T {}",
                0,
            ),
            (
                "/// # Safety\n/// The pointer lives.\npub unsafe fn f() {}",
                0,
            ),
            ("let f: unsafe fn(u8) = g;", 0),
            ("// SAFETY: a.\n\nunsafe { f() };", 1),
        ];
        for (text, expected) in table {
            assert_eq!(findings("gateway/src/net/ops.rs", text), expected, "{text}");
        }
    }
}
