//! Rows to tables, and tables into their section of the document.

use super::Suite;
use super::rows::Row;
use std::fmt::Write;

const INTRODUCTION: &str = "# Benchmarks\n\nWritten by `cargo xtask bench`. Figures of a small virtual machine are noisy: \
read ratios within one table, not figures across machines.\n";

/// One table per metric: a line per work, a column per subject, in order of appearance.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (metric, unit) in distinct(rows, |row| (row.metric.clone(), row.unit.clone())) {
        let of_metric: Vec<Row> = rows
            .iter()
            .filter(|row| row.metric == metric && row.unit == unit)
            .cloned()
            .collect();
        if !text.is_empty() {
            text.push('\n');
        }
        table(&mut text, &metric, &unit, &of_metric);
    }
    text
}

fn table(text: &mut String, metric: &str, unit: &str, rows: &[Row]) {
    let subjects = distinct(rows, |row| row.subject.clone());
    let _ = writeln!(text, "| {metric} ({unit}) | {} |", subjects.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(subjects.len()));
    for work in distinct(rows, |row| row.work.clone()) {
        let _ = write!(text, "| {work} |");
        for subject in &subjects {
            let row = rows
                .iter()
                .find(|row| row.work == work && row.subject == *subject);
            let cell = row.map_or_else(|| "–".to_owned(), |row| figure(row.value));
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

/// Three significant digits where it matters, no more than was measured.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn distinct<T: PartialEq>(rows: &[Row], key: impl Fn(&Row) -> T) -> Vec<T> {
    let mut keys = Vec::new();
    for row in rows {
        let key = key(row);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The document with this suite's section replaced, or added at its end; other sections stay.
pub(crate) fn replace_section(document: &str, suite: Suite, section: &str) -> String {
    let (open, close) = markers(suite);
    let block = format!("{open}\n{}\n{close}\n", section.trim_end());
    if document.trim().is_empty() {
        return format!("{INTRODUCTION}\n{block}");
    }
    let start = document.find(&open);
    let end = document.find(&close).map(|at| at + close.len());
    match (start, end) {
        (Some(start), Some(end)) if start < end => {
            format!(
                "{}{}{}",
                &document[..start],
                block.trim_end(),
                &document[end..]
            )
        }
        _ => format!("{}\n\n{block}", document.trim_end()),
    }
}

fn markers(suite: Suite) -> (String, String) {
    (
        format!("<!-- suite: {} -->", suite.name()),
        format!("<!-- end: {} -->", suite.name()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(work: &str, subject: &str, value: f64) -> Row {
        Row {
            work: work.to_owned(),
            subject: subject.to_owned(),
            metric: "cpu".to_owned(),
            value,
            unit: "us".to_owned(),
        }
    }

    #[test]
    fn subjects_stand_side_by_side() {
        let rows = [
            row("plain", "gateway", 6.27),
            row("plain", "nginx", 9.41),
            row("tls", "gateway", 120.0),
        ];
        let expected = "| cpu (us) | gateway | nginx |\n|---|---:|---:|\n| plain | 6.27 | 9.41 |\n| tls | 120 | – |\n";
        assert_eq!(tables(&rows), expected);
    }

    #[test]
    fn only_the_suites_own_section_changes() {
        let one = replace_section("", Suite::Kernel, "old kernel");
        let two = replace_section(&one, Suite::Proxy, "proxy");
        let three = replace_section(&two, Suite::Kernel, "new kernel");
        assert!(
            three.contains("new kernel")
                && three.contains("proxy")
                && !three.contains("old kernel")
        );
        assert_eq!(replace_section(&three, Suite::Kernel, "new kernel"), three);
        assert!(three.find("new kernel") < three.find("<!-- suite: proxy -->"));
    }
}
