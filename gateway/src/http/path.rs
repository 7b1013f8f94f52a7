//! One canonical path for matching, deciding, logging and forwarding. What the software behind us
//! could read in another way is refused.

use super::rules;
use crate::outcome::Rejection;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Forms that some upstreams read differently, and are kept only where the operator says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `%2F`, which some decode to a separator.
    pub encoded_slash: bool,
    /// `;` parameters, which servers of the Java family drop before they match: `/admin;x/users`.
    pub parameters: bool,
}

/// Writes the canonical form of `raw` (a path, without query) to `out`: unreserved bytes decoded,
/// everything else that needs it percent-encoded in upper case, `//` merged, dot segments resolved.
/// Refused: a path above the root, encoded slashes and `;` parameters (unless kept), backslashes, encoded control
/// bytes, double encoding, overlong UTF-8, and dot segments with parameters (`..;`).
pub fn canonicalize(raw: &[u8], kept: Kept, out: &mut String) -> Result<(), Rejection> {
    out.clear();
    if raw.first() != Some(&b'/') {
        return Err(rules::head("The request target must start with a slash."));
    }
    decode(raw, kept.encoded_slash, out)?;
    if !kept.parameters && out.contains(';') {
        return Err(rules::path("The path holds `;` parameters."));
    }
    if out.contains('%') {
        refuse_double_encoding(out.as_bytes())?;
    }
    if out.contains("//") || out.contains("/.") {
        resolve(out)?;
    }
    Ok(())
}

/// Whether `raw` is its own canonical form, by a test that is quick and may say no too often.
pub(super) fn is_plain(raw: &[u8]) -> bool {
    let mut last = 0;
    raw.first() == Some(&b'/')
        && raw.iter().all(|&b| {
            let dotted_or_empty = last == b'/' && (b == b'/' || b == b'.');
            last = b;
            is_pchar(b) && b != b';' && !dotted_or_empty
        })
}

const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path as it is: pchar and `/` (RFC 3986 section 3.3).
const fn is_pchar(b: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 256 {
            table[b] = is_unreserved(b as u8)
                || matches!(
                    b as u8,
                    b'!' | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b','
                        | b';'
                        | b'='
                        | b':'
                        | b'@'
                        | b'/'
                );
            b += 1;
        }
        table
    };
    TABLE[b as usize]
}

fn decode(raw: &[u8], keep_encoded_slash: bool, out: &mut String) -> Result<(), Rejection> {
    let mut previous = None; // the percent-encoded byte just before, for overlong UTF-8
    let mut i = 0;
    while i < raw.len() {
        let b = raw[i];
        i += 1;
        if b != b'%' {
            previous = None;
            match b {
                _ if is_pchar(b) => out.push(b as char),
                b'\\' => return Err(rules::path("The path holds a backslash.")),
                // Browsers send some of these as they are; they mean the same encoded.
                b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | b'[' | b']' => {
                    push_encoded(b, out)
                }
                _ => {
                    return Err(rules::head(
                        "The path holds a byte that may not stand there.",
                    ));
                }
            }
            continue;
        }
        let (Some(high), Some(low)) = (
            raw.get(i).and_then(|b| hex(*b)),
            raw.get(i + 1).and_then(|b| hex(*b)),
        ) else {
            return Err(rules::head("The path holds an invalid percent-encoding."));
        };
        i += 2;
        let byte = high << 4 | low;
        match byte {
            _ if is_unreserved(byte) => out.push(byte as char),
            b'/' if keep_encoded_slash => push_encoded(byte, out),
            b'/' | b'\\' => {
                return Err(rules::path("The path holds an encoded slash or backslash."));
            }
            0..=0x1f | 0x7f => return Err(rules::path("The path holds an encoded control byte.")),
            0xc0 | 0xc1 | 0xf5..=0xff => {
                return Err(rules::path(
                    "The path holds an encoding that is never UTF-8.",
                ));
            }
            0x80..=0x9f if previous == Some(0xe0) => {
                return Err(rules::path("The path holds overlong UTF-8."));
            }
            0x80..=0x8f if previous == Some(0xf0) => {
                return Err(rules::path("The path holds overlong UTF-8."));
            }
            _ => push_encoded(byte, out),
        }
        previous = Some(byte);
    }
    Ok(())
}

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

fn push_encoded(byte: u8, out: &mut String) {
    out.push('%');
    out.push(HEX[usize::from(byte >> 4)] as char);
    out.push(HEX[usize::from(byte & 15)] as char);
}

/// `%252e` decodes to `%2e` here and to `.` in whatever decodes twice.
fn refuse_double_encoding(path: &[u8]) -> Result<(), Rejection> {
    let double = |w: &[u8]| w.starts_with(b"%25") && w[3..].iter().all(u8::is_ascii_hexdigit);
    if path.windows(5).any(double) {
        return Err(rules::path("The path is percent-encoded twice."));
    }
    Ok(())
}

/// Removes empty and dot segments in place (RFC 3986 section 5.2.4, but never above the root).
fn resolve(out: &mut String) -> Result<(), Rejection> {
    let mut path = std::mem::take(out).into_bytes();
    let (mut read, mut write) = (0, 0); // both at a slash, or at the end
    while read < path.len() {
        let start = read + 1;
        let end = path[start..]
            .iter()
            .position(|&b| b == b'/')
            .map_or(path.len(), |n| start + n);
        let is_last = end == path.len();
        match kind_of(&path[start..end])? {
            Segment::Here if is_last => {
                path[write] = b'/';
                write += 1;
            }
            Segment::Here => {}
            Segment::Up if write == 0 => return Err(rules::path("The path leads above the root.")),
            Segment::Up => {
                write = path[..write].iter().rposition(|&b| b == b'/').unwrap_or(0);
                if is_last {
                    path[write] = b'/';
                    write += 1;
                }
            }
            Segment::Name => {
                path.copy_within(read..end, write);
                write += end - read;
            }
        }
        read = end;
    }
    path.truncate(write);
    // The bytes are ASCII: only whole ASCII segments were moved.
    *out = String::from_utf8(path).unwrap_or_default();
    Ok(())
}

enum Segment {
    /// Empty or `.`.
    Here,
    Up,
    Name,
}

fn kind_of(segment: &[u8]) -> Result<Segment, Rejection> {
    let dots = segment.iter().take_while(|&&b| b == b'.').count();
    let rest = &segment[dots..];
    match dots {
        0 if rest.is_empty() => Ok(Segment::Here),
        1 if rest.is_empty() => Ok(Segment::Here),
        2 if rest.is_empty() => Ok(Segment::Up),
        1 | 2 if rest.starts_with(b";") || rest.starts_with(b"%3B") => {
            Err(rules::path("The path holds a dot segment with parameters."))
        }
        _ => Ok(Segment::Name),
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
