//! From TOML to what the program runs on.

pub mod filter;
