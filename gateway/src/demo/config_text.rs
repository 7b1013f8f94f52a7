//! The demo's config, as a user would write it: every practice once, names that match the curl lines.

use super::material::{AUDIENCE, ISSUER, Material};
use super::network::{GATEWAY_V4, GATEWAY_V6, INTERFACE, Network};
use super::{Options, lines};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// The whole file. With a network it listens there and filters; without one it listens on loopback.
pub fn render(
    dir: &Path,
    options: &Options,
    network: Option<&Network>,
    material: &Material,
) -> String {
    let mut text = head(dir, options, network);
    for (name, address) in listeners(options, network) {
        let _ = write!(
            text,
            "\n[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\n\
             tls = {{ certificates = [{{ cert = \"server.pem\", key = \"server.key\" }}] }}\n"
        );
    }
    let _ = write!(
        text,
        "\n[[upstreams]]\nname = \"demo\"\ntargets = [\"{}\"]\n",
        options.upstream
    );
    text.push_str(&policies(material));
    text.push_str(ROUTES);
    text.push_str(STRIKES);
    if network.is_some() {
        let _ = write!(
            text,
            "\n[filter]\ninterfaces = [{{ name = \"{INTERFACE}\" }}]\n"
        );
    }
    text.push_str(&logs(dir));
    text
}

/// Name and address of each listener.
fn listeners(options: &Options, network: Option<&Network>) -> Vec<(&'static str, SocketAddr)> {
    let mut all = vec![("https", lines::gateway_address(options, network))];
    if network.is_some_and(|network| network.ipv6) {
        all.push(("https-v6", SocketAddr::new(GATEWAY_V6, options.port)));
    }
    debug_assert!(network.is_none() || all[0].1.ip() == GATEWAY_V4);
    all
}

fn head(dir: &Path, options: &Options, network: Option<&Network>) -> String {
    // Only root can become somebody else.
    let user = if network.is_some() || nix::unistd::geteuid().is_root() {
        "user = \"nobody\"          # what the worker becomes once everything is open\n"
    } else {
        ""
    };
    let socket = toml::Value::String(dir.join("admin.sock").to_string_lossy().into_owned());
    format!(
        "# Written by `gateway demo`. Paths are relative to this file.\n\n\
         [server]\nworkers = 0              # one per core\n{user}drain_timeout = \"10s\"\n\n\
         [admin]\nsocket = {socket}\nmetrics = \"{}\"\n",
        options.metrics
    )
}

fn policies(material: &Material) -> String {
    let (writer, guest) = (&material.writer_key, &material.guest_key);
    format!(
        r#"
[[policies]]
name = "demo-keys"
type = "api_key"
keys = [
  {{ id = "{}", hash = "{}", owner = "{}", roles = ["writer"], scopes = [] }},
  {{ id = "{}", hash = "{}", owner = "{}", roles = [], scopes = [] }},
]

[[policies]]
name = "demo-jwt"
type = "jwt"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
keys = [{{ kid = "demo", algorithm = "ES256", public_key_file = "jwt.pub.pem" }}]

[[policies]]
name = "writers"
type = "access"
roles_any = ["writer"]

[[policies]]
name = "per-client"
type = "rate_limit"
key = "ip"
rate = "20/s"
burst = 20

[[policies]]
name = "order-schema"
type = "json_schema"
schema_file = "order.schema.json"
"#,
        writer.id, writer.hash, writer.id, guest.id, guest.hash, guest.id
    )
}

const ROUTES: &str = r#"
[[routes]]
name = "orders-list"
path = "/orders"
methods = ["GET"]
upstream = "demo"
policies = ["per-client", "demo-keys", "writers"]

[[routes]]
name = "orders-create"
path = "/orders"
methods = ["POST"]
upstream = "demo"
policies = ["per-client", "demo-keys", "writers", "order-schema"]

[[routes]]
name = "orders-read"
path = "/orders/*"
methods = ["GET"]
upstream = "demo"
policies = ["per-client", "demo-keys", "writers"]

[[routes]]
name = "token"
path = "/echo"
upstream = "demo"
policies = ["per-client", "demo-jwt"]

[[routes]]
name = "json"
path = "/json"
methods = ["GET"]
upstream = "demo"
policies = ["per-client"]

[[routes]]
name = "stream"
path = "/stream"
methods = ["GET"]
upstream = "demo"
policies = ["per-client"]

[[routes]]
name = "slow"
path = "/slow"
methods = ["GET"]
upstream = "demo"
policies = ["per-client"]

[[routes]]
name = "bytes"
path = "/bytes/*"
methods = ["GET"]
upstream = "demo"
policies = ["per-client"]

[[routes]]
name = "upload"
path = "/upload"
methods = ["POST"]
upstream = "demo"
policies = ["per-client", "demo-keys", "writers"]

[[routes]]
name = "websocket"
path = "/ws"
methods = ["GET"]
upstream = "demo"
websocket = true
policies = ["per-client"]
"#;

/// A client that collects this many refusals within about a minute is dropped by the kernel for half of one.
const STRIKES: &str = r#"
[strikes]
threshold = 50
half_life = "60s"
ban_ttl = "30s"
"#;

/// Absolute: the daemon's working directory is nobody's business.
fn logs(dir: &Path) -> String {
    let place = |name: &str| toml::Value::String(dir.join(name).to_string_lossy().into_owned());
    format!(
        "\n[access_log]\npath = {}\n\n[audit_log]\npath = {}\nkey_file = {}\n",
        place("log/access.jsonl"),
        place("log/audit.jsonl"),
        place("audit.key"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::material;

    fn parsed(network: Option<&Network>) -> toml::Table {
        let dir = tempfile::tempdir().unwrap();
        let material = material::write(dir.path(), 1_790_000_000).unwrap();
        let text = render(dir.path(), &Options::default(), network, &material);
        assert!(!text.contains(&material.writer_key.secret));
        text.parse().unwrap()
    }

    fn names<'t>(table: &'t toml::Table, list: &str) -> Vec<&'t str> {
        let list = table[list].as_array().unwrap();
        list.iter()
            .map(|entry| entry["name"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn with_and_without_a_network() {
        // No value of this type may be dropped here: that would remove a running demo's interfaces.
        let network = std::mem::ManuallyDrop::new(Network { ipv6: true });
        let table = parsed(Some(&network));
        assert_eq!(names(&table, "listeners"), ["https", "https-v6"]);
        assert_eq!(
            table["listeners"][0]["address"].as_str(),
            Some("10.203.0.1:8443")
        );
        assert_eq!(
            table["filter"]["interfaces"][0]["name"].as_str(),
            Some("gwdemo0")
        );

        let table = parsed(None);
        assert_eq!(names(&table, "listeners"), ["https"]);
        assert_eq!(
            table["listeners"][0]["address"].as_str(),
            Some("127.0.0.1:8443")
        );
        assert!(!table.contains_key("filter"));
    }

    #[test]
    fn routes_name_what_exists() {
        let table = parsed(None);
        let (policies, upstreams) = (names(&table, "policies"), names(&table, "upstreams"));
        for route in table["routes"].as_array().unwrap() {
            assert!(upstreams.contains(&route["upstream"].as_str().unwrap()));
            for policy in route["policies"].as_array().unwrap() {
                assert!(policies.contains(&policy.as_str().unwrap()), "{policy}");
            }
        }
    }
}
