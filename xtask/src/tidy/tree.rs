//! The tree in docs/architecture.md is the real one.
//!
//! Between `<!-- tree -->` and `<!-- /tree -->` stands one entry a line, two spaces deeper than its directory,
//! a directory with a slash at its end, then at least two spaces and the purpose:
//!
//! ```text
//! gateway/              the daemon
//!   src/                its modules
//!     clock.rs          time as a value
//! ```
//!
//! Every listed path must exist, and every entry of `gateway/src` must be listed.

use super::Finding;
use anyhow::Result;
use std::path::Path;

const DOCUMENT: &str = "docs/architecture.md";
const OPEN: &str = "<!-- tree -->";
const CLOSE: &str = "<!-- /tree -->";
/// Directories whose every entry must be listed.
const COMPLETE: &[&str] = &["gateway/src"];

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    /// Without the slash at the end.
    path: String,
    directory: bool,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let Ok(text) = std::fs::read_to_string(root.join(DOCUMENT)) else {
        return Ok(vec![finding(1, "the document is missing".to_owned())]);
    };
    let (entries, mut findings) = parse(&text);
    for entry in &entries {
        let path = root.join(&entry.path);
        if !path.exists() || path.is_dir() != entry.directory {
            let kind = if entry.directory { "directory" } else { "file" };
            findings.push(finding(
                entry.line,
                format!("there is no {kind} {}", entry.path),
            ));
        }
    }
    for directory in COMPLETE {
        for item in std::fs::read_dir(root.join(directory))? {
            let path = format!("{directory}/{}", item?.file_name().to_string_lossy());
            if !entries.iter().any(|entry| entry.path == path) {
                findings.push(finding(1, format!("the tree does not list {path}")));
            }
        }
    }
    Ok(findings)
}

fn parse(text: &str) -> (Vec<Entry>, Vec<Finding>) {
    let (mut entries, mut findings) = (Vec::new(), Vec::new());
    let mut parents: Vec<String> = Vec::new();
    let mut inside = false;
    let mut seen = false;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        match line.trim() {
            OPEN => (inside, seen) = (true, true),
            CLOSE => inside = false,
            trimmed if !inside || trimmed.is_empty() || trimmed.starts_with("```") => {}
            trimmed => {
                let depth = (line.len() - line.trim_start().len()) / 2;
                let (name, purpose) = trimmed.split_once("  ").unwrap_or((trimmed, ""));
                if purpose.trim().is_empty() {
                    findings.push(finding(number, format!("{name} has no purpose beside it")));
                }
                if depth > parents.len() {
                    findings.push(finding(
                        number,
                        format!("{name} is deeper than any directory above it"),
                    ));
                    continue;
                }
                parents.truncate(depth);
                let plain = name.trim_end_matches('/');
                let path = parents
                    .iter()
                    .map(String::as_str)
                    .chain([plain])
                    .collect::<Vec<_>>()
                    .join("/");
                let directory = name.ends_with('/');
                if directory {
                    parents.push(plain.to_owned());
                }
                entries.push(Entry {
                    line: number,
                    path,
                    directory,
                });
            }
        }
    }
    if !seen {
        findings.push(finding(1, format!("no {OPEN} … {CLOSE}")));
    }
    (entries, findings)
}

fn finding(line: usize, why: String) -> Finding {
    Finding {
        file: DOCUMENT.to_owned(),
        line,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_indent() {
        let text = "intro\n<!-- tree -->\n```text\ngateway/    the daemon\n  src/      modules\n    clock.rs  time\nxtask/  commands\n```\n<!-- /tree -->\nx  y";
        let (entries, findings) = parse(text);
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(
            paths,
            ["gateway", "gateway/src", "gateway/src/clock.rs", "xtask"]
        );
        assert_eq!((entries[2].line, entries[2].directory), (6, false));
        assert_eq!(findings, []);
    }

    #[test]
    fn broken_trees_are_found() {
        assert_eq!(parse("nothing here").1.len(), 1);
        assert_eq!(parse("<!-- tree -->\ngateway/\n<!-- /tree -->").1.len(), 1); // no purpose
        assert_eq!(
            parse("<!-- tree -->\n    deep.rs  why\n<!-- /tree -->")
                .1
                .len(),
            1
        );
    }

    #[test]
    fn the_document_and_the_disk_agree() {
        let root = std::env::temp_dir().join(format!("xtask-tree-{}", std::process::id()));
        std::fs::create_dir_all(root.join("gateway/src/http")).unwrap();
        std::fs::create_dir_all(root.join("docs")).unwrap();
        std::fs::write(root.join("gateway/src/clock.rs"), "").unwrap();
        let document =
            "<!-- tree -->\ngateway/  d\n  src/  m\n    http/  h\n    gone.rs  g\n<!-- /tree -->\n";
        std::fs::write(root.join(DOCUMENT), document).unwrap();
        let findings = check(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let why: Vec<&str> = findings
            .iter()
            .map(|finding| finding.why.as_str())
            .collect();
        assert_eq!(
            why,
            [
                "there is no file gateway/src/gone.rs",
                "the tree does not list gateway/src/clock.rs"
            ]
        );
    }
}
