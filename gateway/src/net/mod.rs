//! The I/O edge: the only files that name tokio_uring or io_uring. Above the operations: streams
//! (plain or TLS), deadlines, pools; above those: connections and their exchanges.
//!
//! A connection's walk: `core` accepts -> `conn` waits -> `exchange` reads and decides -> `forward`
//! (`dial`, `upload`, `relay`, `response`, `tunnel`) -> `finish`.

mod buffers;
mod conn;
pub mod core;
mod deadline;
mod dial;
mod exchange;
mod finish;
mod forward;
mod op;
mod pool;
mod relay;
mod response;
mod rules;
pub mod shared;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod simulation;
mod socket;
mod stream;
mod tunnel;
mod upload;

pub use core::{CoreStart, spawn};
pub use shared::Shared;
