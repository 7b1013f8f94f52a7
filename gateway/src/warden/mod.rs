//! The privileged half: one thread, no runtime, no byte from a client. It reads the config, attaches the filter,
//! binds the sockets, forks the worker, and then only waits: for signals, for the worker's end, and for the few
//! things the worker may ask for.
//!
//! `load -> place -> filter -> sockets -> spawn -> supervise`

mod backoff;
pub mod channel;
mod filter;
pub mod load;
mod notify;
mod place;
mod restart;
pub mod sockets;
mod spawn;
mod supervise;

pub use supervise::run;
