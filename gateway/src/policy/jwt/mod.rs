//! `type = "jwt"`: bearer tokens (RFC 6750, RFC 7519, RFC 8725). The algorithm belongs to the key,
//! never to the token; `kid` is a look-up and nothing else; keys or addresses of keys inside a token
//! (`jwk`, `jku`, `x5c`, `x5u`) are not read.

mod claims;
mod keys;
#[cfg(test)]
mod tests;

use super::raw::Policies;
use super::{Cost, Identity, Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::limit::bounded::{BoundedMap, Heat};
use crate::outcome::{Rejection, RejectionKind};
use crate::units::{Bytes, Span};
use claims::Claims;
use keys::KeyRing;
pub use keys::{RawJwtKey, Secret};
use serde::Deserialize;
use siphasher::sip128::SipHasher24;
use std::collections::hash_map::RandomState;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJwt {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// The one issuer (`iss`) whose tokens count.
    pub issuer: String,
    /// The token's `aud` must name one of these.
    pub audience: OneOrMany,
    /// Tolerated difference of clocks. Default 30 s, at most 5 minutes.
    #[serde(default = "half_a_minute")]
    pub leeway: Span,
    /// Keys that verify tokens.
    #[serde(default)]
    pub keys: Vec<RawJwtKey>,
    /// A JSON Web Key Set file with public keys.
    pub jwks_file: Option<PathBuf>,
    /// Claim with the identity's subject. Default `sub`.
    #[serde(default = "sub")]
    pub subject_claim: String,
    /// Claim with roles, an array or a space-separated string; dots go deeper: `realm_access.roles`.
    pub roles_claim: Option<String>,
    /// Claim with scopes, the same way. Default `scope`.
    #[serde(default = "scope")]
    pub scope_claim: String,
    /// Largest token. Default 8 KiB.
    #[serde(default = "eight_kib")]
    pub max_token: Bytes,
    /// Verified tokens remembered until they expire. Default 16384.
    #[serde(default = "cached")]
    pub cache: usize,
    /// Let the token through to the upstream. Default: it is removed from the request.
    #[serde(default)]
    pub forward: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn half_a_minute() -> Span {
    Span::secs(30)
}
fn sub() -> String {
    "sub".into()
}
fn scope() -> String {
    "scope".into()
}
fn eight_kib() -> Bytes {
    Bytes(8 << 10)
}
fn cached() -> usize {
    16_384
}

const CACHE_MAX: usize = 1 << 20;

impl RawJwt {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<Jwt> {
        let audience = match &self.audience {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        };
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            c.at("audience", |c| {
                c.error(
                    "no audience is named",
                    "a token for another service must not be accepted here",
                )
            });
        }
        if self.issuer.is_empty() {
            c.at("issuer", |c| {
                c.error("the issuer is empty", "name the `iss` of your tokens")
            });
        }
        if self.leeway > Span::secs(300) {
            c.at("leeway", |c| {
                c.error("more than 5 minutes", "set the clocks instead")
            });
        }
        if !(1..=65_536).contains(&self.max_token.0) {
            c.at("max_token", |c| {
                c.error(
                    "must be 1 byte to 64 KiB",
                    "8KiB is enough for most issuers",
                )
            });
        }
        if self.cache > CACHE_MAX {
            c.at("cache", |c| {
                c.error("at most 1048576 tokens", "memory is better spent elsewhere")
            });
        }
        let keys = KeyRing::compile(&self.keys, self.jwks_file.as_deref(), c)?;
        Some(Jwt {
            challenge: format!("Bearer realm=\"{rule}\""),
            rule,
            keys,
            claims: Claims {
                issuer: self.issuer.clone(),
                audience,
                leeway_s: self.leeway.0.as_secs(),
                subject: self.subject_claim.clone(),
                roles: self.roles_claim.clone(),
                scopes: self.scope_claim.clone(),
            },
            token_bytes_max: self.max_token.0 as usize,
            forward: self.forward,
            verified: (self.cache > 0).then(|| BoundedMap::new(self.cache, RandomState::new())),
            digest: SipHasher24::new_with_key(&crate::limit::table::random_key()),
        })
    }
}

pub struct Jwt {
    rule: Arc<str>,
    keys: KeyRing,
    claims: Claims,
    token_bytes_max: usize,
    forward: bool,
    challenge: String,
    /// By a keyed 128-bit digest of the token, signature included (SipHash-2-4 is a MAC, its key is
    /// random per process), so that nobody can make another token that is taken for a cached one.
    verified: Option<BoundedMap<u128, Verified, RandomState>>,
    digest: SipHasher24,
}

/// What a good token says, and when it is good.
#[derive(Clone)]
struct Verified {
    identity: Arc<Identity>,
    /// Both with leeway already applied: good when `from_s <= now < until_s`.
    from_s: u64,
    until_s: u64,
}

impl Heat for Verified {
    fn heat(&self) -> u64 {
        self.until_s
    }
}

/// Why a token is refused: kind, and a sentence for the client.
type Refused = (RejectionKind, &'static str);

const fn invalid(detail: &'static str) -> Refused {
    (RejectionKind::CredentialsInvalid, detail)
}

impl Policy for Jwt {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let found = self
            .bearer(cx)
            .and_then(|token| self.verify(token, cx.now.wall_secs()));
        match found {
            Ok(identity) => {
                *cx.identity = Some(identity);
                cx.strip.extend(self.consumes().cloned());
                Ok(())
            }
            Err((kind, detail)) => Err(Rejection::new(kind, self.rule.clone(), detail)
                .field("WWW-Authenticate", self.challenge(kind, detail))),
        }
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn consumes(&self) -> Option<&Arc<str>> {
        (!self.forward).then(authorization)
    }

    fn cost(&self) -> Cost {
        Cost::Costly
    }
}

impl Jwt {
    /// The token of `Authorization: Bearer …`. Another scheme counts as none: it is for another policy.
    fn bearer<'c>(&self, cx: &PolicyCx<'c>) -> Result<&'c str, Refused> {
        const MISSING: Refused = (
            RejectionKind::CredentialsMissing,
            "A bearer token is required.",
        );
        let field = cx.head.single("authorization");
        let field = field.map_err(|()| invalid("More than one Authorization field was sent."))?;
        let field = field.ok_or(MISSING)?;
        let text =
            std::str::from_utf8(field).map_err(|_| invalid("The bearer token is malformed."))?;
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(MISSING);
        }
        let token = token.trim_start_matches(' ');
        if token.len() > self.token_bytes_max {
            return Err(invalid("The bearer token is too long."));
        }
        Ok(token)
    }

    fn verify(&self, token: &str, now_s: u64) -> Result<Arc<Identity>, Refused> {
        let digest = self.digest.hash(token.as_bytes()).as_u128();
        let cached = self.verified.as_ref();
        let hit = cached.and_then(|map| map.view(&digest, |v| v.at(now_s)));
        if let Some(answer) = hit {
            return answer;
        }
        let fresh = self.verify_fresh(token)?;
        let answer = fresh.at(now_s)?;
        if let Some(map) = cached {
            map.with(digest, || fresh.clone(), |_| ());
        }
        Ok(answer)
    }

    fn verify_fresh(&self, token: &str) -> Result<Verified, Refused> {
        const MALFORMED: Refused = invalid("The bearer token is malformed.");
        let (message, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, payload) = message.split_once('.').ok_or(MALFORMED)?;
        if payload.contains('.') || signature.is_empty() {
            return Err(MALFORMED);
        }
        let header = claims::part(header).ok_or(MALFORMED)?;
        let key = self.keys.choose(&header)?;
        if !key.verifies(message.as_bytes(), signature) {
            return Err(invalid("The token's signature is not valid."));
        }
        // Only now is the payload anybody's word.
        let payload = claims::part(payload).ok_or(MALFORMED)?;
        self.claims.read(&payload, &self.rule, key.kid())
    }

    /// RFC 6750 section 3: no error code when nothing was sent.
    fn challenge(&self, kind: RejectionKind, detail: &str) -> String {
        if kind == RejectionKind::CredentialsMissing {
            return self.challenge.clone();
        }
        format!(
            "{}, error=\"invalid_token\", error_description=\"{detail}\"",
            self.challenge
        )
    }
}

impl Verified {
    fn at(&self, now_s: u64) -> Result<Arc<Identity>, Refused> {
        if now_s >= self.until_s {
            return Err((RejectionKind::CredentialsExpired, "The token has expired."));
        }
        if now_s < self.from_s {
            return Err(invalid("The token is not valid yet."));
        }
        Ok(self.identity.clone())
    }
}

fn authorization() -> &'static Arc<str> {
    static NAME: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| "authorization".into())
}
