//! The config: TOML text -> raw mirror -> [`Snapshot`], or every error at once.

pub mod observe;
pub mod raw;
pub mod sections;
