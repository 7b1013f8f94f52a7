//! Reads the TOML text section by section, so that one bad value does not hide the next: each
//! element is parsed by itself, and a field that does not parse is reported, taken out, and the
//! rest is tried again.

use crate::diagnose::{Compiler, did_you_mean};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use toml::{Table, Value};

/// More errors than this in one element and the rest would be noise.
const ERRORS_PER_ELEMENT_MAX: usize = 16;

/// The document, with what has been consumed taken out.
pub struct Sections {
    table: Table,
}

impl Sections {
    /// Parses the text as TOML; a syntax error is the one error that hides all others.
    pub fn parse(text: &str, c: &mut Compiler<'_>) -> Option<Sections> {
        match text.parse::<Table>() {
            Ok(table) => Some(Sections { table }),
            Err(e) => {
                c.error(
                    format!("not valid TOML: {}", e.to_string().trim_end()),
                    "fix the syntax at the line shown",
                );
                None
            }
        }
    }

    /// One table, default where it is absent.
    pub fn one<T: DeserializeOwned + Default>(&mut self, name: &str, c: &mut Compiler<'_>) -> T {
        match self.table.remove(name) {
            None => T::default(),
            Some(value) => c.at(name, |c| element(value, c)).unwrap_or_default(),
        }
    }

    /// One table that may be absent.
    pub fn maybe<T: DeserializeOwned>(&mut self, name: &str, c: &mut Compiler<'_>) -> Option<T> {
        let value = self.table.remove(name)?;
        c.at(name, |c| element(value, c))
    }

    /// An array of tables. An element that does not parse keeps its place, as `None`.
    pub fn many<T: DeserializeOwned>(
        &mut self,
        name: &str,
        c: &mut Compiler<'_>,
    ) -> Vec<Option<T>> {
        let Some(value) = self.table.remove(name) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            c.at(name, |c| {
                c.error(
                    "must be a list of tables",
                    format!("write each one as [[{name}]]"),
                )
            });
            return Vec::new();
        };
        c.at(name, |c| {
            items
                .into_iter()
                .enumerate()
                .map(|(i, item)| c.at(format!("[{i}]"), |c| element(item, c)))
                .collect()
        })
    }

    /// The `name` of every element of an array of tables, whether or not the rest of it parses.
    pub fn names(&self, list: &str) -> HashSet<String> {
        let items = self.table.get(list).and_then(Value::as_array);
        let names = items
            .into_iter()
            .flatten()
            .filter_map(|item| item.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }

    /// Whatever is left has no meaning here.
    pub fn refuse_rest(self, known: &[&str], c: &mut Compiler<'_>) {
        for key in self.table.keys() {
            let hint = match did_you_mean(key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known sections: {}", known.join(", ")),
            };
            c.at(key.clone(), |c| c.error("unknown section", hint));
        }
    }
}

/// One element, every error in it reported.
pub fn element<T: DeserializeOwned>(mut value: Value, c: &mut Compiler<'_>) -> Option<T> {
    let errors_before = c.errors.len();
    for _ in 0..ERRORS_PER_ELEMENT_MAX {
        match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(parsed) => return (c.errors.len() == errors_before).then_some(parsed),
            Err(e) => {
                let path = e.path().clone();
                let message = e.inner().message().to_string();
                let unknown = message
                    .strip_prefix("unknown field `")
                    .and_then(|rest| rest.split('`').next())
                    .map(str::to_owned);
                report(&path.to_string(), &message, unknown.as_deref(), c);
                if !take_out(&mut value, &path, unknown.as_deref()) {
                    return None;
                }
            }
        }
    }
    None
}

fn report(path: &str, message: &str, unknown: Option<&str>, c: &mut Compiler<'_>) {
    let (reason, hint) = match unknown {
        Some(name) => {
            let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
            let hint = match did_you_mean(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => String::new(),
                None => format!("known keys: {}", known.join(", ")),
            };
            (format!("unknown key `{name}`"), hint)
        }
        None => (message.to_owned(), String::new()),
    };
    if path.is_empty() || path == "." {
        c.error(reason, hint);
    } else {
        c.at(path.to_owned(), |c| c.error(reason, hint));
    }
}

/// Removes the value at `path` (the unknown key itself where there is one), so that parsing can go on.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path, unknown: Option<&str>) -> bool {
    use serde_path_to_error::Segment;
    let mut steps: Vec<&Segment> = path
        .iter()
        .filter(|s| !matches!(s, Segment::Enum { .. } | Segment::Unknown))
        .collect();
    if let (Some(name), Some(Segment::Map { key })) = (unknown, steps.last())
        && key == name
    {
        steps.pop();
    }
    let Some((last, parents)) = (if unknown.is_some() {
        Some((None, &steps[..]))
    } else {
        steps.split_last().map(|(l, p)| (Some(*l), p))
    }) else {
        return false;
    };
    let mut at = value;
    for step in parents {
        let next = match step {
            Segment::Map { key } => at.get_mut(key),
            Segment::Seq { index } => at.get_mut(*index),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    match (last, unknown, at) {
        (_, Some(name), Value::Table(table)) => table.remove(name).is_some(),
        (Some(Segment::Map { key }), None, Value::Table(table)) => table.remove(key).is_some(),
        (Some(Segment::Seq { index }), None, Value::Array(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Files;
    use crate::units::Span;

    #[derive(serde::Deserialize, Debug, Default)]
    #[serde(deny_unknown_fields, default)]
    #[allow(dead_code)]
    struct Demo {
        timeout: Option<Span>,
        count: u32,
        names: Vec<String>,
    }

    #[test]
    fn every_error_of_an_element_is_reported() {
        let files = Files::default();
        let mut c = Compiler::new(&files);
        let text = "[demo]\ntimeout = \"soon\"\ncount = \"x\"\nnmes = []\nnames = [1]\nzzzzzzzz = 1\n[dmeo]\n";
        let mut s = Sections::parse(text, &mut c).unwrap();
        let _: Demo = s.one("demo", &mut c);
        s.refuse_rest(&["demo"], &mut c);
        let all: Vec<String> = c.errors.iter().map(|e| e.to_string()).collect();
        assert_eq!(all.len(), 6, "{all:#?}");
        assert!(
            all.iter()
                .any(|e| e.starts_with("demo.timeout: ") && e.contains("\"30s\"")),
            "{all:#?}"
        );
        assert!(
            all.iter()
                .any(|e| e.contains("unknown key `nmes`") && e.contains("did you mean `names`")),
            "{all:#?}"
        );
        assert!(
            all.iter().any(
                |e| e.starts_with("dmeo: unknown section") && e.contains("did you mean `demo`")
            ),
            "{all:#?}"
        );
    }
}
