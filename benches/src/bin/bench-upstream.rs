//! The upstream of the proxy suite by itself: `bench-upstream [ADDRESS:PORT]`, prints where it listens.

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1);
    gateway_benches::upstream::serve(address.as_deref().unwrap_or("127.0.0.1:0"))
}
