//! One run of a suite: what it was asked for, and its rows, shown as they come.

use crate::report::{Row, json_path};
use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// `[--json FILE] [--quick] [--only WORD] [--subject NAME]…`
#[derive(Debug, Default, PartialEq)]
pub struct Arguments {
    pub json: Option<PathBuf>,
    /// Short runs: to see that everything works, not for figures.
    pub quick: bool,
    /// Works whose name contains this.
    pub only: Option<String>,
    /// Who takes part; empty: all.
    pub subjects: Vec<String>,
}

impl Arguments {
    pub fn parse() -> Result<Arguments> {
        Arguments::of(std::env::args().skip(1).collect())
    }

    fn of(words: Vec<String>) -> Result<Arguments> {
        let mut parsed = Arguments {
            json: json_path(words.clone()),
            ..Arguments::default()
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => _ = words.next().context("--json needs a file")?,
                "--only" => parsed.only = Some(words.next().context("--only needs a word")?),
                "--subject" => parsed
                    .subjects
                    .push(words.next().context("--subject needs a name")?),
                "--quick" => parsed.quick = true,
                other if other.starts_with("--json=") => {}
                other => bail!(
                    "unknown argument `{other}`; known: --json FILE, --quick, --only WORD, --subject NAME"
                ),
            }
        }
        Ok(parsed)
    }

    pub fn wants(&self, work: &str) -> bool {
        self.only.as_deref().is_none_or(|word| work.contains(word))
    }

    pub fn wants_subject(&self, name: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|wanted| wanted == name)
    }
}

/// Collects rows and prints each at once, so that a long run can be followed.
#[derive(Debug)]
pub struct Report {
    rows: Vec<Row>,
    json: Option<PathBuf>,
}

impl Report {
    pub fn new(arguments: &Arguments) -> Report {
        Report {
            rows: Vec::new(),
            json: arguments.json.clone(),
        }
    }

    pub fn add(&mut self, row: Row) {
        println!(
            "{:<24} {:<12} {:>12.2} {:<4} {}",
            row.work, row.subject, row.value, row.unit, row.metric
        );
        self.rows.push(row);
    }

    /// Appends the rows to the file that was asked for, one JSON object per line.
    pub fn finish(self) -> Result<()> {
        let Some(path) = self.json else { return Ok(()) };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        for row in &self.rows {
            writeln!(file, "{}", row.json_line())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Arguments> {
        Arguments::of(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn arguments() {
        let all = of("--json f --only tls --quick --subject nginx").unwrap();
        assert_eq!(all.json, Some("f".into()));
        assert!(all.quick && all.wants("tls-64") && !all.wants("plain-64"));
        assert!(all.wants_subject("nginx") && !all.wants_subject("haproxy"));
        let none = of("").unwrap();
        assert!(!none.quick && none.wants("plain-64") && none.wants_subject("haproxy"));
        for bad in ["--json", "--only", "--subject", "--fast", "x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
