//! `type = "request"`: size, content type, headers, query and path parameters.

use super::params::{RawValue, Value, decoded, query_pairs};
use super::raw::Policies;
use super::{Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::http::{Framing, RequestHead};
use crate::outcome::{Rejection, RejectionKind};
use crate::units::Bytes;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRequest {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Largest body, declared or chunked.
    pub max_body: Option<Bytes>,
    /// Content types a body may have, such as `application/json` or `image/*`. Empty: any.
    #[serde(default)]
    pub content_types: Vec<String>,
    /// Headers that must be there.
    #[serde(default)]
    pub required_headers: Vec<String>,
    /// Headers that must not.
    #[serde(default)]
    pub forbidden_headers: Vec<String>,
    /// Rules for the values of headers; each copy of a repeated header must meet them.
    #[serde(default)]
    pub headers: Vec<RawValue>,
    /// Rules for query parameters. One that has a rule may stand only once.
    #[serde(default)]
    pub query: Vec<RawValue>,
    /// Rules for the route's path parameters.
    #[serde(default)]
    pub path_params: Vec<RawValue>,
    /// Refuse query parameters that `query` does not list.
    #[serde(default)]
    pub deny_unknown_query: bool,
}

impl RawRequest {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<RequestRules> {
        c.at("content_types", |c| {
            check_media_types(&self.content_types, c)
        });
        for name in &self.required_headers {
            if self
                .forbidden_headers
                .iter()
                .any(|f| f.eq_ignore_ascii_case(name))
            {
                c.at("forbidden_headers", |c| {
                    c.error(
                        format!("{name} is both required and forbidden"),
                        "no request could pass",
                    )
                });
            }
        }
        let mut values = |at: &str, raws: &[RawValue]| -> Vec<Value> {
            let each = raws.iter().enumerate().filter_map(|(i, raw)| {
                c.at(at, |c| {
                    c.at(format!("[{i}]"), |c| {
                        if raws[..i].iter().any(|r| r.name == raw.name) {
                            c.at("name", |c| {
                                c.error("there is a rule of this name already", "put both into one")
                            });
                        }
                        raw.compile(c)
                    })
                })
            });
            each.collect()
        };
        Some(RequestRules {
            headers: values("headers", &self.headers),
            query: values("query", &self.query),
            path_params: values("path_params", &self.path_params),
            rule,
            max_body: self.max_body.map(|b| b.0),
            content_types: self.content_types.clone(),
            required_headers: self.required_headers.clone(),
            forbidden_headers: self.forbidden_headers.clone(),
            deny_unknown_query: self.deny_unknown_query,
        })
    }
}

pub struct RequestRules {
    rule: Arc<str>,
    max_body: Option<u64>,
    content_types: Vec<String>,
    required_headers: Vec<String>,
    forbidden_headers: Vec<String>,
    headers: Vec<Value>,
    query: Vec<Value>,
    path_params: Vec<Value>,
    deny_unknown_query: bool,
}

/// What is wrong: where (`query.page`, `header.x-id`, `path.id`; names come from the config) and how.
type Problem = (String, &'static str);

impl Policy for RequestRules {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        self.check_body_declared(cx.head)?;
        let checked = self
            .check_headers(cx.head)
            .and_then(|()| self.check_path(cx))
            .and_then(|()| self.check_query(cx.head.query));
        checked.map_err(|(at, reason)| {
            let mut r = self.refuse(
                RejectionKind::ParameterInvalid,
                "A parameter or header breaks a rule of this API.",
            );
            r.errors.push((at, reason.into()));
            r
        })
    }

    fn body_limit(&self, _head: &RequestHead<'_>) -> Option<u64> {
        self.max_body
    }
}

impl RequestRules {
    fn refuse(&self, kind: RejectionKind, detail: &'static str) -> Rejection {
        Rejection::new(kind, self.rule.clone(), detail)
    }

    fn check_body_declared(&self, head: &RequestHead<'_>) -> Result<(), Rejection> {
        if let (Some(max), Framing::Length(length)) = (self.max_body, head.framing)
            && length > max
        {
            return Err(self.refuse(
                RejectionKind::BodyTooLarge,
                "The body is larger than this API takes.",
            ));
        }
        if self.content_types.is_empty() || !has_body(head) {
            return Ok(());
        }
        match head.single("content-type") {
            Ok(Some(sent)) if media_type_matches(sent, &self.content_types) => Ok(()),
            _ => Err(self.refuse(
                RejectionKind::UnsupportedMediaType,
                "The body's content type is not one this API takes.",
            )),
        }
    }

    fn check_headers(&self, head: &RequestHead<'_>) -> Result<(), Problem> {
        let at = |name: &str| format!("header.{name}");
        for name in &self.required_headers {
            head.header(name).ok_or_else(|| (at(name), "is missing"))?;
        }
        for name in &self.forbidden_headers {
            if head.header(name).is_some() {
                return Err((at(name), "is not allowed"));
            }
        }
        for rule in &self.headers {
            let mut found = false;
            for header in head.headers.iter().filter(|h| h.is(&rule.name)) {
                found = true;
                let text = header.text().ok_or("is not text");
                text.and_then(|t| rule.check(t))
                    .map_err(|why| (at(&rule.name), why))?;
            }
            if rule.required && !found {
                return Err((at(&rule.name), "is missing"));
            }
        }
        Ok(())
    }

    fn check_path(&self, cx: &PolicyCx<'_>) -> Result<(), Problem> {
        for rule in &self.path_params {
            let at = || format!("path.{}", rule.name);
            match cx.params.get(&rule.name) {
                Some(raw) => {
                    // In a path `+` is itself; the canonical path keeps only needed encodings.
                    let plus_kept = raw.replace('+', "%2B");
                    let value = decoded(&plus_kept).ok_or_else(|| (at(), "is not encoded text"))?;
                    rule.check(&value).map_err(|why| (at(), why))?;
                }
                None if rule.required => return Err((at(), "is missing")),
                None => {}
            }
        }
        Ok(())
    }

    fn check_query(&self, query: Option<&str>) -> Result<(), Problem> {
        if self.query.is_empty() && !self.deny_unknown_query {
            return Ok(());
        }
        let at = |rule: &Value| format!("query.{}", rule.name);
        // Rules are few and repeats are refused, so a linear scan with a mark per rule is enough.
        let mut seen = vec![false; self.query.len()];
        for (name, value) in query_pairs(query) {
            let name = decoded(name).ok_or_else(|| ("query".into(), "is not encoded text"))?;
            let Some(i) = self.query.iter().position(|rule| rule.name == name) else {
                if self.deny_unknown_query {
                    return Err(("query".into(), "has a parameter this API does not know"));
                }
                continue;
            };
            let rule = &self.query[i];
            if std::mem::replace(&mut seen[i], true) {
                return Err((at(rule), "stands more than once"));
            }
            let value = decoded(value).ok_or_else(|| (at(rule), "is not encoded text"))?;
            rule.check(&value).map_err(|why| (at(rule), why))?;
        }
        let missing = self
            .query
            .iter()
            .zip(&seen)
            .find(|(rule, seen)| rule.required && !**seen);
        missing.map_or(Ok(()), |(rule, _)| Err((at(rule), "is missing")))
    }
}

pub(super) fn has_body(head: &RequestHead<'_>) -> bool {
    !matches!(head.framing, Framing::Empty | Framing::Length(0))
}

/// Compares the type and subtype, parameters such as `charset` aside (RFC 9110 section 8.3.1).
pub(super) fn media_type_matches(sent: &[u8], allowed: &[String]) -> bool {
    let essence = sent
        .split(|b| *b == b';')
        .next()
        .unwrap_or(sent)
        .trim_ascii();
    allowed.iter().any(|a| match a.strip_suffix('*') {
        Some(family) => {
            essence.len() > family.len()
                && essence[..family.len()].eq_ignore_ascii_case(family.as_bytes())
        }
        None => essence.eq_ignore_ascii_case(a.as_bytes()),
    })
}

pub(super) fn check_media_types(list: &[String], c: &mut Compiler<'_>) {
    for (i, text) in list.iter().enumerate() {
        let parts = text.split_once('/');
        let ok = parts.is_some_and(|(t, s)| {
            !t.is_empty() && !s.is_empty() && !t.contains('*') && (s == "*" || !s.contains('*'))
        }) && !text.contains([';', ' ', ',']);
        if !ok {
            c.at(format!("[{i}]"), |c| {
                c.error(
                    format!("\"{text}\" is no content type"),
                    "write type/subtype or type/*, without parameters",
                )
            });
        }
    }
}

#[cfg(test)]
mod tests;
