//! One element of the config from TOML to its raw type: a field that does not parse is reported, taken
//! out, and the rest is tried again, so that one bad value does not hide the next.

use super::{Compiler, did_you_mean};
use serde::de::DeserializeOwned;
use toml::Value;

/// More errors than this in one element and the rest would be noise.
const ERRORS_PER_ELEMENT_MAX: usize = 16;

/// One element, every error in it reported.
pub fn element<T: DeserializeOwned>(value: Value, c: &mut Compiler<'_>) -> Option<T> {
    let errors_before = c.errors.len();
    what_parses(value, c).filter(|_| c.errors.len() == errors_before)
}

/// One element without the fields that were wrong, each reported.
pub fn what_parses<T: DeserializeOwned>(mut value: Value, c: &mut Compiler<'_>) -> Option<T> {
    let mut taken_out = Vec::new();
    for _ in 0..ERRORS_PER_ELEMENT_MAX {
        match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(parsed) => return Some(parsed),
            Err(e) => {
                let path = e.path().clone();
                let message = e.inner().message().to_string();
                let unknown = message
                    .strip_prefix("unknown field `")
                    .and_then(|rest| rest.split('`').next())
                    .map(str::to_owned);
                // A required field that was taken out for its value is not missing on top of that.
                let is_echo = missing(&message)
                    .is_some_and(|field| taken_out.iter().any(|t: &String| t.ends_with(field)));
                if is_echo {
                    return None;
                }
                report(&path.to_string(), &message, unknown.as_deref(), c);
                taken_out.push(path.to_string());
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
        None => match (message.split_once(", expected "), missing(message)) {
            (Some((found, expected)), _) => {
                (found.to_owned(), format!("write {}", in_words(expected)))
            }
            (None, Some(field)) => (
                message.to_owned(),
                format!("add `{field} = …`, as docs/configuration.md shows"),
            ),
            (None, None) => (
                message.to_owned(),
                "docs/configuration.md shows what can stand here".into(),
            ),
        },
    };
    if path.is_empty() || path == "." {
        c.error(reason, hint);
    } else {
        c.at(path.to_owned(), |c| c.error(reason, hint));
    }
}

/// The types that serde names by their Rust names.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, without quotes",
        "i64" | "i32" => "a whole number, without quotes; it may be negative",
        "f64" | "f32" => "a number, without quotes",
        "a boolean" => "true or false, without quotes",
        other => other,
    }
}

/// The field that a "missing field" message names.
fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
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
