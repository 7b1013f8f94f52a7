//! HTTP/1.1 without I/O: bytes in, values out. Strict by default (RFC 9112 section 11): what can be
//! read in two ways is refused, never repaired.

mod framing;
pub mod head;
mod host;
mod lines;
pub mod parse;
pub mod path;
mod rules;
mod target;

pub use head::{Framing, Header, RequestHead, Version};
pub use parse::{AmbiguousPath, HeadLimits, HeadScratch, HeaderSpace, Parsed, Underscores, parse};
