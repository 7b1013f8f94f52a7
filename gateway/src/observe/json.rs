//! JSON written by hand into a reused buffer: no allocation, and no way for a peer's bytes to leave their string.

use std::fmt::Display;
use std::io::Write as _;

/// Writes one object, member by member. Keys are ours, so they are not escaped.
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Object<'o> {
    /// Opens `{`; [`Object::end`] closes it.
    pub fn begin(out: &'o mut Vec<u8>) -> Object<'o> {
        out.push(b'{');
        Object { out, first: true }
    }

    pub fn end(self) {
        self.out.push(b'}');
    }

    /// Writes the key; the caller writes exactly one value.
    pub fn raw(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A string of any origin, escaped and cut at `cap` bytes.
    pub fn text(&mut self, key: &str, value: &str, cap: usize) {
        string(self.raw(key), value.as_bytes(), cap);
    }

    pub fn text_or_null(&mut self, key: &str, value: Option<&str>, cap: usize) {
        match value {
            Some(value) => self.text(key, value, cap),
            None => self.null(key),
        }
    }

    pub fn number(&mut self, key: &str, value: u64) {
        let mut digits = itoa::Buffer::new();
        self.raw(key)
            .extend_from_slice(digits.format(value).as_bytes());
    }

    pub fn null(&mut self, key: &str) {
        self.raw(key).extend_from_slice(b"null");
    }

    /// A value whose text form needs no escaping: addresses.
    pub fn plain(&mut self, key: &str, value: impl Display) {
        let out = self.raw(key);
        out.push(b'"');
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{value}");
        out.push(b'"');
    }

    /// Bytes as lower-case hex digits.
    pub fn hex(&mut self, key: &str, bytes: &[u8]) {
        let out = self.raw(key);
        out.push(b'"');
        hex(out, bytes);
        out.push(b'"');
    }

    pub fn object(&mut self, key: &str) -> Object<'_> {
        Object::begin(self.raw(key))
    }
}

/// Appends lower-case hex digits.
pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Appends a quoted string. Beyond `cap` bytes of input the rest is replaced by `…`. Invalid UTF-8 becomes U+FFFD.
/// Escaped are, beside what JSON demands: DEL and the C1 controls (terminals obey them), the line separators
/// U+2028/9, and the marks that reorder or hide text on a screen.
pub fn string(out: &mut Vec<u8>, value: &[u8], cap: usize) {
    out.push(b'"');
    let (kept, cut) = if value.len() > cap {
        (&value[..char_start(value, cap)], true)
    } else {
        (value, false)
    };
    if kept.iter().all(|b| PLAIN[usize::from(*b)]) {
        out.extend_from_slice(kept);
    } else {
        escape(out, kept);
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// Printable ASCII but `"` and `\`.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0x20;
    while b < 0x7f {
        table[b] = b != b'"' as usize && b != b'\\' as usize;
        b += 1;
    }
    table
};

/// The last place at or before `at` that does not split a UTF-8 sequence.
fn char_start(value: &[u8], at: usize) -> usize {
    (at.saturating_sub(3)..=at)
        .rev()
        .find(|i| value[*i] & 0xC0 != 0x80)
        .unwrap_or(at)
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            escape_char(out, c);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

fn escape_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => escape_code(out, c),
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => escape_code(out, c),
        _ => {
            let mut utf8 = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
    }
}

fn escape_code(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(b"\\u");
    hex(out, &(c as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(value: &[u8], cap: usize) -> String {
        let mut out = Vec::new();
        string(&mut out, value, cap);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes() {
        for (raw, text) in [
            (&b"plain /a?b"[..], r#""plain /a?b""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (
                b"a\r\n\t\x00\x1b[31m\x7f",
                "\"a\\r\\n\\t\\u0000\\u001b[31m\\u007f\"",
            ),
            (b"\xff\xc3(", "\"\u{fffd}\u{fffd}(\""),
            (
                "ü\u{2028}\u{2029}\u{202e}\u{9b}".as_bytes(),
                r#""ü\u2028\u2029\u202e\u009b""#,
            ),
        ] {
            assert_eq!(quoted(raw, 100), text);
        }
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(quoted(b"abcd", 4), r#""abcd""#);
        assert_eq!(quoted(b"abcde", 4), r#""abcd…""#);
        assert_eq!(quoted("aüb".as_bytes(), 2), r#""a…""#);
        assert_eq!(quoted("aüb".as_bytes(), 3), r#""aü…""#);
        assert_eq!(quoted(b"a", 0), r#""…""#);
    }

    proptest! {
        #[test]
        fn any_bytes_stay_one_json_string(bytes in proptest::collection::vec(any::<u8>(), 0..200), cap in 0usize..200) {
            let text = quoted(&bytes, cap);
            let raw = text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
            prop_assert!(!raw);
            let back: String = serde_json::from_str(&text).unwrap();
            if bytes.len() <= cap {
                prop_assert_eq!(back, String::from_utf8_lossy(&bytes));
            }
        }
    }
}
