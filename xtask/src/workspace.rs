//! Where things are: the one place that knows the paths of this workspace.

use std::path::{Path, PathBuf};

/// Top of the workspace. Cargo says at run time where xtask's manifest is.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&manifest)
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's target directory, wherever the user has put it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The gateway's binary of one profile.
pub(crate) fn gateway_binary(release: bool) -> PathBuf {
    target()
        .join(if release { "release" } else { "debug" })
        .join("gateway")
}

/// The XDP program's crate: built for another target, so no member of the workspace.
pub(crate) fn ebpf_crate() -> PathBuf {
    root().join("gateway-ebpf")
}

pub(crate) fn ebpf_target() -> PathBuf {
    target().join("ebpf")
}

/// The linked eBPF object that the gateway embeds.
pub(crate) fn ebpf_object() -> PathBuf {
    ebpf_target()
        .join("bpfel-unknown-none")
        .join("release")
        .join("gateway-ebpf")
}
