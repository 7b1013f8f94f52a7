//! `cargo xtask test`: what CI runs. Stops at the first step that fails.

use crate::build::Filter;
use crate::{build, command, lint, setup, tidy, workspace};
use anyhow::{Context, Result};
use std::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only one step (fmt, tidy, clippy), or only the tests whose name contains NAME
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    let mut steps = Steps::default();
    let done = run_steps(&mut steps, arguments.only.as_deref());
    steps.print_summary(done.is_ok());
    done
}

fn run_steps(steps: &mut Steps, only: Option<&str>) -> Result<()> {
    let wanted = |step: &str| only.is_none_or(|name| name == step);
    let one_step = matches!(only, Some("fmt" | "tidy" | "clippy"));

    steps.step("setup", || setup::ensure(setup::Need::TEST))?;
    if wanted("fmt") {
        steps.step("fmt", lint::check_format)?;
    }
    if wanted("tidy") {
        steps.step("tidy", tidy::tidy)?;
    }
    if one_step && !wanted("clippy") {
        return Ok(());
    }
    let filter = steps.step("filter", || build::filter(false))?;
    if wanted("clippy") {
        steps.step("clippy", || lint::clippy(&filter))?;
    }
    if one_step {
        return Ok(());
    }
    steps.step("gateway", || build::gateway(&filter, false))?;
    steps.step("tests", || cargo_test(&filter, only))
}

fn cargo_test(filter: &Filter, only: Option<&str>) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    filter.pass_to(&mut cargo);
    cargo.env("GATEWAY_BIN", workspace::gateway_binary(false));
    if command::is_root() {
        // Tests that need privileges then fail where they would have skipped.
        cargo.env("GATEWAY_E2E", "1");
    } else {
        println!("SKIP: needs root: namespaces, XDP and privilege tests");
    }
    cargo.args(only);
    command::run(&mut cargo)
}

/// The steps so far and how long each took.
#[derive(Default)]
struct Steps {
    finished: Vec<(&'static str, f64)>,
}

impl Steps {
    fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("==> {name}");
        let started = Instant::now();
        let done = work().with_context(|| format!("step {name}"));
        self.finished.push((name, started.elapsed().as_secs_f64()));
        done
    }

    fn print_summary(&self, passed: bool) {
        let times: Vec<String> = self
            .finished
            .iter()
            .map(|(name, seconds)| format!("{name} {seconds:.1} s"))
            .collect();
        let total: f64 = self.finished.iter().map(|(_, seconds)| seconds).sum();
        let verdict = if passed {
            "passed"
        } else {
            "FAILED in the last step"
        };
        println!("==> {verdict}: {}; {total:.1} s in all", times.join(", "));
    }
}
