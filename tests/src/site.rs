//! A gateway with one route for each policy, and what a test says of a request there: it passes, or it is refused.

use crate::client::Response;
use crate::config::Config;
use crate::gateway::{Gateway, command};
use crate::tokens::Keys;
use crate::upstream::Upstream;
use serde_json::{Value, json};

/// What `gateway key new` prints: the key, and its entry for a key file.
pub struct Minted {
    pub key: String,
    pub entry: String,
}

pub fn mint(owner: &str, more: &[&str]) -> Minted {
    let mut arguments = vec!["key", "new", "--owner", owner];
    arguments.extend(more);
    let output = command(&arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let key = text
        .lines()
        .map(str::trim)
        .find(|l| l.starts_with("gwk_"))
        .expect("a key");
    let entry = text
        .find("[[keys]]")
        .map(|at| text[at..].to_owned())
        .expect("an entry");
    assert!(!entry.contains(key), "the entry holds the key itself");
    Minted {
        key: key.to_owned(),
        entry,
    }
}

const POLICIES: &str = r#"
[[policies]]
name = "keys"
type = "api_key"
file = "keys.toml"

[[policies]]
name = "either"
type = "any_of"
of = ["keys", "tokens"]

[[policies]]
name = "readers"
type = "access"
roles_any = ["reader"]
methods.DELETE = { roles_any = ["admin"] }

[[policies]]
name = "scoped"
type = "access"
scopes_all = ["orders:write"]

[[policies]]
name = "order-schema"
type = "json_schema"
schema = '''{"type":"object","required":["item"],"additionalProperties":false,
  "properties":{"item":{"type":"string","maxLength":20},"quantity":{"type":"integer","minimum":1}}}'''

[[policies]]
name = "small-json"
type = "request"
max_body = "1KiB"
content_types = ["application/json"]
query = [{ name = "page", type = "integer", max = 100 }]

[[policies]]
name = "per-client"
type = "rate_limit"
rate = "3/m"
burst = 3

[[policies]]
name = "nobody-from-here"
type = "ip"
deny = ["127.0.0.0/8"]

[[policies]]
name = "only-elsewhere"
type = "ip"
allow = ["192.0.2.0/24"]

[[policies]]
name = "shadow-ip"
type = "ip"
mode = "shadow"
deny = ["127.0.0.0/8"]

[[policies]]
name = "shadow-schema"
type = "json_schema"
mode = "shadow"
schema = '''{"type":"object","required":["item"]}'''
"#;

const ROUTES: &[(&str, &str)] = &[
    ("keys", r#"["keys"]"#),
    ("tokens", r#"["tokens"]"#),
    ("either", r#"["either"]"#),
    ("readers", r#"["either", "readers"]"#),
    ("scoped", r#"["either", "scoped"]"#),
    ("schema", r#"["order-schema"]"#),
    ("small", r#"["small-json"]"#),
    ("limited", r#"["per-client"]"#),
    ("denied", r#"["nobody-from-here"]"#),
    ("elsewhere", r#"["only-elsewhere"]"#),
    ("shadow", r#"["shadow-ip", "shadow-schema"]"#),
];

pub struct Site {
    pub gateway: Gateway,
    pub upstream: Upstream,
    pub tokens: Keys,
    pub reader: Minted,
    pub expired: Minted,
    pub plain: Minted,
}

impl Site {
    pub fn start() -> Site {
        let upstream = Upstream::ok("reached");
        let tokens = Keys::new();
        let reader = mint("ann", &["--role", "reader", "--scope", "orders:write"]);
        let expired = mint("old", &[]);
        let plain = mint("bob", &[]);
        let keys = format!(
            "{}\n{}\nexpires = \"2020-01-01\"\n{}",
            reader.entry,
            expired.entry.trim_end(),
            plain.entry
        );
        let mut config = Config::default()
            .upstream("up", &[upstream.address])
            .section(POLICIES)
            .section(&tokens.policy("tokens"));
        for (name, policies) in ROUTES {
            config = config.section(&format!(
                "[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"up\"\npolicies = {policies}\n"
            ));
        }
        let public = tokens.public_files();
        let mut files: Vec<(&str, &str)> = public.iter().map(|(n, t)| (*n, t.as_str())).collect();
        files.push(("keys.toml", &keys));
        let gateway = Gateway::start_with(config, &files, None);
        Site {
            gateway,
            upstream,
            tokens,
            reader,
            expired,
            plain,
        }
    }

    pub fn ask(&self, path: &str, arguments: &[&str]) -> Response {
        self.gateway.curl().get(path, arguments)
    }

    /// Passes, reaches the upstream, and is recorded as allowed. The record.
    pub fn passes(&self, what: &str, path: &str, arguments: &[&str]) -> Value {
        let before = self.upstream.seen().len();
        let response = self.ask(path, arguments);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "reached"),
            "{what}: {}",
            response.text()
        );
        assert_eq!(self.upstream.seen().len(), before + 1, "{what}");
        let record = self
            .gateway
            .record(response.field("x-request-id").expect("an id"));
        assert_eq!(record["decision"]["verdict"], "allowed", "{what}");
        record
    }

    /// Is refused with these, reaches nobody; answer and record agree. The answer.
    pub fn refused(
        &self,
        what: &str,
        path: &str,
        arguments: &[&str],
        status: u16,
        slug: &str,
        rule: &str,
    ) -> Response {
        let before = self.upstream.seen().len();
        let response = self.ask(path, arguments);
        assert_eq!(response.status, status, "{what}: {}", response.text());
        assert_eq!(
            self.upstream.seen().len(),
            before,
            "{what}: it reached the upstream"
        );
        assert_eq!(
            response.field("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        let id = response.field("x-request-id").expect("an id");
        let problem = response.json();
        assert_eq!(
            problem["type"],
            format!("urn:gateway:problem:{slug}"),
            "{what}"
        );
        assert_eq!(problem["rule"], rule, "{what}");
        assert_eq!(problem["status"], status, "{what}");
        assert_eq!(problem["request_id"], id, "{what}");
        let record = self.gateway.record(id);
        assert_eq!(
            record["decision"],
            json!({"verdict": "refused", "slug": slug, "rule": rule}),
            "{what}"
        );
        assert_eq!(record["status"], status, "{what}");
        response
    }
}

pub fn header(name: &str, value: &str) -> String {
    format!("{name}: {value}")
}
