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
    /// SHA-256 of the whole key, 64 hex digits.
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
                    "a hash is 64 hex digits (SHA-256)",
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
        if let (Place::Header(name), false) = (&self.place, self.forward) {
            cx.strip.push(name.clone());
        }
        Ok(())
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

fn parse_hash(hex: &str) -> Option<[u8; 32]> {
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
    hex(digest(&SHA256, key.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, error, files, policy, policy_with};
    use super::*;
    use crate::diagnose::Files;

    #[test]
    fn table() {
        let key = mint("partner \"A\"").unwrap();
        let other = mint("other").unwrap();
        let forged = format!("gwk_{}_{}", key.id, &other.key[17..]);
        let p = policy(&format!(
            "type = \"api_key\"\nname = \"k\"\nkeys = [{}]",
            key.inline_toml()
        ));
        use RejectionKind::*;
        for (sent, expected) in [
            (vec![], Some(CredentialsMissing)),
            (vec![""], Some(CredentialsMissing)),
            (vec![&*key.key], None),
            (vec![&*other.key], Some(CredentialsInvalid)),
            (vec![&*forged], Some(CredentialsInvalid)),
            (vec!["gwk_"], Some(CredentialsInvalid)),
            (vec!["gwk_noend"], Some(CredentialsInvalid)),
            (vec!["not a key"], Some(CredentialsInvalid)),
            (
                vec![&key.key[..key.key.len() - 1]],
                Some(CredentialsInvalid),
            ),
            (vec![&*key.key, &*key.key], Some(CredentialsInvalid)),
            (vec![&*"x".repeat(300)], Some(CredentialsInvalid)),
        ] {
            let mut case = Case::get();
            for value in &sent {
                case = case.header("x-api-KEY", value);
            }
            match (case.check(&*p.policy), expected) {
                (Ok(()), None) => {
                    let who = case.identity.unwrap();
                    assert_eq!(who.subject, "partner \"A\"");
                    assert_eq!(who.credential_id.as_deref(), Some(&*key.id));
                    assert_eq!(&*case.strip[0], "x-api-key");
                }
                (Err(r), Some(kind)) => {
                    assert_eq!(r.kind, kind, "{sent:?}");
                    assert_eq!(
                        r.fields,
                        [("WWW-Authenticate", "ApiKey realm=\"k\"".into())]
                    );
                    assert!(case.identity.is_none() && case.strip.is_empty());
                    assert!(!format!("{r:?}").contains(&key.key[17..]));
                }
                (found, _) => panic!("{sent:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn expiry_to_the_second() {
        let key = mint("a").unwrap();
        let entry = key
            .inline_toml()
            .replace(" }", ", expires = \"2027-01-15T08:00:00Z\" }");
        let p = policy(&format!(
            "type = \"api_key\"\nname = \"k\"\nkeys = [{entry}]"
        ));
        let mut case = Case::get().header("x-api-key", &key.key);
        // 2027-01-15T08:00:00Z is 1_800_000_000, where the test clock stands.
        assert_eq!(
            case.check(&*p.policy).unwrap_err().kind,
            RejectionKind::CredentialsExpired
        );
        case.now.wall_ns -= 1_000_000_000;
        assert!(case.check(&*p.policy).is_ok());
    }

    #[test]
    fn from_query_and_from_file() {
        let key = mint("a").unwrap();
        let files = files(&[("keys.toml", key.entry_toml.as_bytes())]);
        let p = policy_with(
            "type = \"api_key\"\nname = \"k\"\nquery = \"key\"\nfile = \"keys.toml\"",
            &files,
        );
        for (query, passes) in [
            (format!("a=b&key={}", key.key), true),
            (format!("key={0}&key={0}", key.key), false),
            (format!("Key={}", key.key), false),
            ("key".into(), false),
        ] {
            assert_eq!(
                Case::get().query(&query).check(&*p.policy).is_ok(),
                passes,
                "{query}"
            );
        }
    }

    #[test]
    fn bad_entries_say_where() {
        let hash = "0".repeat(64);
        let files = files(&[("bad.toml", b"[[keys]]\nid = 1"), ("binary", b"\xff")]);
        for (rest, says) in [
            (
                format!("keys = [{{ id = \"a_b\", hash = \"{hash}\", owner = \"o\" }}]"),
                "keys[0].id",
            ),
            (
                "keys = [{ id = \"a\", hash = \"12\", owner = \"o\" }]".into(),
                "keys[0].hash",
            ),
            (
                format!("keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"\" }}]"),
                "keys[0].owner",
            ),
            (
                format!(
                    "keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"o\", expires = \"soon\" }}]"
                ),
                "keys[0].expires",
            ),
            (
                format!(
                    "keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"o\", expires = \"2027-01-01T00:00:00\" }}]"
                ),
                "keys[0].expires",
            ),
            (
                format!(
                    "keys = [{0}, {0}]",
                    format_args!("{{ id = \"a\", hash = \"{hash}\", owner = \"o\" }}")
                ),
                "keys[1].id: this id stands twice",
            ),
            (
                "header = \"A\"\nquery = \"b\"".into(),
                "both header and query",
            ),
            ("file = \"none.toml\"".into(), "file: cannot read"),
            ("file = \"bad.toml\"".into(), "is no list of keys"),
            ("file = \"binary\"".into(), "is no list of keys"),
        ] {
            let found = error(&format!("type = \"api_key\"\nname = \"k\"\n{rest}"), &files);
            assert!(found.contains(says), "{rest}: {found}");
        }
        let _ = Files::default();
    }

    #[test]
    fn dates() {
        for (text, secs) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2027-01-15T08:00:00Z", Some(1_800_000_000)),
            ("2027-01-15T10:00:00+02:00", Some(1_800_000_000)),
            ("2027-01-15T08:00:00", None),
            ("1969-12-31", None),
            ("08:00:00", None),
            ("", None),
        ] {
            assert_eq!(epoch_secs(text), secs, "{text}");
        }
    }
}
