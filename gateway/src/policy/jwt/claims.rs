//! What a token says: parts decoded strictly, claims checked (RFC 7519 section 4.1) and mapped to an
//! identity.

use super::super::{Identity, json};
use super::{Refused, Verified, invalid};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::sync::Arc;

/// One base64url part that is a JSON object without duplicate members.
pub(super) fn part(encoded: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    match json::parse(&bytes).ok()? {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

pub(super) struct Claims {
    pub issuer: String,
    pub audience: Vec<String>,
    pub leeway_s: u64,
    pub subject: String,
    pub roles: Option<String>,
    pub scopes: String,
}

impl Claims {
    pub(super) fn read(
        &self,
        payload: &Map<String, Value>,
        rule: &Arc<str>,
        kid: Option<&str>,
    ) -> Result<Verified, Refused> {
        if payload.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err(invalid("The token's issuer is not the one expected."));
        }
        if !self.is_for_us(payload.get("aud")) {
            return Err(invalid("The token is for another audience."));
        }
        let exp_s = match payload.get("exp") {
            Some(exp) => numeric_date(exp).ok_or(invalid("The token's expiry is malformed."))?,
            None => return Err(invalid("The token has no expiry.")),
        };
        let nbf_s = match payload.get("nbf") {
            Some(nbf) => numeric_date(nbf).ok_or(invalid("The token's start is malformed."))?,
            None => 0,
        };
        let subject = at_path(payload, &self.subject).and_then(Value::as_str);
        let subject = subject.filter(|s| !s.is_empty());
        let roles = self
            .roles
            .as_deref()
            .and_then(|path| at_path(payload, path));
        let credential_id = payload.get("jti").and_then(Value::as_str).or(kid);
        Ok(Verified {
            identity: Arc::new(Identity {
                subject: subject
                    .ok_or(invalid("The token names no subject."))?
                    .into(),
                policy: rule.clone(),
                method: "jwt",
                credential_id: credential_id.map(String::from),
                roles: words(roles),
                scopes: words(at_path(payload, &self.scopes)),
            }),
            from_s: nbf_s.saturating_sub(self.leeway_s),
            until_s: exp_s.saturating_add(self.leeway_s),
        })
    }

    fn is_for_us(&self, aud: Option<&Value>) -> bool {
        let ours = |v: &Value| {
            v.as_str()
                .is_some_and(|s| self.audience.iter().any(|a| a == s))
        };
        match aud {
            Some(Value::Array(many)) => many.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        }
    }
}

/// Seconds since the Unix epoch, possibly with a fraction (RFC 7519 section 2), rounded down.
fn numeric_date(value: &Value) -> Option<u64> {
    let float = |f: f64| (0.0..9e15).contains(&f).then_some(f as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(float))
}

/// A claim of exactly that name, else one found by going down at the dots.
fn at_path<'v>(payload: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    if let Some(whole) = payload.get(path) {
        return Some(whole);
    }
    let mut steps = path.split('.');
    let first = payload.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.get(step))
}

/// An array of strings, or a string of words. Anything else holds none.
fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => text.split_ascii_whitespace().map(String::from).collect(),
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(|item| item.as_str().map(String::from))
            .collect(),
        _ => Vec::new(),
    }
}
