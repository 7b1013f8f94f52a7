//! A Rust file as the checks see it: the code without comments and literals, line by line, and which
//! lines are only compiled for tests.

use super::Finding;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

pub(crate) struct Source {
    /// From the top of the workspace, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// As long as `text`: comments, strings and characters blanked, lines kept.
    pub(crate) code: String,
    /// `code` with `#[cfg(test)]` items blanked too; empty for a file that is only compiled for tests.
    pub(crate) shipped: String,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Source {
        let (path, text) = (path.into(), text.into());
        let code = blank_comments_and_literals(&text);
        let test_file = path.ends_with("/tests.rs") || path.contains("/tests/");
        let shipped = if test_file {
            String::new()
        } else {
            blank_test_items(&code)
        };
        Source {
            path,
            text,
            code,
            shipped,
        }
    }

    pub(crate) fn finding(&self, line: usize, why: impl Into<String>) -> Finding {
        Finding {
            file: self.path.clone(),
            line,
            why: why.into(),
        }
    }
}

/// Line number, from 1, of a byte offset.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].bytes().filter(|byte| *byte == b'\n').count() + 1
}

/// Offsets where `word` stands alone, not as part of a longer name.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(is_name) && !after.is_some_and(is_name)
        })
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All `.rs` files below a directory that is part of the source, in order; none if it does not exist.
pub(crate) fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !directory.is_dir() {
        return Ok(files);
    }
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                files.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Same length, same lines; what is not code becomes spaces.
fn blank_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment_end(bytes, at);
        match end {
            Some(end) => {
                blank(&mut out[at..end]);
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_or_comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let length = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        return Some(at + length);
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment_length(rest));
    }
    if rest[0] == b'"' {
        return Some(at + string_length(rest));
    }
    if rest[0] == b'\'' {
        return char_length(rest).map(|length| at + length);
    }
    let inside_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let raw_start = if rest.starts_with(b"br") || rest.starts_with(b"cr") {
        2
    } else {
        1
    };
    if !inside_name && (rest[0] == b'r' || raw_start == 2) {
        let hashes = rest[raw_start..].iter().take_while(|b| **b == b'#').count();
        if rest.get(raw_start + hashes) == Some(&b'"') {
            return Some(at + raw_string_length(rest, raw_start + hashes + 1, hashes));
        }
    }
    None
}

/// Block comments nest.
fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8], body: usize, hashes: usize) -> usize {
    let mut at = body;
    while at < rest.len() {
        let closing = rest[at] == b'"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|b| **b == b'#')
                .count()
                == hashes;
        at += 1;
        if closing {
            return at + hashes;
        }
    }
    rest.len()
}

/// A character literal, or `None` for a lifetime.
fn char_length(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        // At least one byte after the backslash belongs to the literal: '\''.
        let close = rest.iter().skip(3).position(|b| *b == b'\'')?;
        return Some(3 + close + 1);
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let valid = text.map_or_else(|error| error.valid_up_to(), str::len);
    let first = std::str::from_utf8(&rest[1..1 + valid])
        .ok()?
        .chars()
        .next()?;
    (rest.get(1 + first.len_utf8()) == Some(&b'\'')).then_some(first.len_utf8() + 2)
}

/// The item after each `#[cfg(test)]`, up to its closing brace or semicolon.
fn blank_test_items(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0_usize;
        let mut end = code.len();
        for (at, byte) in code.bytes().enumerate().skip(start + attribute.len()) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth = depth.saturating_sub(1),
                b';' if depth == 0 => {}
                _ => continue,
            }
            if depth == 0 {
                end = at + 1;
                break;
            }
        }
        blank(&mut out[start..end]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let table = [
            ("a // b\nc", "a     \nc"),
            ("a /* /* */ b */ c", "a               c"),
            (r#"f("x\"y", z)"#, "f(      , z)"),
            (r##"f(r#"a"b"#)"##, "f(        )"),
            (
                "f('\"', '\\'', 'é', x)",
                "f(   ,     ,     , x)"[..].trim_end(),
            ),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("for r in bar {}", "for r in bar {}"),
        ];
        for (text, code) in table {
            let got = blank_comments_and_literals(text);
            assert_eq!(
                got.split_whitespace().collect::<Vec<_>>(),
                code.split_whitespace().collect::<Vec<_>>(),
                "{text}"
            );
            assert_eq!(got.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn test_items_are_not_shipped() {
        let source = Source::new(
            "gateway/src/x.rs",
            "a();\n#[cfg(test)]\nmod tests {\n fn f() { b(); }\n}\nc();",
        );
        assert!(source.shipped.contains("a()") && source.shipped.contains("c()"));
        assert!(!source.shipped.contains("b()"));
        assert!(source.code.contains("b()"));
        let outside = Source::new("gateway/src/x.rs", "#[cfg(test)]\nmod tests;\nd();");
        assert!(outside.shipped.contains("d()"));
        assert!(
            Source::new("gateway/src/x/tests.rs", "e();")
                .shipped
                .is_empty()
        );
    }

    #[test]
    fn words_are_whole() {
        let code = "aya aya_log maya ::aya::x";
        assert_eq!(words(code, "aya").collect::<Vec<_>>(), [0, 19]);
    }
}
