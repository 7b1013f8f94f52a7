//! `type = "api_key"`: random keys, stored as SHA-256. A key has 256 random bits, so a plain hash
//! cannot be searched; a slow one would only cost every request.
//!
//! A key reads `gwk_<id>_<secret>`: the id finds the entry, then the whole key's hash is compared in
//! constant time.

use super::params::query_pairs;
use super::raw::Policies;
use super::{Identity, Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::outcome::{Rejection, RejectionKind};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApiKey {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// The request field that carries the key. Default `X-Api-Key`, unless `query` is set.
    pub header: Option<String>,
    /// The query parameter that carries the key, in place of a header. Queries end up in histories and
    /// in the upstream's logs, so prefer a header.
    pub query: Option<String>,
    /// The keys, as `gateway key new` prints them.
    #[serde(default)]
    pub keys: Vec<RawKey>,
    /// A TOML file with the same list as `[[keys]]`.
    pub file: Option<PathBuf>,
    /// Let the key through to the upstream. Default: it is removed from the request.
    #[serde(default)]
    pub forward: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKey {
    /// The public part of the key; stands in logs.
    pub id: String,
    /// `sha256:` and the SHA-256 of the whole key in 64 hex digits, as `gateway key new` prints it.
    pub hash: String,
    /// Whose key it is: the identity's subject.
    pub owner: String,
    /// Roles of its bearer.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Scopes of its bearer.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// End of its life: `2027-01-31` or `2027-01-31T12:00:00Z`. Without: none.
    pub expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    keys: Vec<RawKey>,
}

impl RawApiKey {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<ApiKey> {
        if self.header.is_some() && self.query.is_some() {
            c.error(
                "both header and query are set",
                "a key has one place; use two policies and any_of for two",
            );
            return None;
        }
        if self.query.is_some() && !self.forward {
            c.at("query", |c| {
                c.error(
                    "a key in the query cannot be kept from the upstream",
                    "set forward = true to let it through, or use a header",
                )
            });
        }
        let place = match &self.query {
            Some(name) => Place::Query(name.clone()),
            None => Place::Header(
                self.header
                    .as_deref()
                    .unwrap_or("X-Api-Key")
                    .to_ascii_lowercase()
                    .into(),
            ),
        };
        let mut by_id = HashMap::new();
        c.at("keys", |c| add(&mut by_id, &rule, &self.keys, c));
        if let Some(path) = &self.file {
            c.at("file", |c| {
                let Some(bytes) = c.read(path) else { return };
                match toml::from_slice::<KeyFile>(&bytes) {
                    Ok(file) => add(&mut by_id, &rule, &file.keys, c),
                    Err(e) => c.error(
                        format!("{} is no list of keys: {}", path.display(), e.message()),
                        "it holds [[keys]] entries as `gateway key new` prints them",
                    ),
                }
            });
        } else if self.keys.is_empty() {
            c.warn(
                "there are no keys: every request will be refused",
                "add one with `gateway key new`",
            );
        }
        Some(ApiKey {
            challenge: format!("ApiKey realm=\"{rule}\""),
            rule,
            place,
            forward: self.forward,
            by_id,
        })
    }
}

fn add(
    by_id: &mut HashMap<Box<str>, Entry>,
    rule: &Arc<str>,
    keys: &[RawKey],
    c: &mut Compiler<'_>,
) {
    for (i, raw) in keys.iter().enumerate() {
        c.at(format!("[{i}]"), |c| {
            let Some(entry) = raw.compile(rule, c) else {
                return;
            };
            if by_id.insert(raw.id.as_str().into(), entry).is_some() {
                c.at("id", |c| {
                    c.error("this id stands twice", "ids are unique in a policy")
                });
            }
        });
    }
}

impl RawKey {
    fn compile(&self, rule: &Arc<str>, c: &mut Compiler<'_>) -> Option<Entry> {
        let id_ok = !self.id.is_empty()
            && self.id.len() <= 64
            && self
                .id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !id_ok {
            c.at("id", |c| {
                c.error(
                    "an id is 1 to 64 letters, digits and '-'",
                    "copy it from `gateway key new`",
                )
            });
        }
        let hash = parse_hash(&self.hash);
        if hash.is_none() {
            c.at("hash", |c| {
                c.error(
                    "a hash is \"sha256:\" and 64 hex digits",
                    "put the hash here, not the key: `gateway key new` prints both",
                )
            });
        }
        if self.owner.is_empty() {
            c.at("owner", |c| {
                c.error("a key belongs to somebody", "name its owner")
            });
        }
        let expires_s = match self.expires.as_deref().map(epoch_secs) {
            None => Some(u64::MAX),
            Some(Some(s)) => Some(s),
            Some(None) => {
                c.at("expires", |c| {
                    c.error("not a date", "write 2027-01-31 or 2027-01-31T12:00:00Z")
                });
                None
            }
        };
        (id_ok && !self.owner.is_empty()).then_some(())?;
        Some(Entry {
            hash: hash?,
            expires_s: expires_s?,
            identity: Arc::new(Identity {
                subject: self.owner.clone(),
                policy: rule.clone(),
                method: "api-key",
                credential_id: Some(self.id.clone()),
                roles: self.roles.clone(),
                scopes: self.scopes.clone(),
            }),
        })
    }
}

enum Place {
    /// Lower case.
    Header(Arc<str>),
    Query(String),
}

struct Entry {
    hash: [u8; 32],
    expires_s: u64,
    identity: Arc<Identity>,
}

pub struct ApiKey {
    rule: Arc<str>,
    place: Place,
    forward: bool,
    by_id: HashMap<Box<str>, Entry>,
    challenge: String,
}

/// A longer value is no key of ours, and hashing it would only be work for nothing.
const KEY_BYTES_MAX: usize = 256;

impl Policy for ApiKey {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let identity = self.verify(cx).map_err(|(kind, detail)| {
            Rejection::new(kind, self.rule.clone(), detail)
                .field("WWW-Authenticate", self.challenge.clone())
        })?;
        *cx.identity = Some(identity);
        cx.strip.extend(self.consumes().cloned());
        Ok(())
    }

    fn consumes(&self) -> Option<&Arc<str>> {
        match &self.place {
            Place::Header(name) if !self.forward => Some(name),
            _ => None,
        }
    }

    fn authenticates(&self) -> bool {
        true
    }
}

impl ApiKey {
    fn verify(&self, cx: &PolicyCx<'_>) -> Result<Arc<Identity>, (RejectionKind, &'static str)> {
        use RejectionKind::{CredentialsExpired, CredentialsInvalid, CredentialsMissing};
        let invalid = (CredentialsInvalid, "The API key is not valid.");
        let repeated = (CredentialsInvalid, "More than one API key was sent.");
        let sent = match &self.place {
            Place::Header(name) => cx.head.single(name).map_err(|()| repeated)?,
            Place::Query(name) => single_parameter(cx.head.query, name).map_err(|()| repeated)?,
        };
        let sent = match sent {
            None | Some(b"") => return Err((CredentialsMissing, "An API key is required.")),
            Some(sent) if sent.len() > KEY_BYTES_MAX => return Err(invalid),
            Some(sent) => sent,
        };
        let entry = key_id(sent)
            .and_then(|id| self.by_id.get(id))
            .ok_or(invalid)?;
        let hash = digest(&SHA256, sent);
        verify_slices_are_equal(hash.as_ref(), &entry.hash).map_err(|_| invalid)?;
        // Only who holds the key learns that it has expired.
        if cx.now.wall_secs() >= entry.expires_s {
            return Err((CredentialsExpired, "The API key has expired."));
        }
        Ok(entry.identity.clone())
    }
}

fn key_id(key: &[u8]) -> Option<&str> {
    let rest = key.strip_prefix(b"gwk_")?;
    let end = memchr::memchr(b'_', rest)?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// A key needs no percent-encoding, so the bytes are compared as sent.
fn single_parameter<'q>(query: Option<&'q str>, name: &str) -> Result<Option<&'q [u8]>, ()> {
    let mut found = query_pairs(query)
        .filter(|(n, _)| *n == name)
        .map(|(_, v)| v);
    match (found.next(), found.next()) {
        (first, None) => Ok(first.map(str::as_bytes)),
        _ => Err(()),
    }
}

/// `sha256:` and 64 hex digits; the algorithm stands in the value so that another can be added.
fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// Seconds since the Unix epoch of an RFC 3339 date or date-time; a date means its first instant, UTC.
fn epoch_secs(text: &str) -> Option<u64> {
    let parsed: toml::value::Datetime = text.parse().ok()?;
    let date = parsed.date?;
    // Days from civil date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let (y, m, d) = (
        i64::from(date.year),
        i64::from(date.month),
        i64::from(date.day),
    );
    let y = if m <= 2 { y - 1 } else { y };
    let day_of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let era_day =
        y.rem_euclid(400) * 365 + y.rem_euclid(400) / 4 - y.rem_euclid(400) / 100 + day_of_year;
    let days = y.div_euclid(400) * 146_097 + era_day - 719_468;
    let time = match (parsed.time, parsed.offset) {
        (None, _) => 0,
        // A time without an offset could mean any.
        (Some(_), None) => return None,
        (Some(t), Some(offset)) => {
            let minutes = match offset {
                toml::value::Offset::Z => 0,
                toml::value::Offset::Custom { minutes } => i64::from(minutes),
            };
            i64::from(t.hour) * 3600 + i64::from(t.minute) * 60 + t.second.map_or(0, i64::from)
                - minutes * 60
        }
    };
    u64::try_from(days * 86_400 + time).ok()
}

/// A new key. The key itself is shown once and never stored.
pub struct Minted {
    pub id: String,
    pub key: String,
    pub hash: String,
    pub owner: String,
    /// A `[[keys]]` entry for the config or the key file.
    pub entry_toml: String,
}

impl Minted {
    /// The entry as an inline table, for `keys = [ … ]`.
    pub fn inline_toml(&self) -> String {
        let owner = toml::Value::String(self.owner.clone());
        format!(
            "{{ id = \"{}\", hash = \"{}\", owner = {owner} }}",
            self.id, self.hash
        )
    }
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Minted {{ id: {:?}, … }}", self.id)
    }
}

/// Makes a key from the system's random generator; an error when that fails.
pub fn mint(owner: &str) -> Result<Minted, aws_lc_rs::error::Unspecified> {
    let (mut id, mut secret) = ([0; 6], [0; 32]);
    aws_lc_rs::rand::fill(&mut id)?;
    aws_lc_rs::rand::fill(&mut secret)?;
    let id = hex(&id);
    let key = format!("gwk_{id}_{}", URL_SAFE_NO_PAD.encode(secret));
    let hash = hash_of(&key);
    let owner_toml = toml::Value::String(owner.into());
    Ok(Minted {
        entry_toml: format!("[[keys]]\nid = \"{id}\"\nhash = \"{hash}\"\nowner = {owner_toml}\n"),
        id,
        key,
        hash,
        owner: owner.into(),
    })
}

/// What the config stores of a key.
pub fn hash_of(key: &str) -> String {
    format!("sha256:{}", hex(digest(&SHA256, key.as_bytes()).as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
