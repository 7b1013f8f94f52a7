//! One measured figure per row, as the suites write them: a JSON object a line.

use anyhow::{Context, Result};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What was done, such as `plain-64`.
    pub(crate) work: String,
    /// Who did it: `gateway` or a peer.
    pub(crate) subject: String,
    pub(crate) metric: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
}

impl Row {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::json!({
            "work": self.work,
            "subject": self.subject,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
        })
    }

    fn from_json(object: &Value) -> Result<Row> {
        let text = |key: &str| -> Result<String> {
            let value = object.get(key).and_then(Value::as_str);
            Ok(value
                .with_context(|| format!("no text `{key}`"))?
                .to_owned())
        };
        Ok(Row {
            work: text("work")?,
            subject: text("subject")?,
            metric: text("metric")?,
            value: object
                .get("value")
                .and_then(Value::as_f64)
                .context("no number `value`")?,
            unit: text("unit")?,
        })
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Row>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let object: Value =
                serde_json::from_str(line).with_context(|| format!("line {}", index + 1))?;
            Row::from_json(&object).with_context(|| format!("line {}", index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_way_through_json() {
        let line = r#"{"work":"plain-64","subject":"gateway","metric":"cpu_us_per_request","value":7.1,"unit":"us"}"#;
        let rows = parse(&format!("{line}\n\n")).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].value, 7.1);
        assert_eq!(parse(&rows[0].to_json().to_string()).unwrap(), rows);
    }

    #[test]
    fn a_broken_row_says_which_line() {
        let error = parse("\n{\"work\":\"w\"}\n").unwrap_err();
        assert_eq!(format!("{error:#}"), "line 2: no text `subject`");
    }
}
