//! The proxies under test. Each runs one worker on the proxy core, tuned alike: no logs unless the
//! work is about logs, kept-alive upstream connections, `X-Forwarded-For` set, one TLS version.

use crate::cpu::{self, Cores};
use crate::process::Process;
use crate::tls::Material;
use anyhow::{Context, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gateway,
    Nginx,
    Haproxy,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
        }
    }
}

/// What a subject is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duty {
    pub tls: bool,
    pub access_log: bool,
}

/// What all subjects of a run share.
pub struct Setting<'a> {
    pub cores: Cores,
    pub upstream: SocketAddr,
    pub material: &'a Material,
    pub gateway: &'a Path,
    /// Each subject gets a directory of its own in here.
    pub dir: &'a Path,
}

pub struct Subject {
    pub kind: Kind,
    pub address: SocketAddr,
    process: Process,
    log: PathBuf,
}

impl Subject {
    /// Starts it; [`probe::expect`](crate::probe::expect) tells when it serves.
    pub fn start(kind: Kind, duty: Duty, setting: &Setting<'_>) -> Result<Subject> {
        let name = format!(
            "{}-{}{}",
            kind.name(),
            u8::from(duty.tls),
            u8::from(duty.access_log)
        );
        let dir = setting.dir.join(name);
        fs::create_dir_all(&dir)?;
        give_to_worker(&dir)?;
        let address = free_address()?;
        let (file, text) = config(kind, duty, address, &dir, setting);
        let file = dir.join(file);
        fs::write(&file, text)?;
        let log = dir.join("output.log");
        let command = command(kind, &file, setting);
        let cores = setting.cores;
        let process = Process::start(kind.name(), command, cores.proxy, cores.load, &log)?;
        Ok(Subject {
            kind,
            address,
            process,
            log,
        })
    }

    /// Alive, and every thread of it on the proxy core.
    pub fn settle(&mut self, cores: Cores) -> Result<()> {
        self.process.check_alive().with_context(|| self.said())?;
        cpu::pin_tree(self.process.id(), cores.proxy)
    }

    pub fn used(&self) -> Duration {
        cpu::used_by_tree(self.process.id())
    }

    /// The end of what it printed, for an error message.
    pub fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!("{} said:\n{}", self.kind.name(), tail.join("\n"))
    }
}

/// Started as root, the gateway's worker becomes `nobody` and writes its logs as that.
fn give_to_worker(dir: &Path) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        let nobody = nix::unistd::User::from_name("nobody")?.context("no user `nobody`")?;
        nix::unistd::chown(dir, Some(nobody.uid), Some(nobody.gid))?;
    }
    Ok(())
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

fn command(kind: Kind, file: &Path, setting: &Setting<'_>) -> Command {
    match kind {
        Kind::Gateway => {
            let mut command = Command::new(setting.gateway);
            command.arg("run").arg("--config").arg(file);
            command
        }
        Kind::Nginx => {
            let mut command = Command::new(installed("nginx"));
            command.arg("-c").arg(file).arg("-e").arg("stderr");
            command
        }
        Kind::Haproxy => {
            let mut command = Command::new(installed("haproxy"));
            command.arg("-db").arg("-f").arg(file);
            command
        }
    }
}

/// Debian puts daemons where a user's PATH may not look.
fn installed(program: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(program);
    if sbin.exists() { sbin } else { program.into() }
}

/// Whether it can take part. The gateway itself always has to: it fails to start where it is missing.
pub fn is_installed(kind: Kind, setting: &Setting<'_>) -> bool {
    let mut version = command(kind, Path::new("none"), setting);
    kind == Kind::Gateway || version.arg("-v").output().is_ok()
}

/// File name and text.
fn config(
    kind: Kind,
    duty: Duty,
    address: SocketAddr,
    dir: &Path,
    setting: &Setting<'_>,
) -> (&'static str, String) {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (file, template, tls, log) = match kind {
        Kind::Gateway => (
            "gateway.toml",
            include_str!("../peers/gateway.toml"),
            format!(
                "tls = {{ min_version = \"1.3\", certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}",
                path(&setting.material.cert),
                path(&setting.material.key)
            ),
            ["false", "true"],
        ),
        Kind::Nginx => (
            "nginx.conf",
            include_str!("../peers/nginx.conf"),
            format!(
                "ssl; ssl_certificate {}; ssl_certificate_key {}",
                path(&setting.material.cert),
                path(&setting.material.key)
            ),
            ["off", "@DIR@/access.log record buffer=64k flush=1s"],
        ),
        Kind::Haproxy => (
            "haproxy.cfg",
            include_str!("../peers/haproxy.cfg"),
            format!("ssl crt {} alpn http/1.1", path(&setting.material.both)),
            ["", ""],
        ),
    };
    let text = template
        .replace("@LISTEN@", &address.to_string())
        .replace("@UPSTREAM@", &setting.upstream.to_string())
        .replace("@TLS@", if duty.tls { &tls } else { "" })
        .replace("@ACCESS_LOG@", log[usize::from(duty.access_log)])
        .replace("@DIR@", &path(dir));
    (file, text)
}
