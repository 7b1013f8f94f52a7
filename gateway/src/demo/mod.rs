//! `gateway demo`: everything a first run needs, made fresh: certificates, keys, tokens, a config, a network
//! of its own with a client's namespace, and the command lines that show each practice at work.
//! Writes text and runs `ip`; knows nothing of the gateway's inside.

pub mod config_text;
pub mod lines;
pub mod material;
pub mod network;
pub mod upstream;

use anyhow::{Context, Result};
use material::Material;
use network::Network;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "gateway.toml";

/// What `gateway demo` can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written; a fresh directory below the system's temporary one when `None`.
    pub dir: Option<PathBuf>,
    /// Port of the HTTPS listener.
    pub port: u16,
    pub upstream: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Make the network pair if this process may.
    pub network: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dir: None,
            port: 8443,
            upstream: SocketAddr::from(([127, 0, 0, 1], 9000)),
            metrics: SocketAddr::from(([127, 0, 0, 1], 9901)),
            network: true,
        }
    }
}

/// A prepared demo. Dropping it takes the network away again; the directory stays for a look at its logs.
#[derive(Debug)]
pub struct Demo {
    pub dir: PathBuf,
    pub config_path: PathBuf,
    pub options: Options,
    pub material: Material,
    /// `None` when the filter is off.
    pub network: Option<Network>,
    /// Why there is no network, for the banner.
    pub network_absent: Option<String>,
}

/// Writes the directory and makes the network. The caller starts [`upstream::run`] and then the gateway with
/// `config_path`, and keeps the value until the gateway has ended.
pub fn prepare(options: Options) -> Result<Demo> {
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => fresh_dir()?,
    };
    make_private_dir(&dir)?;
    let dir = dir
        .canonicalize()
        .with_context(|| format!("resolve {}", dir.display()))?;
    let material = material::write(&dir, crate::clock::Now::read().wall_secs())?;

    let (network, network_absent) = match make_network(&options) {
        Ok(network) => (Some(network), None),
        Err(reason) => (None, Some(format!("{reason:#}"))),
    };
    let config_path = dir.join(CONFIG_FILE);
    let text = config_text::render(&dir, &options, network.as_ref(), &material);
    material::write_file(&dir, CONFIG_FILE, &text)?;
    Ok(Demo {
        dir,
        config_path,
        options,
        material,
        network,
        network_absent,
    })
}

impl Demo {
    /// The banner: addresses, how to look inside, five lines to copy.
    pub fn print(&self) {
        print!("{}", lines::banner(self));
    }
}

fn make_network(options: &Options) -> Result<Network> {
    if !options.network {
        anyhow::bail!("it was asked to stay off");
    }
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("a network of its own and XDP need root, and this is not root");
    }
    Network::create()
}

/// Unpredictable, so that nobody else on the machine can prepare it for us.
fn fresh_dir() -> Result<PathBuf> {
    let suffix = material::random_base64url::<9>()?;
    Ok(std::env::temp_dir().join(format!("gateway-demo-{suffix}")))
}

/// 0711: private keys lie here, in files of ours alone; the worker's user must pass through to its log folder.
fn make_private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .with_context(|| format!("create {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("make {} private", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_complete_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("demo");
        let options = Options {
            dir: Some(dir.clone()),
            network: false,
            ..Options::default()
        };
        let demo = prepare(options).unwrap();
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o711
        );
        assert!(demo.network.is_none() && demo.network_absent.is_some());
        let config: toml::Table = fs::read_to_string(&demo.config_path)
            .unwrap()
            .parse()
            .unwrap();
        assert!(!config.contains_key("filter"));
        for file in [
            "ca.pem",
            "server.pem",
            "server.key",
            "jwt.pub.pem",
            "order.schema.json",
        ] {
            assert!(dir.join(file).is_file(), "{file}");
        }
    }
}
