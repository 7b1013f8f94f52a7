//! The length of a message, from its fields: one meaning or none (RFC 9112 section 6).

/// Longest Content-Length taken: far above any body, far below overflow.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// Elements of all Connection fields of a head: each field is held against each of them.
pub(super) const CONNECTION_OPTIONS_MAX: usize = 32;

/// Content-Length and Transfer-Encoding as they were seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyFields {
    pub(super) length: Option<u64>,
    pub(super) coding: Option<Coding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Chunked,
    /// A coding of its own, not implemented here.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingFlaw {
    LengthInvalid,
    LengthTwice,
    CodingInvalid,
    CodingTwice,
}

impl FramingFlaw {
    pub(super) fn detail(self) -> &'static str {
        match self {
            FramingFlaw::LengthInvalid => "Content-Length is not one decimal number.",
            FramingFlaw::LengthTwice => "Content-Length stands twice.",
            FramingFlaw::CodingInvalid => "Transfer-Encoding is not exactly chunked.",
            FramingFlaw::CodingTwice => "Transfer-Encoding stands twice.",
        }
    }
}

impl BodyFields {
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), FramingFlaw> {
        if self.length.is_some() {
            return Err(FramingFlaw::LengthTwice);
        }
        self.length = Some(decimal(value).ok_or(FramingFlaw::LengthInvalid)?);
        Ok(())
    }

    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), FramingFlaw> {
        if self.coding.is_some() {
            return Err(FramingFlaw::CodingTwice);
        }
        let chunked_somewhere = value.windows(7).any(|w| w.eq_ignore_ascii_case(b"chunked"));
        self.coding = if value.eq_ignore_ascii_case(b"chunked") {
            Some(Coding::Chunked)
        } else if super::lines::is_token(value) && !chunked_somewhere {
            Some(Coding::Unknown)
        } else {
            return Err(FramingFlaw::CodingInvalid);
        };
        Ok(())
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value
        .iter()
        .try_fold(0u64, |n, &b| {
            b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0'))
        })
        .filter(|n| *n <= LENGTH_MAX)
}

/// The elements of a comma-separated list, trimmed, empty ones left out.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|e| !e.is_empty())
}
