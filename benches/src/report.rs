//! Figures as rows: printed as a table for people, appended as JSON lines for machines.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was done: `one-source-pass`, `plain-64`.
    pub work: String,
    /// Who did it: `gateway` or the peer's name.
    pub subject: String,
    /// `ns_per_packet`, `cpu_us_per_request`.
    pub metric: String,
    pub value: f64,
    /// `ns`, `us`.
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

    /// One JSON object, without a line end. A value that is no number becomes `null`.
    pub fn json_line(&self) -> String {
        serde_json::json!({
            "work": self.work,
            "subject": self.subject,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
        })
        .to_string()
    }
}

/// A Markdown table of the rows, in their order.
pub fn markdown(rows: &[Row]) -> String {
    let mut out =
        String::from("| work | subject | metric | value | unit |\n|---|---|---|---:|---|\n");
    for row in rows {
        let value = if row.value.abs() < 100.0 {
            format!("{:.2}", row.value)
        } else {
            format!("{:.0}", row.value)
        };
        out.push_str(&format!(
            "| {} | {} | {} | {value} | {} |\n",
            row.work, row.subject, row.metric, row.unit
        ));
    }
    out
}

/// The middle of the values; the lower one of two middles. `NaN` of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}

/// Where `--json FILE` (or `--json=FILE`) says.
pub fn json_path(arguments: impl IntoIterator<Item = String>) -> Option<PathBuf> {
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.strip_prefix("--json=") {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// Prints the table, and appends the rows to the file that the process's `--json` names, one object per line.
pub fn publish(rows: &[Row]) -> io::Result<()> {
    println!("{}", markdown(rows));
    let Some(path) = json_path(std::env::args().skip(1)) else {
        return Ok(());
    };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    for row in rows {
        writeln!(file, "{}", row.json_line())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_one_json_object_per_line() {
        let row = Row::new("one-source-pass", "gateway", "ns_per_packet", 14.0, "ns");
        let value: serde_json::Value = serde_json::from_str(&row.json_line()).unwrap();
        assert_eq!(value["value"], 14.0);
        assert_eq!(value["work"], "one-source-pass");
        assert!(!row.json_line().contains('\n'));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn the_json_file_is_found_among_arguments() {
        let args = |list: &[&str]| json_path(list.iter().map(|s| s.to_string()));
        assert_eq!(args(&["x", "--json", "f"]), Some("f".into()));
        assert_eq!(args(&["--json=g"]), Some("g".into()));
        assert_eq!(args(&["--json"]), None);
        assert_eq!(args(&[]), None);
    }
}
