//! JSON read strictly: one reading only. Duplicate keys (which parsers resolve differently) and deep
//! nesting (which exhausts the next parser's stack) are refused.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Arrays and objects inside one another.
pub(super) const DEPTH_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonError {
    Malformed,
    DuplicateKey,
    TooDeep,
}

impl JsonError {
    pub(super) fn detail(self) -> &'static str {
        match self {
            JsonError::Malformed => "This is not well-formed JSON.",
            JsonError::DuplicateKey => "A JSON object names the same member twice.",
            JsonError::TooDeep => "The JSON is nested too deeply.",
        }
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let why = Cell::new(JsonError::Malformed);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict {
        depth_left: DEPTH_MAX,
        why: &why,
    };
    let value = strict.deserialize(&mut json).map_err(|_| why.get())?;
    json.end().map_err(|_| JsonError::Malformed)?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict<'w> {
    depth_left: usize,
    /// Why it failed, for what serde's error cannot carry.
    why: &'w Cell<JsonError>,
}

impl Strict<'_> {
    fn fail<E: de::Error>(&self, why: JsonError) -> E {
        self.why.set(why);
        E::custom("refused")
    }

    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Strict { depth_left, ..self }),
            None => Err(self.fail(JsonError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Value, E> {
        Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| self.fail(JsonError::Malformed))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.into()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::String(s))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(inner)?;
            if out.insert(key, value).is_some() {
                return Err(self.fail(JsonError::DuplicateKey));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        for (text, expected) in [
            ("{\"a\":1,\"b\":[true,null,-1,1.5,\"x\"]}".to_string(), None),
            (nested(DEPTH_MAX), None),
            (nested(DEPTH_MAX + 1), Some(JsonError::TooDeep)),
            (nested(100_000), Some(JsonError::TooDeep)),
            ("{\"a\":1,\"a\":1}".into(), Some(JsonError::DuplicateKey)),
            (
                "{\"a\":{\"b\":1,\"\\u0062\":2}}".into(),
                Some(JsonError::DuplicateKey),
            ),
            ("{\"a\":1} x".into(), Some(JsonError::Malformed)),
            ("{\"a\":1,}".into(), Some(JsonError::Malformed)),
            ("".into(), Some(JsonError::Malformed)),
            ("NaN".into(), Some(JsonError::Malformed)),
            ("1e999".into(), Some(JsonError::Malformed)),
            ("\u{feff}1".into(), Some(JsonError::Malformed)),
            ("\"\\ud800\"".into(), Some(JsonError::Malformed)),
        ] {
            assert_eq!(parse(text.as_bytes()).err(), expected, "{text:.40}");
        }
        assert_eq!(parse(b"\"\xff\"").err(), Some(JsonError::Malformed));
    }

    proptest! {
        #[test]
        fn what_passes_reads_as_serde_json_reads_it(text in "[\\[\\]{},:\"a0-9. -]{0,40}") {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
