//! `cargo xtask setup`: brings a fresh Debian or Ubuntu machine to where every other command works.
//! Looks first and installs only what is missing, so it is quick and silent on a machine that is ready.

use crate::bpf_toolchain::{self, Compiler};
use crate::command::{self, find_program, run_loud};
use anyhow::{Context, Result, bail};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also what only `cargo xtask bench` needs: NGINX, wrk, HAProxy, xdp-tools
    #[arg(long)]
    bench: bool,
}

/// What a command is about to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// Compiler and linker of the XDP program.
    filter: bool,
    /// Namespaces, addresses, HTTP clients.
    network: bool,
    /// clippy and rustfmt.
    checks: bool,
    /// Peers and load generators.
    bench: bool,
}

impl Need {
    const NOTHING: Need = Need {
        filter: false,
        network: false,
        checks: false,
        bench: false,
    };
    /// `build` asks for the filter's toolchain by itself.
    pub(crate) const RUN: Need = Need {
        network: true,
        ..Need::NOTHING
    };
    pub(crate) const FILTER: Need = Need {
        filter: true,
        ..Need::NOTHING
    };
    pub(crate) const TEST: Need = Need {
        filter: true,
        network: true,
        checks: true,
        bench: false,
    };
    pub(crate) const BENCH: Need = Need {
        filter: true,
        network: true,
        checks: false,
        bench: true,
    };
}

/// A program and the Debian package that brings it.
const NETWORK_TOOLS: &[(&str, &str)] = &[("ip", "iproute2"), ("curl", "curl")];
const BENCH_TOOLS: &[(&str, &str)] = &[
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("haproxy", "haproxy"),
    ("xdp-filter", "xdp-tools"),
];
const CHECK_TOOLS: &[(&str, &str)] = &[("cargo-clippy", "clippy"), ("cargo-fmt", "rustfmt")];
/// A compiler for the host with `core` for BPF beside it, and an LLVM that reads its bitcode.
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_COMPILER_LLVM: u32 = 22;
const BPF_LINKER: &str = "0.13.0";
/// Features of that bpf-linker release.
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The command: everything a developer needs, and a line that says what was there.
pub(crate) fn setup(arguments: &Arguments) -> Result<()> {
    let need = if arguments.bench {
        Need {
            checks: true,
            ..Need::BENCH
        }
    } else {
        Need::TEST
    };
    ensure(need)?;
    match bpf_toolchain::find() {
        Some(Compiler::NightlyWithSource) => println!("filter: nightly with rust-src, bpf-linker"),
        Some(Compiler::Debian) => {
            println!("filter: /usr/bin/rustc with a prebuilt core, bpf-linker")
        }
        None => println!("filter: no toolchain"),
    }
    println!("setup: everything is in place");
    Ok(())
}

/// Installs what is missing of `need`; nothing missing, nothing printed.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let mut packages = Vec::new();
    if need.network {
        packages.extend(missing_packages(NETWORK_TOOLS));
    }
    if need.bench {
        packages.extend(missing_packages(BENCH_TOOLS));
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if need.checks {
        ensure_components()?;
    }
    if need.filter {
        ensure_filter_toolchain()?;
    }
    Ok(())
}

fn missing_packages(tools: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    tools
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect()
}

fn ensure_components() -> Result<()> {
    for (program, component) in CHECK_TOOLS {
        if find_program(program).is_some() && component_works(component) {
            continue;
        }
        println!("setup: {component} is missing from this Rust toolchain");
        let added = run_loud(Command::new("rustup").args(["component", "add", component]));
        if added.is_err() {
            bail!(
                "{component} is missing and `rustup component add {component}` did not bring it; the test command cannot check without it"
            );
        }
    }
    Ok(())
}

/// rustup's proxies are always there; whether the component is, only running it tells.
fn component_works(component: &str) -> bool {
    let subcommand = if component == "rustfmt" {
        "fmt"
    } else {
        "clippy"
    };
    command::read(command::cargo().args([subcommand, "--version"])).is_some()
}

fn ensure_filter_toolchain() -> Result<()> {
    if bpf_toolchain::find().is_some() {
        return Ok(());
    }
    println!("setup: the kernel filter's toolchain is missing or incomplete");
    install_filter_toolchain().map_err(|error| {
        error.context(
            "cannot set up the kernel filter's toolchain on this machine (build with `--without-filter` to \
             go on without XDP, or install by hand a nightly with rust-src and a bpf-linker of its LLVM)",
        )
    })
}

/// What saves most downloads first: a nightly that is here, then Debian's compiler, then a new nightly.
fn install_filter_toolchain() -> Result<()> {
    let ways: [fn() -> Result<()>; 3] = [
        fit_linker_to_nightly,
        install_debian_compiler,
        install_nightly,
    ];
    let mut reasons = Vec::new();
    for way in ways {
        match way() {
            Ok(()) if bpf_toolchain::find().is_some() => return Ok(()),
            Ok(()) => {
                reasons.push("a compiler and bpf-linker, but they do not fit together".to_owned())
            }
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    bail!("{}", reasons.join("; "))
}

fn fit_linker_to_nightly() -> Result<()> {
    if !bpf_toolchain::compilers().contains(&Compiler::NightlyWithSource) {
        bail!("there is no nightly with rust-src");
    }
    let llvm = Compiler::NightlyWithSource
        .llvm_major()
        .context("nightly does not tell its LLVM")?;
    if !BPF_LINKER_LLVM.contains(&llvm) {
        bail!("bpf-linker {BPF_LINKER} does not know nightly's LLVM {llvm}");
    }
    install_linker(llvm)
}

fn install_debian_compiler() -> Result<()> {
    if !bpf_toolchain::compilers().contains(&Compiler::Debian) {
        install_packages(DEBIAN_COMPILER)?;
    }
    if bpf_toolchain::find().is_some() {
        return Ok(()); // a linker was there already
    }
    install_linker(DEBIAN_COMPILER_LLVM)
}

/// For distributions that do not have Debian's compiler.
fn install_nightly() -> Result<()> {
    let nightly = [
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ];
    run_loud(Command::new("rustup").args(nightly))?;
    if bpf_toolchain::find().is_some() {
        return Ok(());
    }
    fit_linker_to_nightly()
}

/// bpf-linker against one LLVM; replaces one that was built against an older LLVM.
fn install_linker(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut packages = Vec::new();
    let dev_package = format!("llvm-{llvm}-dev");
    if !std::path::Path::new(&prefix)
        .join("bin/llvm-config")
        .is_file()
    {
        packages.push(dev_package.as_str());
    }
    if find_program("c++").is_none() {
        packages.push("g++");
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    println!("setup: building bpf-linker {BPF_LINKER} against LLVM {llvm}: about half a minute");
    let mut cargo = command::cargo();
    cargo.current_dir("/").env("LLVM_PREFIX", prefix);
    cargo.args([
        "install",
        "--quiet",
        "--locked",
        "--force",
        "bpf-linker",
        "--version",
        BPF_LINKER,
    ]);
    cargo.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
    ]);
    run_loud(&mut cargo)
}

/// `apt-get update` and one `apt-get install`; only called when something is missing.
fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    println!("setup: installing {list}");
    if find_program("apt-get").is_none() {
        bail!("this is no Debian or Ubuntu: please install what brings {list}");
    }
    let root = command::is_root();
    if !root && find_program("sudo").is_none() {
        bail!(
            "not root and no sudo: please run `apt-get install --no-install-recommends {list}` as root"
        );
    }
    run_loud(apt(root).args(["update", "-qq"]))?;
    run_loud(
        apt(root)
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    )
}

fn apt(root: bool) -> Command {
    let mut command = if root {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}
