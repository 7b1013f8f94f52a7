//! Stops a build without the instruction set the program needs, with the flags that give it.

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let for_bpf = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf");
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    assert!(
        !for_bpf || flags.contains("target-cpu=v3"),
        "compare-and-swap needs -Ctarget-cpu=v3; build with `cargo xtask build`, which passes\n  \
         CARGO_ENCODED_RUSTFLAGS=-Cdebuginfo=2\\x1f-Clink-arg=--btf\\x1f-Ctarget-cpu=v3\\x1f-Clink-arg=--cpu-features=+allows-misaligned-mem-access"
    );
}
