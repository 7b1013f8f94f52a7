//! A request head that has passed every syntax rule. Borrowed from the connection's buffer.

use std::fmt;

/// One field line. The name is a token as the client wrote it; compare with [`Header::is`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'b> {
    pub name: &'b str,
    /// Trimmed; no control bytes but tab; may hold bytes above 0x7f.
    pub value: &'b [u8],
}

impl<'b> Header<'b> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value where it is visible ASCII (the usual case), else `None`.
    pub fn text(&self) -> Option<&'b str> {
        std::str::from_utf8(self.value).ok()
    }
}

impl fmt::Debug for Header<'_> {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How long the body is (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
}

#[derive(Clone, Debug)]
pub struct RequestHead<'b> {
    /// A token of at most 32 bytes, case kept.
    pub method: &'b str,
    pub version: Version,
    /// The one path used to match, decide, log and forward: starts with `/`, dot segments resolved,
    /// percent-encoding canonical (unreserved bytes decoded, the rest upper case). `*` for `OPTIONS *`.
    pub path: &'b str,
    /// Without the `?`. Percent-encoding as sent, visible ASCII only.
    pub query: Option<&'b str>,
    /// Lower case, without port, without a trailing dot. An IPv6 literal keeps its brackets.
    /// Empty only for HTTP/1.0 without Host.
    pub host: &'b str,
    /// In order, Host included; fields with `_` in the name already dropped.
    pub headers: &'b [Header<'b>],
    pub framing: Framing,
    /// The client wants the connection kept (RFC 9112 section 9.3).
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// `Connection: upgrade` with `Upgrade: websocket`.
    pub websocket: bool,
}

impl<'b> RequestHead<'b> {
    /// The first field of that name.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|h| h.is(name)).map(|h| h.value)
    }

    /// The only field of that name: `Err` when it stands more than once, for fields where a second
    /// copy would be a way to mean two things (credentials, content type).
    #[allow(clippy::result_unit_err, reason = "twice is all there is to say")]
    pub fn single(&self, name: &str) -> Result<Option<&'b [u8]>, ()> {
        let mut all = self.headers.iter().filter(|h| h.is(name));
        match (all.next(), all.next()) {
            (first, None) => Ok(first.map(|h| h.value)),
            _ => Err(()),
        }
    }
}
