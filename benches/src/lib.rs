//! Benches: what a request, a decision and a packet cost, beside peers on the same work.
//!
//! - [`report`], [`run`]: rows of figures, and the run they come from
//! - [`cpu`]: which core a process runs on, and what it has used of it
//! - [`upstream`], [`load`], [`tls`]: both ends of a proxied request, light enough that the proxy is the bottleneck
//! - [`probe`]: one request, looked at closely, before anything is timed
//! - [`subject`], [`process`]: the proxies under test, tuned alike, started and stopped
//! - [`batches`]: nanoseconds per call, as the median over batches
//!
//! One binary per suite in `src/bin`; `cargo xtask bench` runs them.

pub mod batches;
pub mod cpu;
pub mod load;
pub mod probe;
pub mod process;
pub mod report;
pub mod run;
pub mod subject;
pub mod tls;
pub mod upstream;
