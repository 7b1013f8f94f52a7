//! What the demo prints: addresses, where to look, and five lines to copy, one for each thing a gateway does.

use super::material::{Material, SERVER_NAME};
use super::network::{GATEWAY_V4, NAMESPACE, Network, RUDE_CLIENT_V4};
use super::{Demo, Options};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// One line for a shell, and what to expect of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub title: &'static str,
    pub expect: String,
    pub command: String,
}

/// Where the first listener is.
pub fn gateway_address(options: &Options, network: Option<&Network>) -> SocketAddr {
    let ip = match network {
        Some(_) => GATEWAY_V4,
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    SocketAddr::new(ip, options.port)
}

/// Allowed, refused by missing token, refused by schema, limited, banned.
pub fn lines(
    dir: &Path,
    options: &Options,
    network: Option<&Network>,
    material: &Material,
) -> Vec<Line> {
    let address = gateway_address(options, network);
    let curl = curl(dir, address, network.is_some());
    let url = format!("https://{SERVER_NAME}:{}", address.port());
    let key = format!("-H 'x-api-key: {}'", material.writer_key.secret);
    let line = |title, expect: &str, command| Line {
        title,
        expect: expect.to_owned(),
        command,
    };
    vec![
        line(
            "allowed",
            "201 and the order",
            order(&curl, &key, &url, r#"{"item":"lamp","quantity":2}"#),
        ),
        line(
            "refused, no token",
            "401 and a problem that names the rule",
            format!("{curl} -i {url}/echo"),
        ),
        line(
            "refused by schema",
            "a refusal that says what is wrong with the body",
            order(&curl, &key, &url, r#"{"item":"lamp","quantity":-1}"#),
        ),
        line(
            "limited",
            "200 about 20 times, then 429",
            format!("{curl} -o /dev/null -w '%{{http_code}} ' '{url}/json?n=[1-40]'; echo"),
        ),
        banned(&curl, &url, network.is_some()),
    ]
}

fn curl(dir: &Path, address: SocketAddr, in_namespace: bool) -> String {
    let prefix = if in_namespace {
        format!("ip netns exec {NAMESPACE} ")
    } else {
        String::new()
    };
    let ca = shell_quoted(&dir.join("ca.pem").to_string_lossy());
    format!(
        "{prefix}curl -sS --cacert {ca} --resolve {SERVER_NAME}:{}:{}",
        address.port(),
        address.ip()
    )
}

fn order(curl: &str, key: &str, url: &str, body: &str) -> String {
    format!("{curl} -i {key} -H 'content-type: application/json' -d '{body}' {url}/orders")
}

/// Wrong keys until the kernel stops answering: curl then runs into its own limit of two seconds.
fn banned(curl: &str, url: &str, filtered: bool) -> Line {
    let (from, expect) = if filtered {
        (
            format!(" --interface {RUDE_CLIENT_V4}"),
            "401 again and again, then silence: this address is dropped by XDP for 30 s",
        )
    } else {
        (
            String::new(),
            "401 again and again; without the filter the ban reaches only new requests, not packets",
        )
    };
    let command = format!(
        "for n in $(seq 150); do {curl}{from} --max-time 2 -o /dev/null -w '%{{http_code}} ' \
         -H 'x-api-key: gwk_alice_wrong' {url}/orders || {{ echo 'no answer: banned'; break; }}; done"
    );
    Line {
        title: "banned",
        expect: expect.to_owned(),
        command,
    }
}

/// As it is when nothing in it means anything to a shell.
fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// All that `gateway demo` prints before the gateway's own log.
pub fn banner(demo: &Demo) -> String {
    let network = demo.network.as_ref();
    let address = gateway_address(&demo.options, network);
    let config = shell_quoted(&demo.config_path.to_string_lossy());
    let socket = shell_quoted(&demo.dir.join("admin.sock").to_string_lossy());
    // As it was started: it need not be in the PATH.
    let program = std::env::args().next().unwrap_or_else(|| "gateway".into());
    let program = shell_quoted(&program);
    let audit = shell_quoted(&demo.dir.join("log/audit.jsonl").to_string_lossy());
    let mut text = format!(
        "\nGateway demo\n  gateway   https://{address} (name {SERVER_NAME})\n  upstream  http://{}\n  \
         files     {}\n  config    {config}\n  {}\n\nLook inside\n  \
         {program} status --admin-socket {socket}\n  {program} bans list --admin-socket {socket}\n  \
         {program} audit verify {audit}\n  curl -s http://{}/metrics\n",
        demo.options.upstream,
        demo.dir.display(),
        filter_line(demo),
        demo.options.metrics,
    );
    text.push_str("\nTry\n");
    for line in lines(&demo.dir, &demo.options, network, &demo.material) {
        text.push_str(&format!(
            "\n  # {}: {}\n  {}\n",
            line.title, line.expect, line.command
        ));
    }
    text.push('\n');
    text
}

fn filter_line(demo: &Demo) -> String {
    match (&demo.network, &demo.network_absent) {
        (Some(_), _) => format!(
            "filter    XDP on {}, a pair made for this demo; its client lives in namespace {NAMESPACE}",
            super::network::INTERFACE
        ),
        (None, reason) => format!(
            "filter    OFF: {}. Requests are checked, packets are not",
            reason.as_deref().unwrap_or("there is no network for it")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::material;
    use std::process::Command;

    fn all(network: Option<&Network>) -> Vec<Line> {
        let dir = tempfile::tempdir().unwrap();
        let material = material::write(dir.path(), 1_790_000_000).unwrap();
        lines(
            Path::new("/tmp/it's here"),
            &Options::default(),
            network,
            &material,
        )
    }

    #[test]
    fn a_shell_understands_every_line() {
        let network = std::mem::ManuallyDrop::new(Network { ipv6: false });
        for network in [None, Some(&*network)] {
            let lines = all(network);
            assert_eq!(lines.len(), 5);
            for line in lines {
                let parsed = Command::new("sh")
                    .args(["-n", "-c", &line.command])
                    .status()
                    .unwrap();
                assert!(parsed.success(), "{}", line.command);
                assert!(!line.command.contains('\n'));
                assert_eq!(line.command.contains("ip netns exec"), network.is_some());
            }
        }
    }

    #[test]
    fn paths_are_quoted_when_they_must_be() {
        assert_eq!(shell_quoted("/tmp/demo-1/ca.pem"), "/tmp/demo-1/ca.pem");
        assert_eq!(shell_quoted("/tmp/it's"), r"'/tmp/it'\''s'");
    }
}
