//! The bytes of a record. `{"seq":…,"time":…,"event":…,…,"prev":"…"[,"signature":"…"],"hash":"…"}`:
//! the signature covers all before it, the hash all before it, and `prev` is the hash of the record before.

use super::key::{AuditKey, PublicKey};
use crate::observe::json::{self, Object};
use crate::observe::stamp::Stamp;
use aws_lc_rs::digest::{SHA256, digest};

pub(super) type Hash = [u8; 32];

/// What the first record of a chain carries as `prev`.
pub(super) const NOTHING: Hash = [0; 32];

/// The place of a record in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// Appends one record behind `last` to `out`; with a key it is signed. Gives its own place.
pub(super) fn write_record(
    out: &mut Vec<u8>,
    stamp: &mut Stamp,
    wall_ns: u64,
    last: Option<Link>,
    event: &str,
    members: impl FnOnce(&mut Object<'_>),
    key: Option<&AuditKey>,
) -> Link {
    let start = out.len();
    let seq = last.map_or(0, |l| l.seq + 1);
    let prev = last.map_or(NOTHING, |l| l.hash);
    let mut record = Object::begin(out);
    record.number("seq", seq);
    let time = record.raw("time");
    time.push(b'"');
    stamp.write(wall_ns, time);
    time.push(b'"');
    record.text("event", event, 64);
    members(&mut record);
    record.hex("prev", &prev);
    if let Some(key) = key {
        push_signature(out, start, "record", key);
    }
    let hash = sha256(&out[start..]);
    out.extend_from_slice(HASH_KEY);
    json::hex(out, &hash);
    out.extend_from_slice(b"\"}\n");
    Link { seq, hash }
}

fn push_signature(out: &mut Vec<u8>, start: usize, what: &str, key: &AuditKey) {
    let signature = key.sign(what, &out[start..]);
    out.extend_from_slice(SIGNATURE_KEY);
    json::hex(out, &signature);
    out.push(b'"');
}

const HASH_KEY: &[u8] = b",\"hash\":\"";
const SIGNATURE_KEY: &[u8] = b",\"signature\":\"";

/// A line taken apart, its hash checked.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) link: Link,
    pub(super) prev: Hash,
    pub(super) event: String,
    pub(super) signed: bool,
}

#[derive(serde::Deserialize)]
struct Members {
    seq: u64,
    event: String,
    prev: String,
}

/// Reads a record without its line feed and checks its hash, and with `public` its signature if it has one.
/// `Err` says what is wrong with it.
pub(super) fn parse_record(
    line: &[u8],
    public: Option<&PublicKey>,
) -> Result<Parsed, &'static str> {
    let (body, hash) =
        split_tail::<32>(line, HASH_KEY, b"\"}").ok_or("the record has no hash at its end")?;
    if sha256(body) != hash {
        return Err("the record's hash does not fit its content: it was edited");
    }
    let signed = match split_tail::<64>(body, SIGNATURE_KEY, b"\"") {
        Some((sealed, signature)) => {
            if public.is_some_and(|key| !key.verifies("record", sealed, &signature)) {
                return Err("the signature is not by this key");
            }
            true
        }
        None => false,
    };
    let members: Members =
        serde_json::from_slice(line).map_err(|_| "the record is not JSON of the expected form")?;
    let prev = unhex(members.prev.as_bytes()).ok_or("the record's prev is not a hash")?;
    let link = Link {
        seq: members.seq,
        hash,
    };
    Ok(Parsed {
        link,
        prev,
        event: members.event,
        signed,
    })
}

/// How far the log has come, sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) link: Link,
    /// The record it names ends its file; the next file continues the chain.
    pub(super) rotated: bool,
    /// Where in its file that record ends.
    pub(super) log_bytes: u64,
}

pub(super) fn write_head(head: Head, key: &AuditKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    let mut record = Object::begin(&mut out);
    record.number("seq", head.link.seq);
    record.hex("head", &head.link.hash);
    record.text("state", if head.rotated { "rotated" } else { "open" }, 16);
    record.number("log_bytes", head.log_bytes);
    push_signature(&mut out, 0, "head", key);
    out.extend_from_slice(b"}\n");
    out
}

pub(super) fn parse_head(bytes: &[u8], public: &PublicKey) -> Result<Head, &'static str> {
    #[derive(serde::Deserialize)]
    struct HeadMembers {
        seq: u64,
        head: String,
        state: String,
        log_bytes: u64,
    }
    const DAMAGED: &str = "the head file is damaged";
    let line = bytes.strip_suffix(b"\n").ok_or(DAMAGED)?;
    let (sealed, signature) = split_tail::<64>(line, SIGNATURE_KEY, b"\"}").ok_or(DAMAGED)?;
    if !public.verifies("head", sealed, &signature) {
        return Err("the head file is not signed by this key");
    }
    let members: HeadMembers = serde_json::from_slice(line).map_err(|_| DAMAGED)?;
    let hash = unhex(members.head.as_bytes()).ok_or(DAMAGED)?;
    let link = Link {
        seq: members.seq,
        hash,
    };
    Ok(Head {
        link,
        rotated: members.state == "rotated",
        log_bytes: members.log_bytes,
    })
}

/// Splits `body ++ key ++ hex ++ end` into the body and the `N` bytes the digits stand for.
fn split_tail<'l, const N: usize>(
    line: &'l [u8],
    key: &[u8],
    end: &[u8],
) -> Option<(&'l [u8], [u8; N])> {
    let rest = line.strip_suffix(end)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(2 * N)?)?;
    let body = rest.strip_suffix(key)?;
    Some((body, unhex(digits)?))
}

/// Exactly `2 N` lower-case hex digits.
pub(super) fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
