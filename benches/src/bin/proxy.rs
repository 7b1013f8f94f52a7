//! CPU per proxied request, beside NGINX and HAProxy on the same work.
//!
//! `cargo run --release -p gateway-benches --bin proxy -- [--json FILE] [--quick] [--only WORD] [--subject NAME]…`
//!
//! Each subject has one worker on one core; upstream and load share another, light enough that the
//! subject's core is the bottleneck (`busy` says so). Subjects take turns, round by round, so that
//! a disturbance of the machine meets them all. Where other programs took part of the two cores, more
//! rounds follow, and figures are medians over the least disturbed ones.

use anyhow::{Context, Result, bail};
use gateway_benches::cpu::{self, Cores};
use gateway_benches::load::{Counts, Load, Target};
use gateway_benches::probe;
use gateway_benches::process::Process;
use gateway_benches::report::{Row, median};
use gateway_benches::run::{Arguments, Report};
use gateway_benches::subject::{self, Duty, Kind, Setting, Subject};
use gateway_benches::tls::{self, Material};
use gateway_benches::upstream;
use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// As the only argument: be the upstream.
const UPSTREAM: &str = "upstream";
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Before each round: connections settle, pools fill, code and tables warm up.
const WARM_UP: Duration = Duration::from_millis(300);
/// A round in which other programs had more of the two cores than this, in cores, is disturbed.
const OTHERS_MAX: f64 = 0.05;
/// Below, the proxy's core was not the bottleneck, and the figure includes wake-ups that a full core saves.
const BUSY_PERCENT_MIN: f64 = 95.0;

struct Work {
    name: &'static str,
    connections: usize,
    target: &'static str,
    body_bytes: usize,
    duty: Duty,
    /// CPU per gigabyte of bodies is the figure, not per request.
    per_gigabyte: bool,
    subjects: &'static [Kind],
}

const ALL: &[Kind] = &[Kind::Gateway, Kind::Nginx, Kind::Haproxy];
// HAProxy logs to syslog only: another process would do its work.
const WITH_FILE_LOGS: &[Kind] = &[Kind::Gateway, Kind::Nginx];

const SMALL: Work = Work {
    name: "",
    connections: 64,
    target: "/",
    body_bytes: upstream::BODY_BYTES,
    duty: Duty {
        tls: false,
        access_log: false,
    },
    per_gigabyte: false,
    subjects: ALL,
};

const WORKS: &[Work] = &[
    Work {
        name: "plain-64",
        ..SMALL
    },
    Work {
        name: "plain-256",
        connections: 256,
        ..SMALL
    },
    Work {
        name: "plain-log-64",
        duty: Duty {
            tls: false,
            access_log: true,
        },
        subjects: WITH_FILE_LOGS,
        ..SMALL
    },
    Work {
        name: "tls-64",
        duty: Duty {
            tls: true,
            access_log: false,
        },
        ..SMALL
    },
    Work {
        name: "body-64k",
        target: "/64k",
        body_bytes: upstream::BODY_64K_BYTES,
        per_gigabyte: true,
        ..SMALL
    },
    Work {
        name: "body-1m",
        connections: 16,
        target: "/1m",
        body_bytes: upstream::BODY_1M_BYTES,
        per_gigabyte: true,
        ..SMALL
    },
];

/// One subject's figure of one round.
#[derive(Clone, Copy)]
struct Round {
    cpu: Duration,
    counts: Counts,
    /// What everybody else had of the two cores, in cores.
    others: f64,
}

impl Round {
    fn cpu_us_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.counts.responses as f64
    }

    fn cpu_s_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.counts.body_bytes as f64
    }

    fn busy_percent(&self) -> f64 {
        self.cpu.as_secs_f64() * 100.0 / self.counts.elapsed.as_secs_f64()
    }

    fn requests_per_s(&self) -> f64 {
        self.counts.responses as f64 / self.counts.elapsed.as_secs_f64()
    }
}

fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(UPSTREAM) {
        return upstream::serve("127.0.0.1:0");
    }
    let arguments = Arguments::parse()?;
    let (rounds, duration) = match arguments.quick {
        true => (3, Duration::from_secs(1)),
        false => (5, Duration::from_secs(3)),
    };
    let cores = Cores::pick()?;
    cpu::pin_self(cores.load)?;
    let dir = tempfile::tempdir()?;
    // Proxies give up root once they have started.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let material = Material::write(dir.path())?;
    let (_upstream, upstream) = start_upstream(cores.load)?;
    let setting = Setting {
        cores,
        upstream,
        material: &material,
        gateway: &gateway_binary(),
        dir: dir.path(),
    };
    let mut report = Report::new(&arguments);
    for work in WORKS.iter().filter(|work| arguments.wants(work.name)) {
        let kinds: Vec<Kind> = work
            .subjects
            .iter()
            .copied()
            .filter(|kind| arguments.wants_subject(kind.name()))
            .collect();
        let plan = Plan {
            work,
            kinds,
            rounds,
            duration,
        };
        plan.measure(&setting, &mut report)
            .with_context(|| work.name)?;
    }
    report.finish()
}

/// `GATEWAY_BIN`, or the binary beside this one.
fn gateway_binary() -> PathBuf {
    let beside = || {
        env::current_exe()
            .unwrap_or_default()
            .with_file_name("gateway")
    };
    env::var_os("GATEWAY_BIN").map_or_else(beside, PathBuf::from)
}

/// The same binary again: it is there, and never older than this one.
fn start_upstream(core: usize) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(UPSTREAM);
    let mut process = Process::start_piped("the upstream", command, core)?;
    let out = process.stdout().context("the upstream's output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let address = line
        .trim()
        .parse()
        .with_context(|| format!("the upstream printed `{line}`"))?;
    Ok((process, address))
}

struct Plan<'a> {
    work: &'a Work,
    kinds: Vec<Kind>,
    rounds: usize,
    duration: Duration,
}

impl Plan<'_> {
    fn measure(&self, setting: &Setting<'_>, report: &mut Report) -> Result<()> {
        let work = self.work;
        let mut subjects = Vec::new();
        for &kind in &self.kinds {
            if subject::is_installed(kind, setting) {
                subjects.push(start(kind, work, setting)?);
            } else {
                println!("{}: {} is not installed, left out", work.name, kind.name());
            }
        }
        let mut results = vec![Vec::new(); subjects.len()];
        while results.iter().any(|rounds| self.wants_more(rounds)) {
            for (subject, results) in subjects.iter_mut().zip(&mut results) {
                let round = round(work, subject, setting, self.duration);
                results.push(round.with_context(|| subject.said())?);
            }
        }
        for (subject, mut rounds) in subjects.iter().zip(results) {
            rounds.sort_by(|a, b| a.others.total_cmp(&b.others));
            rounds.truncate(self.rounds);
            tell(work, subject.kind, &rounds, report);
        }
        Ok(())
    }

    /// Until there are enough undisturbed rounds, or twice as many in all.
    fn wants_more(&self, rounds: &[Round]) -> bool {
        let calm = rounds
            .iter()
            .filter(|round| round.others <= OTHERS_MAX)
            .count();
        calm < self.rounds && rounds.len() < 2 * self.rounds
    }
}

fn target(work: &Work, address: SocketAddr, setting: &Setting<'_>) -> Target {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n",
        work.target,
        tls::HOST
    );
    Target {
        address,
        request: request.into_bytes(),
        tls: work.duty.tls.then(|| setting.material.client.clone()),
    }
}

fn start(kind: Kind, work: &Work, setting: &Setting<'_>) -> Result<Subject> {
    let mut subject = Subject::start(kind, work.duty, setting)?;
    let target = target(work, subject.address, setting);
    probe::expect(&target, &upstream::body(work.body_bytes), STARTS_WITHIN)
        .with_context(|| subject.said())?;
    subject.settle(setting.cores)?;
    Ok(subject)
}

fn round(
    work: &Work,
    subject: &mut Subject,
    setting: &Setting<'_>,
    duration: Duration,
) -> Result<Round> {
    let mut load = Load::start(target(work, subject.address, setting), work.connections)?;
    load.run(WARM_UP)?;
    let ours = || cpu::used_by_tree(std::process::id());
    let (all_before, ours_before, before) =
        (cpu::used_by_all(setting.cores), ours(), subject.used());
    let counts = load.run(duration)?;
    let cpu = subject.used().saturating_sub(before);
    let ours = ours().saturating_sub(ours_before);
    let all = cpu::used_by_all(setting.cores).saturating_sub(all_before);
    let others = all.saturating_sub(ours).as_secs_f64() / counts.elapsed.as_secs_f64();
    subject.settle(setting.cores)?;
    if counts.responses == 0 || counts.failures > 0 {
        bail!(
            "{} responses, {} failures",
            counts.responses,
            counts.failures
        );
    }
    Ok(Round {
        cpu,
        counts,
        others,
    })
}

fn tell(work: &Work, kind: Kind, rounds: &[Round], report: &mut Report) {
    let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let mut row =
        |metric, value, unit| report.add(Row::new(work.name, kind.name(), metric, value, unit));
    match work.per_gigabyte {
        true => row("cpu_s_per_gb", of(Round::cpu_s_per_gb), "s"),
        false => row("cpu_us_per_request", of(Round::cpu_us_per_request), "us"),
    }
    let busy = of(Round::busy_percent);
    row("busy", busy, "%");
    row("requests_per_s", of(Round::requests_per_s), "1/s");
    let others = of(|round| round.others);
    if busy < BUSY_PERCENT_MIN {
        println!(
            "{}: {} was not kept busy; other programs had {others:.2} cores",
            work.name,
            kind.name()
        );
    }
    let reconnects: u64 = rounds.iter().map(|round| round.counts.reconnects).sum();
    if reconnects > 0 {
        println!(
            "{}: {} closed {reconnects} connections",
            work.name,
            kind.name()
        );
    }
}
