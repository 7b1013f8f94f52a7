//! What crosses the boundary between the XDP program and the daemon, and the pure code both run.
//!
//! - [`abi`]: keys, values, knobs, counters and events, with their layouts asserted
//! - [`gcra`]: admission by one word of state
//! - [`packet`]: header parsing over a bounds-checked cursor
//! - [`source`]: the set-associative table of sources
//! - [`verdict`]: the order in which a packet is judged
//!
//! Nothing here knows a kernel or a socket: the XDP program supplies packet and tables, the tests supply
//! slices and vectors, and both get the same verdict for the same frame.

#![no_std]

pub mod abi;
pub mod gcra;
pub mod packet;
pub mod source;
pub mod verdict;

#[cfg(test)]
mod tests;
