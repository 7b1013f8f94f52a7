//! A process of a bench run: started on its core, ended with the run whatever happens.

use crate::cpu;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Ends the process, and what it has started, when dropped.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` on one core, its output in `log`.
    pub fn start(
        name: &str,
        mut command: Command,
        core: usize,
        load_core: usize,
        log: &Path,
    ) -> Result<Process> {
        let out =
            std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        let child = spawn(command, core, load_core).with_context(|| format!("start {name}"))?;
        Ok(Process {
            child,
            name: name.to_owned(),
        })
    }

    /// The same, its output to be read by the caller.
    pub fn start_piped(name: &str, mut command: Command, core: usize) -> Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = spawn(command, core, core).with_context(|| format!("start {name}"))?;
        Ok(Process {
            child,
            name: name.to_owned(),
        })
    }

    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}", self.name),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = cpu::tree(self.child.id());
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid(self.child.id()), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // Descendants first: once their parent is gone they could no longer be found by it.
            for id in tree.into_iter().rev() {
                let _ = kill(pid(id), Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id as i32)
}

/// The child inherits the core of the thread that starts it, from its first instruction on.
fn spawn(mut command: Command, core: usize, own_core: usize) -> Result<Child> {
    // SAFETY: between fork and exec the closure makes one async-signal-safe system call and touches no memory.
    unsafe { command.pre_exec(end_with_parent) };
    cpu::pin_self(core)?;
    let child = command.spawn();
    cpu::pin_self(own_core)?;
    Ok(child?)
}

/// A run that is killed must not leave its proxies behind.
fn end_with_parent() -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    Ok(())
}
