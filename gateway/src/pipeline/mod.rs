//! The stages of a request composed: route, policies, upstream. Synchronous and pure.

pub mod exchange;
pub mod request;
#[cfg(test)]
mod tests;

pub use exchange::Exchange;
pub use request::{AwaitingBody, Notes, Plan, Stage, Step};
