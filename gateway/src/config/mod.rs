//! The config: TOML text -> raw mirror -> [`Snapshot`], or every error at once.

mod compile;
pub mod filter;
pub mod ids;
pub mod observe;
pub mod raw;
pub mod sections;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod upstreams;

pub use compile::{Compiled, compile};
pub use ids::Ids;
pub use snapshot::Snapshot;
