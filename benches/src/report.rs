//! Rows of figures: printed for people, and written as JSON lines for `cargo xtask bench`.

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// One measured figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was done, such as `plain-64`.
    pub work: String,
    /// Who did it: `gateway` or a peer.
    pub subject: String,
    pub metric: String,
    pub value: f64,
    pub unit: String,
}

impl Row {
    pub fn new(work: &str, subject: &str, metric: &str, value: f64, unit: &str) -> Row {
        Row {
            work: work.into(),
            subject: subject.into(),
            metric: metric.into(),
            value,
            unit: unit.into(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "work": self.work,
            "subject": self.subject,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
        })
    }
}

/// What every suite accepts: `[--json FILE] [--quick] [--only WORD] [--subject NAME]…`.
#[derive(Debug, Default)]
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
        let mut parsed = Arguments::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => parsed.json = Some(words.next().context("--json needs a file")?.into()),
                "--only" => parsed.only = Some(words.next().context("--only needs a word")?),
                "--subject" => parsed
                    .subjects
                    .push(words.next().context("--subject needs a name")?),
                "--quick" => parsed.quick = true,
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

/// Collects rows; prints each at once, so that a long run can be followed.
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

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Writes the JSON lines, where a file was asked for.
    pub fn finish(self) -> Result<()> {
        let Some(path) = self.json else { return Ok(()) };
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        for row in &self.rows {
            writeln!(file, "{}", row.to_json())?;
        }
        Ok(())
    }
}

/// The middle value; the mean of the two middle ones where their number is even.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
