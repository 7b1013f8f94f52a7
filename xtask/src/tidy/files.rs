//! What every file has, and what no file may have.

use super::Finding;
use super::source::{Source, line_of, words};

/// In code. Written in two parts so that this file passes its own check.
const UNFINISHED_CODE: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("#[ig", "nore"),
];
/// Anywhere, comments included.
const UNFINISHED_NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in UNFINISHED_CODE {
        for (offset, _) in source.code.match_indices(name) {
            let why = format!("`{name}`: finish it or leave it out");
            findings.push(source.finding(line_of(&source.code, offset), why));
        }
    }
    for name in UNFINISHED_NOTES {
        for offset in words(&source.text, name) {
            let why = format!("`{name}`: do it now, or say what is absent and why");
            findings.push(source.finding(line_of(&source.text, offset), why));
        }
    }
    if !says_its_purpose(&source.text) {
        findings.push(source.finding(1, "no `//!` line that says what the file is for"));
    }
    findings
}

/// Inner attributes may come first.
fn says_its_purpose(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!["))
        .is_some_and(|line| line.starts_with("//! ") && line.len() > 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        check(&Source::new("gateway/src/x.rs", text)).len()
    }

    #[test]
    fn every_file_says_its_purpose() {
        assert_eq!(findings("//! Time as a value.\nfn f() {}"), 0);
        assert_eq!(findings("#![no_std]\n//! Shared by both sides.\n"), 0);
        assert_eq!(findings("fn f() {}"), 1);
        assert_eq!(findings("//!\nfn f() {}"), 1);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        for word in UNFINISHED_CODE {
            assert_eq!(findings(&format!("//! Purpose.\n{word}")), 1, "{word}");
            assert_eq!(findings(&format!("//! Purpose.\n// {word}")), 0, "{word}");
        }
        for word in UNFINISHED_NOTES {
            assert_eq!(
                findings(&format!("//! Purpose.\n// {word}: later")),
                1,
                "{word}"
            );
        }
    }
}
