//! Reads the TOML text section by section, so that one bad value does not hide the next: each
//! element is parsed by itself, and a field that does not parse is reported, taken out, and the
//! rest is tried again.

use crate::diagnose::{Compiler, did_you_mean, element, what_parses};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use toml::{Table, Value};

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
                // Not as the parser prints it: that quotes the line, which may hold a secret, and this goes to the
                // journal and the audit log.
                let at = e
                    .span()
                    .map_or_else(String::new, |span| place(text, span.start));
                c.error(
                    format!("not valid TOML{at}: {}", e.message().replace('\n', "; ")),
                    "fix the syntax at the line named",
                );
                None
            }
        }
    }

    /// One table, default where it is absent.
    pub fn one<T: DeserializeOwned + Default>(&mut self, name: &str, c: &mut Compiler<'_>) -> T {
        match self.table.remove(name) {
            None => T::default(),
            // What does parse goes on, so that one wrong type does not hide the other mistakes of the section.
            Some(value) => c.at(name, |c| what_parses(value, c)).unwrap_or_default(),
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
        self.many_with(name, c, element)
    }

    /// An array of tables that know how to parse themselves.
    pub fn many_with<T>(
        &mut self,
        name: &str,
        c: &mut Compiler<'_>,
        parse: impl Fn(Value, &mut Compiler<'_>) -> Option<T>,
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
                .map(|(i, item)| c.at(format!("[{i}]"), |c| parse(item, c)))
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

/// ` at line L, column C`, counted from 1, in characters.
fn place(text: &str, offset: usize) -> String {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    format!(" at line {line}, column {column}")
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

    #[test]
    fn a_syntax_error_names_the_place_but_quotes_nothing() {
        let files = Files::default();
        for (text, place) in [
            ("a = 1\nb = \"s3cr3t\nc = 2\n", "line 2, column "),
            ("a = 1\nb = s3cr3t\n", "line 2, column 5"),
            ("a = 1\n[x\ntoken = \"s3cr3t\"", "line 2, column "),
            ("k = \"s3cr3t\"\nk = \"s3cr3t\"\n", "line 2, column 1"),
            ("\u{e9}\u{e9} = s3cr3t", "line 1, column 1"),
            ("a = \"\\s3cr3t\"", "line 1, column "),
            ("a = \"", "line 1, column "),
            ("a = 99999999999999999999", "line 1, column "),
        ] {
            let mut c = Compiler::new(&files);
            assert!(Sections::parse(text, &mut c).is_none(), "{text}");
            let said = &c.errors[0].reason;
            assert!(said.contains(place), "{said}");
            assert!(!said.contains("s3cr3t") && !said.contains('\n'), "{said}");
        }
    }
}
