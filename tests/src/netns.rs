//! Network namespaces: the gateway in one, two clients in others, a veth pair to each. Gone when dropped.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The gateway's address towards the client of this index (0 or 1), and the client's own.
pub const GATEWAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 1), Ipv4Addr::new(10, 77, 2, 1)];
pub const CLIENT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 2, 2)];

pub const GATEWAY_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 1),
];
pub const CLIENT_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2),
];

pub struct Net {
    /// `gw<pid><letter>`: a namespace that a killed test left behind can be told from a living one's.
    stem: String,
}

impl Net {
    /// Needs root.
    pub fn new() -> Net {
        let letter = (b'a' + (NEXT.fetch_add(1, Relaxed) % 26) as u8) as char;
        let net = Net {
            stem: format!("gw{}{letter}", std::process::id()),
        };
        let gateway = net.gateway();
        ip(&format!("netns add {gateway}"));
        ip(&format!("-n {gateway} link set lo up"));
        for i in 0..2 {
            let (name, near, far) = (net.client(i), net.interface(i), net.far_interface(i));
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!(
                "-n {gateway} link add {near} type veth peer name {far} netns {name}"
            ));
            ip(&format!(
                "-n {gateway} addr add {}/24 dev {near}",
                GATEWAY[i]
            ));
            ip(&format!("-n {name} addr add {}/24 dev {far}", CLIENT[i]));
            // Without duplicate address detection: there is nobody else, and listeners bind at once.
            ip(&format!(
                "-n {gateway} addr add {}/64 dev {near} nodad",
                GATEWAY_V6[i]
            ));
            ip(&format!(
                "-n {name} addr add {}/64 dev {far} nodad",
                CLIENT_V6[i]
            ));
            ip(&format!("-n {gateway} link set {near} up"));
            ip(&format!("-n {name} link set {far} up"));
        }
        net
    }

    /// The gateway's namespace.
    pub fn gateway(&self) -> String {
        format!("{}g", self.stem)
    }

    /// A client's namespace.
    pub fn client(&self, i: usize) -> String {
        format!("{}{i}", self.stem)
    }

    /// The gateway's end of a pair: where XDP is attached.
    pub fn interface(&self, i: usize) -> String {
        format!("{}v{i}", self.stem)
    }

    fn far_interface(&self, i: usize) -> String {
        format!("{}w{i}", self.stem)
    }

    /// Runs `work` on a thread that lives in the namespace.
    pub fn within<T: Send>(&self, namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Default for Net {
    fn default() -> Self {
        Net::new()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // One end of a pair takes the other with it, and a namespace its interfaces.
        for name in [self.client(0), self.client(1), self.gateway()] {
            let _ = run(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) {
    if let Err(error) = run(arguments) {
        panic!("ip {arguments}: {error}");
    }
}

fn run(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
