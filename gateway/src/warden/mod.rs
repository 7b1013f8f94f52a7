//! The privileged half: one thread, no runtime, no byte from a client. It reads the config, attaches the filter,
//! binds the sockets, forks the worker, and then only waits: for signals, for the worker's end, and for the few
//! things the worker may ask for.
//!
//! `load -> place -> filter -> sockets -> spawn -> supervise`; `prepare`, `lifecycle` and `publish` are the
//! supervisor's other halves.

mod allowance;
mod backoff;
pub mod channel;
mod filter;
mod lifecycle;
pub mod load;
mod notify;
mod place;
mod prepare;
mod publish;
mod restart;
pub mod sockets;
mod spawn;
mod supervise;

pub use supervise::run;
