//! `cargo xtask`: everything a person or CI does with this workspace. One file per command.

mod bench;
mod bpf_toolchain;
mod build;
mod command;
mod lint;
mod run;
mod setup;
mod test;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, build, run, test, bench and tidy"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this Debian or Ubuntu machine
    Setup(setup::Arguments),
    /// Build the kernel filter, then the gateway with the filter inside
    Build(build::Arguments),
    /// Build everything and start the demo: gateway, upstream, certificates, keys, network
    Run(run::Arguments),
    /// Format, tidy, lint, build and all tests, as in CI
    Test(test::Arguments),
    /// Measure against peers and write docs/benchmarks.md
    Bench(bench::Arguments),
    /// Check the rules of docs/architecture.md that a compiler does not know
    Tidy,
    /// Format all code
    Fmt,
    /// Clippy with warnings as errors
    Lint,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup(arguments) => setup::setup(&arguments),
        Command::Build(arguments) => build::build(&arguments).map(drop),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Tidy => tidy::tidy(),
        Command::Fmt => lint::format(),
        Command::Lint => lint::lint(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
