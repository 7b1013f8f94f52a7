//! `cargo xtask tidy`: the rules of docs/architecture.md that a compiler does not know. Also a test.

mod files;
mod imports;
mod names;
mod source;
mod tree;
mod unsafe_code;

use crate::workspace;
use anyhow::{Context, Result, bail};
use source::Source;
use std::fmt;
use std::path::Path;

/// Directories with Rust of ours.
const CRATES: &[&str] = &[
    "gateway",
    "gateway-ebpf",
    "gateway-common",
    "xtask",
    "tests",
    "benches",
];

/// One broken rule: where, and why it is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.why)
    }
}

pub(crate) fn tidy() -> Result<()> {
    let findings = check(&workspace::root())?;
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} broken rules", findings.len());
    }
    Ok(())
}

fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for directory in CRATES {
        for file in source::rust_files(&root.join(directory))? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read {}", file.display()))?;
            let path = file
                .strip_prefix(root)
                .unwrap_or(&file)
                .to_string_lossy()
                .into_owned();
            findings.extend(check_file(&Source::new(path, text)));
        }
    }
    findings.extend(tree::check(root)?);
    findings.sort();
    Ok(findings)
}

fn check_file(source: &Source) -> Vec<Finding> {
    let mut findings = imports::check(source);
    findings.extend(names::check(source));
    findings.extend(unsafe_code::check(source));
    findings.extend(files::check(source));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidy() {
        let findings = check(&workspace::root()).unwrap();
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "broken rules:\n{}", lines.join("\n"));
    }
}
