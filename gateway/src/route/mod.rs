//! Host -> path -> method -> header: which route a request takes. Pure.
//!
//! The most specific host that knows the path decides (exact, then the longest wildcard, then any),
//! and in it the most specific path (literal, then with parameters, then the longest prefix). Method
//! and header choose only among the routes of that one path: a request never slides from a path with
//! strict policies to a broader one with lax policies because its method is not listed there.

pub mod params;
pub mod spec;
pub mod table;

pub use params::Params;
pub use spec::{HeaderRule, HostPattern, RouteSpec};
pub use table::{Conflict, Match, NoRoute, RouteTable};
