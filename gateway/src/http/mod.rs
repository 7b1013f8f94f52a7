//! HTTP/1.1 without I/O: bytes in, values out. Strict by default (RFC 9112 section 11): what can be
//! read in two ways is refused, never repaired.

pub mod body;
pub mod chunked;
pub mod encode;
mod fields;
mod framing;
pub mod head;
mod host;
mod lines;
pub mod parse;
pub mod path;
pub mod reply;
mod request_line;
pub mod response;
mod rules;
mod space;
mod target;

pub use chunked::{ChunkEvent, ChunkedDecoder, LAST_CHUNK, encode_chunk_head};
pub use encode::{BodyOut, ForwardFields, encode_request};
pub use head::{Framing, Header, RequestHead, Version};
pub use parse::{AmbiguousPath, HeadLimits, HeadScratch, Parsed, Underscores, parse};
pub use reply::{CONTINUE, fault, problem};
pub use response::{ResponseFraming, ResponseHead, encode_response, parse_response};
pub use space::HeaderSpace;

/// A host as requests will have it ([`RequestHead::host`]), or `None` where it is none or has a port: for config.
pub fn canonical_host_name(text: &str) -> Option<String> {
    let mut out = String::new();
    let port = host::canonical_host(text.as_bytes(), &mut out).ok()?;
    port.is_empty().then_some(out)
}
