//! What the benches share.

pub mod report;
