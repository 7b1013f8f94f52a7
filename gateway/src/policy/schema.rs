//! `type = "json_schema"`: the body is JSON, read strictly, and matches a JSON Schema (drafts 4 to
//! 2020-12). Errors point at the place (RFC 6901), never at the value.

use super::json;
use super::raw::Policies;
use super::request_rules::{check_media_types, has_body, media_type_matches};
use super::{Cost, Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::http::{Framing, RequestHead};
use crate::outcome::{Rejection, RejectionKind};
use crate::units::Bytes;
use jsonschema::{PatternOptions, Validator};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJsonSchema {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// File with the schema.
    pub schema_file: Option<PathBuf>,
    /// The schema itself: a TOML table, or JSON in a string.
    pub schema: Option<toml::Value>,
    /// Largest body that is validated; larger ones are refused. Default 1 MiB.
    #[serde(default = "one_mib")]
    pub max_body: Bytes,
    /// Content types taken, others get 415. Default `application/json`.
    #[serde(default = "json_only")]
    pub content_types: Vec<String>,
    /// Methods whose body is validated. Default: POST, PUT, PATCH, and whatever else brings a body.
    pub methods: Option<Vec<String>>,
}

fn one_mib() -> Bytes {
    Bytes(1 << 20)
}
fn json_only() -> Vec<String> {
    vec!["application/json".into()]
}
/// A validated body is held in memory whole.
const BODY_BYTES_MAX: u64 = 64 << 20;

impl RawJsonSchema {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<JsonSchema> {
        c.at("content_types", |c| {
            check_media_types(&self.content_types, c)
        });
        if self.max_body.0 == 0 || self.max_body.0 > BODY_BYTES_MAX {
            c.at("max_body", |c| {
                c.error(
                    "must be 1 byte to 64 MiB",
                    "the body is held in memory while it is validated",
                )
            });
        }
        if self.methods.as_ref().is_some_and(Vec::is_empty) {
            c.at("methods", |c| {
                c.error("no method is named", "name one, or remove the policy")
            });
        }
        let (at, schema) = match (&self.schema_file, &self.schema) {
            (Some(path), None) => ("schema_file", c.at("schema_file", |c| read(path, c))?),
            (None, Some(inline)) => ("schema", c.at("schema", |c| from_toml(inline, c))?),
            _ => {
                c.error("give either schema_file or schema", "one of them, not both");
                return None;
            }
        };
        let validator = c.at(at, |c| build(&schema, c))?;
        Some(JsonSchema {
            rule,
            validator,
            max_body: self.max_body.0,
            content_types: self.content_types.clone(),
            methods: self.methods.clone(),
        })
    }
}

fn read(path: &std::path::Path, c: &mut Compiler<'_>) -> Option<Value> {
    let bytes = c.read(path)?;
    from_json(&bytes, c)
}

fn from_toml(inline: &toml::Value, c: &mut Compiler<'_>) -> Option<Value> {
    if let toml::Value::String(text) = inline {
        return from_json(text.as_bytes(), c);
    }
    serde_json::to_value(inline)
        .map_err(|e| {
            c.error(
                format!("not a schema: {e}"),
                "write it as a table, or as JSON in a string",
            )
        })
        .ok()
}

fn from_json(bytes: &[u8], c: &mut Compiler<'_>) -> Option<Value> {
    serde_json::from_slice(bytes)
        .map_err(|e| c.error(format!("not JSON: {e}"), "a schema is a JSON object"))
        .ok()
}

fn build(schema: &Value, c: &mut Compiler<'_>) -> Option<Validator> {
    if let Some(target) = outside_ref(schema) {
        c.error(
            format!("the schema refers to \"{target}\", which lies outside it"),
            "nothing is fetched: copy the definition into $defs and refer to it as #/$defs/NAME",
        );
        return None;
    }
    jsonschema::options()
        .offline()
        // The pattern keyword runs on a peer's bytes: only the linear-time engine may.
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|e| {
            c.error(
                format!(
                    "the schema does not compile: {e} (at \"{}\")",
                    e.instance_path()
                ),
                "check it against its draft; look-around in patterns is not offered",
            )
        })
        .ok()
}

/// The first `$ref` that leaves the document.
fn outside_ref(schema: &Value) -> Option<&str> {
    match schema {
        Value::Object(map) => map
            .iter()
            .find_map(|(key, value)| match (key.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(target)) => {
                    (!target.starts_with('#')).then_some(target.as_str())
                }
                // Data, not schema.
                ("const" | "enum" | "default" | "examples", _) => None,
                _ => outside_ref(value),
            }),
        Value::Array(items) => items.iter().find_map(outside_ref),
        _ => None,
    }
}

pub struct JsonSchema {
    rule: Arc<str>,
    validator: Validator,
    max_body: u64,
    content_types: Vec<String>,
    methods: Option<Vec<String>>,
}

/// Errors reported at once, and bytes of one pointer: member names in it are the client's.
const ERRORS_MAX: usize = 8;
const POINTER_BYTES_MAX: usize = 128;

impl Policy for JsonSchema {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let head = cx.head;
        if !self.applies(head) {
            return Ok(());
        }
        if !has_body(head) {
            return Err(self.refuse(RejectionKind::BodyInvalid, "A JSON body is required."));
        }
        let typed = match head.single("content-type") {
            Ok(Some(sent)) => media_type_matches(sent, &self.content_types) && is_utf8(sent),
            _ => false,
        };
        // What is compressed cannot be read here, and must not pass unread.
        if !typed || head.header("content-encoding").is_some() {
            return Err(self.refuse(
                RejectionKind::UnsupportedMediaType,
                "The body's content type or encoding is not one this API takes.",
            ));
        }
        match head.framing {
            Framing::Length(length) if length > self.max_body => Err(self.too_large()),
            _ => Ok(()),
        }
    }

    fn wants_body(&self, head: &RequestHead<'_>) -> Option<u64> {
        self.applies(head).then_some(self.max_body)
    }

    fn body_limit(&self, head: &RequestHead<'_>) -> Option<u64> {
        self.wants_body(head)
    }

    fn cost(&self) -> Cost {
        Cost::Costly
    }

    fn check_body(&self, _cx: &mut PolicyCx<'_>, body: &[u8]) -> Result<(), Rejection> {
        if body.len() as u64 > self.max_body {
            return Err(self.too_large());
        }
        if body.is_empty() {
            return Err(self.refuse(RejectionKind::BodyInvalid, "A JSON body is required."));
        }
        let value =
            json::parse(body).map_err(|e| self.refuse(RejectionKind::MalformedBody, e.detail()))?;
        // The yes/no pass is several times faster than the one that explains.
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let mut refusal = self.refuse(
            RejectionKind::BodyInvalid,
            "The body does not match its schema.",
        );
        refusal.errors = self
            .validator
            .iter_errors(&value)
            .take(ERRORS_MAX)
            .map(|e| {
                let keyword = e.kind().keyword().to_owned();
                (
                    pointer(e.instance_path().as_str()),
                    format!("does not satisfy \"{keyword}\""),
                )
            })
            .collect();
        Err(refusal)
    }
}

/// Whether a content type names no character encoding but UTF-8, the only one JSON has (RFC 8259
/// section 8.1): an upstream that believed another would read other text than was validated.
fn is_utf8(content_type: &[u8]) -> bool {
    content_type.split(|b| *b == b';').skip(1).all(|parameter| {
        let mut sides = parameter.splitn(2, |b| *b == b'=');
        let is_charset = sides
            .next()
            .is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"charset"));
        let value = sides.next().unwrap_or_default().trim_ascii();
        !is_charset
            || value.eq_ignore_ascii_case(b"utf-8")
            || value.eq_ignore_ascii_case(b"\"utf-8\"")
    })
}

impl JsonSchema {
    fn applies(&self, head: &RequestHead<'_>) -> bool {
        match &self.methods {
            Some(methods) => methods.iter().any(|m| m == head.method),
            None => has_body(head) || matches!(head.method, "POST" | "PUT" | "PATCH"),
        }
    }

    fn refuse(&self, kind: RejectionKind, detail: &'static str) -> Rejection {
        Rejection::new(kind, self.rule.clone(), detail)
    }

    fn too_large(&self) -> Rejection {
        self.refuse(
            RejectionKind::BodyTooLarge,
            "The body is larger than this API takes.",
        )
    }
}

fn pointer(full: &str) -> String {
    if full.len() <= POINTER_BYTES_MAX {
        return full.into();
    }
    let mut end = POINTER_BYTES_MAX;
    while !full.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &full[..end])
}

#[cfg(test)]
mod tests;
