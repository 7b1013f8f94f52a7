//! Arguments and subcommands: one file each. Every command ends in an exit code: 0 done, 1 failed, 2 misused.

mod audit;
mod bans;
mod check;
mod demo;
mod key;
mod logging;
mod reload;
mod run;
mod status;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// An API gateway with a kernel filter: XDP in front, one io_uring proxy thread per core behind.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Unix socket of the running gateway's admin API.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/gateway/admin.sock"
    )]
    admin_socket: PathBuf,
    /// More log lines on stderr; twice for all. RUST_LOG, where set, decides instead.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How log lines on stderr are written.
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Text)]
    log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway in the foreground until SIGTERM, then drains.
    Run(run::Args),
    /// Compiles a config and prints everything wrong with it, without touching a running gateway.
    Check(check::Args),
    /// Makes the running gateway read its config and the files it names again; all of it or nothing.
    Reload(reload::Args),
    /// Shows how the running gateway is doing.
    Status(status::Args),
    /// Lists, adds and removes bans of addresses and prefixes.
    #[command(subcommand)]
    Bans(bans::Command),
    /// Makes API keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Checks audit logs offline.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Runs the gateway with a demo config, certificates, keys and an upstream of its own.
    Demo(demo::Args),
    /// Runs the demo's upstream alone: echo, JSON, slow and streaming answers.
    DemoUpstream(demo::UpstreamArgs),
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.global.log_format, cli.global.verbose);
    let socket = &cli.global.admin_socket;
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Reload(args) => reload::run(&args, socket),
        Command::Status(args) => status::run(&args, socket),
        Command::Bans(command) => bans::run(&command, socket),
        Command::Key(command) => key::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Demo(args) => demo::run(&args),
        Command::DemoUpstream(args) => demo::upstream(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["gateway", "bans", "list", "--admin-socket", "/a", "-vv"]);
        let global = cli.unwrap().global;
        assert_eq!(global.admin_socket, PathBuf::from("/a"));
        assert_eq!(global.verbose, 2);
    }

    #[test]
    fn misuse_is_refused() {
        for bad in [
            &["gateway"][..],
            &["gateway", "run"],
            &["gateway", "bans", "add"],
            &["gateway", "bans", "add", "300.0.0.1"],
            &["gateway", "bans", "add", "192.0.2.1", "--ttl", "soon"],
            &["gateway", "key", "new"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
