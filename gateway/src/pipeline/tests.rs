//! The stages composed, on a compiled config: who the client is, which route, what is refused.

use super::request::{Collected, Notes, Stage, Step, body, request};
use super::{Exchange, Plan};
use crate::clock::Now;
use crate::config::{self, Ids, Snapshot};
use crate::diagnose::Files;
use crate::http::{HeadLimits, HeadScratch, HeaderSpace, Parsed, parse};
use crate::limit::{Ban, BanReason, BanTable, LimitTable};
use crate::outcome::{Rejection, RejectionKind};
use std::net::SocketAddr;

const CONFIG: &str = r#"
[[listeners]]
name = "plain"
address = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.0/8"]
limits = { body_bytes = "1KiB" }
[[upstreams]]
name = "u"
targets = ["127.0.0.1:9000"]
[[policies]]
name = "deny"
type = "ip"
deny = ["203.0.113.0/24"]
[[policies]]
name = "shape"
type = "json_schema"
schema = '{"type":"object","required":["item"]}'
max_body = "64B"
[[routes]]
name = "open"
path = "/open/*"
upstream = "u"
policies = ["deny"]
[[routes]]
name = "shaped"
path = "/shaped"
methods = ["POST"]
upstream = "u"
policies = ["deny", "shape"]
"#;

struct World {
    snapshot: Snapshot,
    limits: LimitTable,
    bans: BanTable,
    ex: Exchange,
}

impl World {
    fn new() -> World {
        let compiled = config::compile(CONFIG, &Files::default(), &mut Ids::default()).unwrap();
        World {
            snapshot: compiled.snapshot,
            limits: LimitTable::default(),
            bans: BanTable::new(16, Vec::new()),
            ex: Exchange::example(),
        }
    }

    /// What becomes of a request (and its body) from `peer`.
    fn run(&mut self, peer: &str, head: impl AsRef<[u8]>, sent: &[u8]) -> Result<Plan, Rejection> {
        self.ex = Exchange::new("plain".into(), SocketAddr::new(peer.parse().unwrap(), 4711));
        let (mut scratch, mut space) = (HeadScratch::new(), HeaderSpace::new());
        let limits = HeadLimits::default();
        let Parsed::Complete { head, .. } =
            parse(head.as_ref(), &limits, &mut scratch, &mut space)?
        else {
            panic!("the head is not complete");
        };
        let stage = Stage {
            snapshot: &self.snapshot,
            listener: &self.snapshot.listeners[0],
            limits: &self.limits,
            bans: &self.bans,
            now: Now::at(1_000_000_000, 1_800_000_000),
        };
        let mut notes = Notes::default();
        match request(stage, &head, &mut self.ex, &mut notes)? {
            Step::Forward(plan) => Ok(plan),
            Step::NeedsBody(awaiting) => {
                let whole = sent.len() as u64 <= awaiting.bytes_max();
                let collected = if whole {
                    Collected::Whole(sent)
                } else {
                    Collected::TooLarge
                };
                body(stage, &head, awaiting, collected, &mut self.ex, &mut notes)
            }
        }
    }

    fn kind(&mut self, peer: &str, head: &str, sent: &[u8]) -> Option<RejectionKind> {
        self.run(peer, head, sent).err().map(|r| r.kind)
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn the_client_is_whom_no_trusted_proxy_can_have_made_up() {
    let mut w = World::new();
    for (peer, forwarded, client) in [
        ("192.0.2.1", "", "192.0.2.1"),
        (
            "192.0.2.1",
            "X-Forwarded-For: 198.51.100.9\r\n",
            "192.0.2.1",
        ), // an untrusted peer says nothing
        ("10.0.0.1", "", "10.0.0.1"),
        (
            "10.0.0.1",
            "X-Forwarded-For: 198.51.100.9\r\n",
            "198.51.100.9",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: 6.6.6.6, 198.51.100.9, 10.0.0.2\r\n",
            "198.51.100.9",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 198.51.100.9:1234\r\n",
            "198.51.100.9",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: [2001:db8::1]:80\r\n",
            "2001:db8::1",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: ::ffff:198.51.100.9\r\n",
            "198.51.100.9",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: 6.6.6.6, unknown\r\n",
            "10.0.0.1",
        ), // stops at what it cannot read
        (
            "10.0.0.1",
            "X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.2\r\n",
            "10.0.0.2",
        ),
        (
            "10.0.0.1",
            "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n",
            "10.0.0.3",
        ),
    ] {
        assert!(
            w.run(peer, get("/open/x", forwarded), b"").is_ok(),
            "{peer} {forwarded}"
        );
        assert_eq!(w.ex.client.to_string(), client, "{peer} {forwarded}");
    }
}

#[test]
fn bytes_that_are_no_text_hide_nothing() {
    let mut w = World::new();
    for (fields, client) in [
        (
            &b"X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-For: \xff, 198.51.100.7\r\n"[..],
            "198.51.100.7",
        ),
        (
            &b"X-Forwarded-For: \xff, 198.51.100.7\r\n"[..],
            "198.51.100.7",
        ),
        (&b"X-Forwarded-For: 6.6.6.6, \xff\r\n"[..], "10.0.0.1"),
    ] {
        let head = [&b"GET /open/x HTTP/1.1\r\nHost: a\r\n"[..], fields, b"\r\n"].concat();
        assert!(w.run("10.0.0.1", head, b"").is_ok());
        assert_eq!(w.ex.client.to_string(), client);
    }
}

#[test]
fn routes_policies_and_bans_decide_in_turn() {
    let mut w = World::new();
    use RejectionKind::*;
    assert_eq!(w.kind("192.0.2.1", &get("/open/x", ""), b""), None);
    assert_eq!(w.ex.route.as_ref().unwrap().name.as_ref(), "open");
    assert_eq!(
        w.kind("192.0.2.1", &get("/nowhere", ""), b""),
        Some(NotFound)
    );
    assert_eq!(
        w.kind("192.0.2.1", &get("/shaped", ""), b""),
        Some(MethodNotAllowed)
    );
    assert_eq!(
        w.kind("203.0.113.9", &get("/open/x", ""), b""),
        Some(AddressDenied)
    );
    let ban = Ban {
        target: "192.0.2.1/32".parse().unwrap(),
        reason: BanReason::Syntax,
        rule: String::new(),
        since_wall_ns: 0,
        expires_mono_ns: 2_000_000_000,
    };
    w.bans.insert(ban).unwrap();
    assert_eq!(w.kind("192.0.2.1", &get("/open/x", ""), b""), Some(Banned));
    assert_eq!(
        w.kind(
            "10.0.0.1",
            &get("/open/x", "X-Forwarded-For: 192.0.2.1\r\n"),
            b""
        ),
        Some(Banned)
    );
}

#[test]
fn bodies_are_seen_whole_or_not_at_all() {
    let mut w = World::new();
    use RejectionKind::*;
    let post = |body: &str| {
        let n = body.len();
        format!(
            "POST /shaped HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n"
        )
    };
    for (body, expected) in [
        ("{\"item\":1}", None),
        ("{}", Some(BodyInvalid)),
        ("{\"item\":1,\"item\":2}", Some(MalformedBody)),
        (&"x".repeat(65), Some(BodyTooLarge)),
    ] {
        let found = w.kind("192.0.2.1", &post(body), body.as_bytes());
        assert_eq!(found, expected, "{body}");
    }
    let long = |n: u64| format!("POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n");
    assert_eq!(
        w.kind("192.0.2.1", &long(1024), b""),
        None,
        "at the listener's limit"
    );
    assert_eq!(
        w.kind("192.0.2.1", &long(1025), b""),
        Some(BodyTooLarge),
        "one byte beyond"
    );
}

#[test]
fn request_ids_are_32_hex_digits() {
    for id in [0, 1, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX] {
        assert_eq!(
            super::exchange::RequestId(id).to_string(),
            format!("{id:032x}")
        );
    }
}
