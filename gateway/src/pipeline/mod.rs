//! The stages of a request composed: route, policies, upstream. Synchronous and pure.

pub mod exchange;

pub use exchange::Exchange;
