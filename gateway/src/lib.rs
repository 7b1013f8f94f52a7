//! The gateway: an XDP filter in front, one io_uring proxy thread per core behind.
//!
//! Code map, in dependency order (a module may use those above it, never those below; `xtask tidy` checks):
//!
//! - [`clock`], [`outcome`], [`diagnose`], [`units`]: time, endings, config errors and units as values
//! - [`http`]: HTTP/1.1 without I/O · [`tls`]: certificates and sessions · [`limit`]: shared bounded tables
//!   · [`anomaly`]: baselines and detectors · [`route`]: matching
//! - [`policy`]: one file per policy, and the chain that alone makes a permit
//! - [`upstream`]: targets and balancing
//! - [`config`]: TOML -> [`config::Snapshot`]
//! - [`pipeline`]: the stages composed, and the record of one exchange
//! - [`observe`]: access log, audit log, metrics, alerts
//! - [`kernel`]: user-space half of the filter (names aya) · [`net`]: the I/O edge (names tokio_uring)
//! - [`admin`]: the admin API
//! - [`demo`]: a first run's material, network and upstream
//! - [`boot`], [`warden`], [`privilege`]: start, stop, and what may still be done after start
//! - [`cli`]: arguments and subcommands

#![deny(unsafe_code)]

pub mod admin;
pub mod anomaly;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod diagnose;
pub mod http;
pub mod kernel;
pub mod limit;
pub mod net;
pub mod observe;
pub mod outcome;
pub mod pipeline;
pub mod policy;
pub mod privilege;
pub mod route;
pub mod tls;
pub mod units;
pub mod upstream;
pub mod warden;
