//! `cargo xtask bench`: measures, side by side with peers, and writes what it found to docs/benchmarks.md.

mod report;
mod rows;

use crate::build::{self, Filter};
use crate::{command, setup, workspace};
use anyhow::{Context, Result, bail};
use rows::Row;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One suite; all of them when left out
    suite: Option<Suite>,
    /// Also write the rows, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Short runs: to see that everything works, not for figures; docs/benchmarks.md stays as it is
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Nanoseconds per packet in the XDP program
    Kernel,
    /// CPU per proxied request, beside NGINX and HAProxy
    Proxy,
    /// Nanoseconds per policy decision
    Policy,
}

impl Suite {
    const ALL: [Suite; 3] = [Suite::Kernel, Suite::Proxy, Suite::Policy];

    /// The binary in `benches`, and the name of its section in the document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Suite::Kernel => "kernel",
            Suite::Proxy => "proxy",
            Suite::Policy => "policy",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Suite::Kernel => "Kernel filter",
            Suite::Proxy => "Proxied requests",
            Suite::Policy => "Policy decisions",
        }
    }
}

pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    let suites = arguments.suite.map_or(Suite::ALL.to_vec(), |one| vec![one]);
    setup::ensure(setup::Need::BENCH)?;
    let filter = build::filter(false)?;
    build::gateway(&filter, true)?;

    let mut rows_of_all = Vec::new();
    for suite in suites {
        println!("==> bench {}", suite.name());
        let rows = measure(suite, &filter, arguments.quick)?;
        let tables = report::tables(&rows);
        println!("\n{tables}");
        if !arguments.quick {
            write_section(suite, &tables)?;
        }
        rows_of_all.extend(rows);
    }
    if let Some(file) = &arguments.json {
        let lines: String = rows_of_all
            .iter()
            .map(|row| format!("{}\n", row.to_json()))
            .collect();
        fs::write(file, lines).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Runs one suite's binary; it leaves its rows in a file, so that its own output stays readable.
fn measure(suite: Suite, filter: &Filter, quick: bool) -> Result<Vec<Row>> {
    let rows_file = workspace::target().join(format!("bench-{}.jsonl", suite.name()));
    // Rows of an earlier run must not pass for rows of this one.
    if rows_file.exists() {
        fs::remove_file(&rows_file)?;
    }
    let mut cargo = command::cargo();
    cargo.args([
        "run",
        "--release",
        "-p",
        "gateway-benches",
        "--bin",
        suite.name(),
    ]);
    filter.pass_to(&mut cargo);
    cargo.env("GATEWAY_BIN", workspace::gateway_binary(true));
    cargo.arg("--").arg("--json").arg(&rows_file);
    if quick {
        cargo.arg("--quick");
    }
    command::run(&mut cargo)?;
    let text = fs::read_to_string(&rows_file)
        .with_context(|| format!("suite {} left no rows", suite.name()))?;
    let rows = rows::parse(&text).with_context(|| format!("rows of suite {}", suite.name()))?;
    if rows.is_empty() {
        bail!("suite {} measured nothing", suite.name());
    }
    Ok(rows)
}

fn write_section(suite: Suite, tables: &str) -> Result<()> {
    let file = workspace::root().join("docs/benchmarks.md");
    let before = fs::read_to_string(&file).unwrap_or_default();
    let section = format!("## {}\n\n{}\n\n{tables}", suite.title(), conditions(suite));
    let after = report::replace_section(&before, suite, &section);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&file, after).with_context(|| format!("write {}", file.display()))
}

/// What a reader needs to judge or repeat the figures.
fn conditions(suite: Suite) -> String {
    let says = |program: &str, arguments: &[&str]| {
        command::read(Command::new(program).args(arguments)).unwrap_or_else(|| "unknown".to_owned())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "`cargo xtask bench {}`, {}: {model}, {cores} cores, Linux {}, {}.",
        suite.name(),
        says("date", &["-u", "+%Y-%m-%d"]),
        says("uname", &["-r"]),
        says("rustc", &["--version"]),
    )
}
