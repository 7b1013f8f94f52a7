//! Parameters: the query taken apart, and the rule that one value (of a query parameter, a path
//! parameter or a header) must meet.

use crate::diagnose::Compiler;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::borrow::Cow;

/// `name=value` pairs as sent, not decoded; empty pieces are skipped.
pub(super) fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query
        .unwrap_or("")
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
}

/// Decodes `%xx` and `+` (application/x-www-form-urlencoded). `None`: broken or not UTF-8.
pub(super) fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => nibble(rest.next()?)? << 4 | nibble(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn nibble(hex: u8) -> Option<u8> {
    (hex as char).to_digit(16).map(|d| d as u8)
}

/// What a value is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    String,
    /// Decimal digits with an optional minus sign, 64 bits.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// 8-4-4-4-12 hex digits.
    Uuid,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawValue {
    /// The parameter's or header's name.
    pub name: String,
    /// Refuse a request without it.
    #[serde(default)]
    pub required: bool,
    /// A regular expression (linear time; no look-around, no back-references) for the whole value.
    pub pattern: Option<String>,
    /// Most bytes the value may have, after decoding.
    pub max_length: Option<usize>,
    /// `string` (default), `integer`, `boolean` or `uuid`.
    #[serde(default, rename = "type")]
    pub kind: Kind,
    /// Smallest integer.
    pub min: Option<i64>,
    /// Largest integer.
    pub max: Option<i64>,
}

impl RawValue {
    pub(super) fn compile(&self, c: &mut Compiler<'_>) -> Option<Value> {
        let errors = c.errors.len();
        if self.name.is_empty() {
            c.at("name", |c| {
                c.error("the name is empty", "name the parameter or header")
            });
        }
        if self.kind != Kind::Integer && (self.min.is_some() || self.max.is_some()) {
            c.error(
                "min and max are for integers",
                "set type = \"integer\", or use max_length",
            );
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            c.error("min is above max", "no value could pass");
        }
        let pattern = self.pattern.as_deref().and_then(|p| {
            let whole = RegexBuilder::new(&format!(r"\A(?:{p})\z")).size_limit(1 << 20).build();
            whole
                .map_err(|e| {
                    let reason = match e {
                        regex::Error::CompiledTooBig(_) => "the pattern is too large".into(),
                        _ => format!("not a regular expression this engine knows: {e}"),
                    };
                    c.at("pattern", |c| {
                        c.error(reason, "look-around and back-references are not offered: they can take exponential time")
                    });
                })
                .ok()
        });
        (c.errors.len() == errors).then(|| Value {
            name: self.name.clone(),
            required: self.required,
            pattern,
            max_length: self.max_length.unwrap_or(usize::MAX),
            kind: self.kind,
            range: (self.min.unwrap_or(i64::MIN), self.max.unwrap_or(i64::MAX)),
        })
    }
}

pub(super) struct Value {
    pub name: String,
    pub required: bool,
    pattern: Option<Regex>,
    max_length: usize,
    kind: Kind,
    range: (i64, i64),
}

impl Value {
    /// `Err` says what the value is not, never the value.
    pub(super) fn check(&self, value: &str) -> Result<(), &'static str> {
        if value.len() > self.max_length {
            return Err("is too long");
        }
        match self.kind {
            Kind::String => {}
            Kind::Integer => {
                let digits = value.strip_prefix('-').unwrap_or(value);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err("is not an integer");
                }
                let number: i64 = value.parse().map_err(|_| "is out of range")?;
                if !(self.range.0..=self.range.1).contains(&number) {
                    return Err("is out of range");
                }
            }
            Kind::Boolean if matches!(value, "true" | "false") => {}
            Kind::Boolean => return Err("is not true or false"),
            Kind::Uuid if is_uuid(value) => {}
            Kind::Uuid => return Err("is not a UUID"),
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(value) => Err("does not match its pattern"),
            _ => Ok(()),
        }
    }
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Files;

    #[test]
    fn decoding() {
        for (text, out) in [
            ("plain", Some("plain")),
            ("a+b%20c", Some("a b c")),
            ("%C3%a9", Some("é")),
            ("%", None),
            ("%4", None),
            ("%4x", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), out, "{text}");
        }
        let pairs: Vec<_> = query_pairs(Some("a=1&&b&c=x=y&=")).collect();
        assert_eq!(pairs, [("a", "1"), ("b", ""), ("c", "x=y"), ("", "")]);
    }

    #[test]
    fn values() {
        for (rule, good, bad) in [
            (
                "type = \"integer\"\nmin = -1\nmax = 10",
                &["-1", "0", "10"][..],
                &[
                    "-2",
                    "11",
                    "",
                    "-",
                    "+1",
                    "1.0",
                    "0x1",
                    "99999999999999999999",
                ][..],
            ),
            ("type = \"boolean\"", &["true", "false"], &["TRUE", "1", ""]),
            (
                "type = \"uuid\"",
                &["123e4567-e89b-12d3-a456-426614174000"],
                &[
                    "123e4567-e89b-12d3-a456-42661417400",
                    "123e4567ae89b-12d3-a456-426614174000",
                    "",
                ],
            ),
            (
                "pattern = \"a|bc\"",
                &["a", "bc"],
                &["ab", "abc", "a\n", ""],
            ),
            ("max_length = 3", &["", "abc"], &["abcd", "éé"]),
        ] {
            let raw: RawValue = toml::from_str(&format!("name = \"p\"\n{rule}")).unwrap();
            let value = raw.compile(&mut Compiler::new(&Files::default())).unwrap();
            for v in good {
                assert_eq!(value.check(v), Ok(()), "{rule}: {v}");
            }
            for v in bad {
                assert!(value.check(v).is_err(), "{rule}: {v}");
            }
        }
    }

    #[test]
    fn bad_rules() {
        for rule in [
            "name = \"\"",
            "name = \"a\"\nmin = 1",
            "name = \"a\"\ntype = \"integer\"\nmin = 2\nmax = 1",
            "name = \"a\"\npattern = \"(\"",
            "name = \"a\"\npattern = '(a)\\1'",
            "name = \"a\"\npattern = '(\\w{500}){500}'",
        ] {
            let raw: RawValue = toml::from_str(rule).unwrap();
            let files = Files::default();
            let mut c = Compiler::new(&files);
            assert!(
                raw.compile(&mut c).is_none() && c.errors.len() == 1,
                "{rule}"
            );
        }
    }
}
