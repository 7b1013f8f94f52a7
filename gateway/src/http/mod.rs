//! HTTP/1.1 without I/O: bytes in, values out. Strict by default (RFC 9112 section 11): what can be
//! read in two ways is refused, never repaired.

pub mod head;

pub use head::{Framing, Header, RequestHead, Version};
