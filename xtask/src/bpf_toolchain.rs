//! Which compiler builds the XDP program. It needs `core` for the `bpfel-unknown-none` target, which
//! rustup's stable toolchains do not have, and a bpf-linker whose LLVM can read that compiler's bitcode.
//!
//! Two sources: a nightly with rust-src compiles `core` itself; Debian's `rustc-web` ships it compiled.

use crate::{command, workspace};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler: called by path, because rustup's comes first in PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// `rustup run nightly`, with `-Zbuild-std=core`.
    NightlyWithSource,
    /// `/usr/bin/rustc` with a prebuilt `core`.
    Debian,
}

/// The compiler to use, with a linker that understands it.
pub(crate) fn find() -> Option<Compiler> {
    let linker_llvm = linker_llvm()?;
    [Compiler::NightlyWithSource, Compiler::Debian]
        .into_iter()
        .find(|compiler| {
            let llvm = compiler.llvm_major();
            compiler.has_core() && linker_reads(linker_llvm, llvm)
        })
}

/// The compilers on this machine that can build `core` for the target, best first, linker or not.
pub(crate) fn compilers() -> Vec<Compiler> {
    [Compiler::NightlyWithSource, Compiler::Debian]
        .into_iter()
        .filter(|compiler| compiler.has_core())
        .collect()
}

impl Compiler {
    fn has_core(self) -> bool {
        let Some(sysroot) = command::read(self.rustc().args(["--print", "sysroot"])) else {
            return false;
        };
        let libraries = Path::new(&sysroot).join("lib/rustlib");
        match self {
            Compiler::NightlyWithSource => libraries.join("src/rust/library/core").is_dir(),
            Compiler::Debian => libraries.join(TARGET).join("lib").is_dir(),
        }
    }

    /// Major version of the LLVM inside, as `rustc -vV` tells.
    pub(crate) fn llvm_major(self) -> Option<u32> {
        let text = command::read(self.rustc().arg("-vV"))?;
        let version = text
            .lines()
            .find_map(|l| l.strip_prefix("LLVM version: "))?;
        version.split('.').next()?.parse().ok()
    }

    fn rustc(self) -> Command {
        match self {
            Compiler::NightlyWithSource => {
                let mut rustup = clean("rustup");
                rustup.args(["run", "nightly", "rustc"]);
                rustup
            }
            Compiler::Debian => clean(DEBIAN_RUSTC),
        }
    }

    /// `cargo build` of the XDP program, up to the arguments that are the same for both.
    fn cargo(self) -> Command {
        match self {
            Compiler::NightlyWithSource => {
                let mut rustup = clean("rustup");
                rustup.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                rustup
            }
            Compiler::Debian => {
                let mut cargo = clean(std::env::var("CARGO").as_deref().unwrap_or("cargo"));
                // Target bpfel-unknown-none is tier 3: its attributes are unstable on every channel.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo.arg("build");
                cargo
            }
        }
    }
}

/// Builds the XDP program in `crate_dir` and returns the linked object.
pub(crate) fn build(compiler: Compiler, crate_dir: &Path) -> Result<PathBuf> {
    let mut cargo = compiler.cargo();
    cargo.current_dir(crate_dir);
    cargo.args(["--release", "--target", TARGET]);
    if crate_dir.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    cargo.arg("--target-dir").arg(workspace::ebpf_target());
    // --btf: CO-RE and map types. The other two turn an unaligned read into one load (a sixth fewer instructions).
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        [
            "-Cdebuginfo=2",
            "-Ctarget-cpu=v3",
            "-Clink-arg=--btf",
            "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
        ]
        .join("\x1f"),
    );
    command::run(&mut cargo)?;
    let object = workspace::ebpf_object();
    if !object.is_file() {
        bail!(
            "the filter was built, but {} is missing: is its binary still named gateway-ebpf?",
            object.display()
        );
    }
    Ok(object)
}

/// A command without what `cargo xtask` hands down: toolchain, compiler and flags of the host build would
/// win over the ones chosen here, and its library path would shadow the other compiler's libraries.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_PROFILE_")
            || matches!(
                &*text,
                "CARGO"
                    | "CARGO_ENCODED_RUSTFLAGS"
                    | "CARGO_TARGET_DIR"
                    | "LD_LIBRARY_PATH"
                    | "RUSTC"
                    | "RUSTC_WRAPPER"
                    | "RUSTC_WORKSPACE_WRAPPER"
                    | "RUSTDOC"
                    | "RUSTFLAGS"
                    | "RUSTUP_TOOLCHAIN"
            );
        if inherited {
            command.env_remove(&name);
        }
    }
    if let Some(bin) = command::cargo_bin() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let with_bin = std::env::split_paths(&path).chain([bin]);
        if let Ok(joined) = std::env::join_paths(with_bin) {
            command.env("PATH", joined);
        }
    }
    // A missing toolchain is an answer here, not a reason to download one.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// LLVM of the installed bpf-linker: `Some(None)` when it works but does not say (linked statically).
fn linker_llvm() -> Option<Option<u32>> {
    let linker = command::find_program("bpf-linker")?;
    command::read(Command::new(&linker).arg("--version"))?;
    let libraries = command::read(Command::new("ldd").arg(&linker)).unwrap_or_default();
    Some(llvm_of_libraries(&libraries))
}

/// From `libLLVM.so.22.1 => …` or `libLLVM-19.so.1 => …`.
fn llvm_of_libraries(ldd: &str) -> Option<u32> {
    let name = ldd
        .split_whitespace()
        .find(|word| word.starts_with("libLLVM"))?;
    name.split(|c: char| !c.is_ascii_digit())
        .find(|digits| !digits.is_empty())?
        .parse()
        .ok()
}

/// LLVM reads bitcode of its own age and older, never newer.
fn linker_reads(linker_llvm: Option<u32>, compiler_llvm: Option<u32>) -> bool {
    match (linker_llvm, compiler_llvm) {
        (Some(linker), Some(compiler)) => linker >= compiler,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_llvm_is_read_from_its_libraries() {
        let new = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x1)";
        assert_eq!(llvm_of_libraries(new), Some(22));
        let old = "libm.so.6 => /lib/libm.so.6\n\tlibLLVM-19.so.1 => /lib/x (0x1)";
        assert_eq!(llvm_of_libraries(old), Some(19));
        assert_eq!(llvm_of_libraries("libc.so.6 => /lib/libc.so.6"), None);
    }

    #[test]
    fn an_older_linker_is_no_linker() {
        assert!(linker_reads(Some(22), Some(22)));
        assert!(linker_reads(Some(23), Some(22)));
        assert!(!linker_reads(Some(22), Some(23)));
        assert!(linker_reads(None, Some(23)));
    }
}
