//! `gateway demo` and `gateway demo-upstream`

use crate::demo::{self, Options};
use anyhow::Context;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const UPSTREAM_TRIES: u32 = 500;
const UPSTREAM_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where config, keys and logs are written; a fresh temporary folder otherwise.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port of the HTTPS listener.
    #[arg(long, default_value_t = Options::default().port)]
    port: u16,
    /// Where the demo upstream listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = Options::default().upstream)]
    upstream: SocketAddr,
    /// Where Prometheus metrics are served.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = Options::default().metrics)]
    metrics: SocketAddr,
    /// Leave the network alone: no interface pair, no namespace, no kernel filter.
    #[arg(long)]
    no_network: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UpstreamArgs {
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = Options::default().upstream)]
    listen: SocketAddr,
}

pub(super) fn upstream(args: &UpstreamArgs) -> anyhow::Result<u8> {
    demo::upstream::run(args.listen)?;
    Ok(0)
}

/// Everything is taken away again when the gateway ends: the values clean up after themselves.
pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let demo = demo::prepare(Options {
        dir: args.dir.clone(),
        port: args.port,
        upstream: args.upstream,
        metrics: args.metrics,
        network: !args.no_network,
    })?;
    let _upstream = Upstream::start(args.upstream)?;
    demo.print();
    crate::warden::run(&demo.config_path)
}

/// The demo upstream in a process of its own: the warden may have no second thread when it forks.
struct Upstream(Child);

impl Upstream {
    fn start(listen: SocketAddr) -> anyhow::Result<Upstream> {
        // Or somebody else's server would be taken for it below.
        TcpListener::bind(listen).with_context(|| {
            format!("the demo upstream cannot listen on {listen} (choose another with --upstream)")
        })?;
        let program = std::env::current_exe().context("this program's own path")?;
        let child = Command::new(program)
            .args(["demo-upstream", "--listen", &listen.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("start the demo upstream")?;
        let mut upstream = Upstream(child);
        for _ in 0..UPSTREAM_TRIES {
            let answered = TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_ok();
            // An answer counts only while the child lives: otherwise it is another's.
            if let Some(status) = upstream.0.try_wait()? {
                anyhow::bail!("the demo upstream ended at once: {status}");
            }
            if answered {
                return Ok(upstream);
            }
            std::thread::sleep(UPSTREAM_PAUSE);
        }
        anyhow::bail!("the demo upstream does not answer on {listen}")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It may have ended with the same ctrl-C.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_config_compiles() {
        let parent = tempfile::tempdir().unwrap();
        let demo = demo::prepare(Options {
            dir: Some(parent.path().join("demo")),
            network: false,
            ..Options::default()
        })
        .unwrap();
        if let Err(errors) = crate::warden::load::load(&demo.config_path) {
            panic!("{}", crate::warden::load::render(&errors));
        }
    }

    #[test]
    fn a_server_that_is_not_the_demos_is_not_taken_for_it() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let Err(refused) = Upstream::start(other.local_addr().unwrap()) else {
            panic!("took another's server for its own");
        };
        assert!(format!("{refused:#}").contains("--upstream"), "{refused:#}");
    }
}
