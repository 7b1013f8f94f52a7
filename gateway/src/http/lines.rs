//! The strict pass over the lines of a head, before the tokeniser sees them: line ends, control
//! bytes, folds and field names. Shared by requests, responses and trailers, so that no lenience of
//! the tokeniser can slip through. Works on prefixes: an impossible byte is found as soon as it is there.

use memchr::memchr;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    BareLf,
    Control,
    Fold,
    FieldName,
    TooLarge,
}

impl Flaw {
    pub(super) fn detail(self) -> &'static str {
        match self {
            Flaw::BareLf => "A line must end with CR LF.",
            Flaw::Control => "The head holds a control byte.",
            Flaw::Fold => "Folded field lines are not accepted.",
            Flaw::FieldName => "A field name is not a token followed by a colon.",
            Flaw::TooLarge => "The head is larger than allowed.",
        }
    }
}

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = matches!(b as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    table
}

static TOKEN: [bool; 256] = token_table();

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_tchar(b: u8) -> bool {
    TOKEN[b as usize]
}

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_tchar(b))
}

/// Whether any byte may not stand in a line: controls but HTAB, and DEL. Without branches, so that it vectorises.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |bad, &b| {
        bad | ((b < 0x20) & (b != b'\t')) | (b == 0x7f)
    })
}

/// Where the field section that starts at `buf[from]` ends, its empty line included. `None`: more bytes are needed.
pub(super) fn fields_end(buf: &[u8], from: usize, bytes_max: usize) -> Result<Option<usize>, Flaw> {
    let window = &buf[..buf.len().min(bytes_max)];
    let mut start = from.min(window.len());
    loop {
        let rest = &window[start..];
        let Some(line_feed) = memchr(b'\n', rest) else {
            // A CR at the very end may still become a line end.
            let partial = rest.strip_suffix(b"\r").unwrap_or(rest);
            check_line(partial, rest.len() != partial.len())?;
            return if buf.len() >= bytes_max {
                Err(Flaw::TooLarge)
            } else {
                Ok(None)
            };
        };
        let Some(line) = rest[..line_feed].strip_suffix(b"\r") else {
            return Err(Flaw::BareLf);
        };
        if line.is_empty() {
            return Ok(Some(start + line_feed + 1));
        }
        check_line(line, true)?;
        start += line_feed + 1;
    }
}

/// A field line without its line end, or the prefix of one.
fn check_line(line: &[u8], complete: bool) -> Result<(), Flaw> {
    let Some(&first) = line.first() else {
        return Ok(());
    };
    if first == b' ' || first == b'\t' {
        return Err(Flaw::Fold);
    }
    match line.iter().position(|&b| !is_tchar(b)) {
        Some(at) if at > 0 && line[at] == b':' => {
            if has_control(&line[at..]) {
                return Err(Flaw::Control);
            }
            Ok(())
        }
        Some(_) => Err(Flaw::FieldName),
        None if complete => Err(Flaw::FieldName),
        None => Ok(()),
    }
}
