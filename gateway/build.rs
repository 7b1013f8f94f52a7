//! Embeds the XDP object that `cargo xtask build` made, where there is one.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=GATEWAY_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let named = env::var_os("GATEWAY_BPF_OBJECT").map(PathBuf::from);
    let beside = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../target/ebpf/bpfel-unknown-none/release/gateway-ebpf");
    let object = named.unwrap_or(beside);
    println!("cargo::rerun-if-changed={}", object.display());
    // An empty file stands for "built without"; the loader says so. A plain `cargo check` must not need the BPF toolchain.
    let bytes = fs::read(&object).unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("filter.o");
    if let Err(e) = fs::write(&out, bytes) {
        panic!("cannot write {}: {e}", out.display());
    }
}
