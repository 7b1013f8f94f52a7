//! The upstream of the proxy suite as a process: `bench-upstream [ADDRESS:PORT]`, prints where it listens.

use anyhow::{Context, Result};
use gateway_benches::upstream::Upstream;
use std::net::TcpListener;

fn main() -> Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(&address).with_context(|| format!("listen on {address}"))?;
    println!("{}", listener.local_addr()?);
    Upstream::new(listener)?.run()
}
