//! Which core a process runs on, and how much of it the process has used.

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::time::Duration;

/// One core for the proxy under test, another for everything that serves it.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub load: usize,
    pub proxy: usize,
}

impl Cores {
    /// The first two cores this process may use.
    pub fn pick() -> Result<Cores> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("read the CPU affinity")?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        match (usable.next(), usable.next()) {
            (Some(load), Some(proxy)) => Ok(Cores { load, proxy }),
            _ => bail!("two cores are needed: one for the proxy, one for upstream and load"),
        }
    }
}

/// Binds the calling thread, and what it starts from now on, to one core.
pub fn pin_self(cpu: usize) -> Result<()> {
    pin(Pid::from_raw(0), cpu)
}

fn pin(task: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(task, &set).with_context(|| format!("pin {task} to CPU {cpu}"))
}

/// Binds every thread of the process and of its descendants. Some programs pin themselves by their
/// own count of cores, whatever they were started with.
pub fn pin_tree(root: u32, cpu: usize) -> Result<()> {
    for pid in tree(root) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue; // ended meanwhile
        };
        for task in tasks.flatten() {
            if let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
                pin(Pid::from_raw(tid), cpu)?;
            }
        }
    }
    Ok(())
}

/// The process and its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, Stat::read(pid)?.parent)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
}

/// User and system time of the process and its descendants so far, all threads, to a clock tick
/// (10 ms). A helper process counts too: work is work, wherever a proxy does it.
pub fn used_by_tree(root: u32) -> Duration {
    let stats = tree(root).into_iter().filter_map(Stat::read);
    time(stats.map(|stat| stat.ticks).sum())
}

/// What both cores have done so far for anybody, and what the hypervisor has kept from them.
pub fn used_by_all(cores: Cores) -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    time(busy_ticks(&text, cores.load) + busy_ticks(&text, cores.proxy))
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user time already.
fn busy_ticks(text: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu}");
    let line = text
        .lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut fields| (fields.next() == Some(name.as_str())).then_some(fields));
    let idle = [3, 4];
    line.into_iter()
        .flatten()
        .take(8)
        .enumerate()
        .filter(|(i, _)| !idle.contains(i))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum()
}

fn time(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100)
        .max(1) as f64;
    Duration::from_secs_f64(ticks as f64 / per_second)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5): the name in parentheses may itself hold spaces and parentheses.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(9)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Stat {
            parent,
            ticks: user + system,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 23 9 9 20 0 1 0 5 6 7";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 123));
        assert!(Stat::parse("42 (x").is_none());
    }

    #[test]
    fn busy_is_all_but_idle() {
        let text =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 4 1000 1000 8 16 32 1000 1000\ncpu1 0 0 0 5\n";
        assert_eq!(
            (
                busy_ticks(text, 0),
                busy_ticks(text, 1),
                busy_ticks(text, 2)
            ),
            (63, 0, 0)
        );
    }

    #[test]
    fn this_process_is_its_own_root() {
        assert_eq!(tree(std::process::id())[0], std::process::id());
    }
}
