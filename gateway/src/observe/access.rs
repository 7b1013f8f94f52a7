//! The access record: one exchange as one JSON line. Credentials are not in an [`Exchange`], so they cannot get here;
//! every byte a peer chose is escaped and capped, so it cannot forge a line.

use super::json::Object;
use super::stamp::Stamp;
use crate::pipeline::Exchange;

/// Caps in bytes of what a peer may put into one record. Names of ours are short already, but config may not be.
const METHOD_BYTES_MAX: usize = 32;
const HOST_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 2048;
const USER_AGENT_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 256;
/// Shadow hits listed in one record; policies per route are few, so more means a config gone wild.
const SHADOWED_MAX: usize = 16;

/// Appends the record of `ex` and a line feed. Allocates only while `out` grows.
pub fn write(out: &mut Vec<u8>, stamp: &mut Stamp, ex: &Exchange) {
    let mut record = Object::begin(out);
    let time = record.raw("time");
    time.push(b'"');
    stamp.write(ex.started.wall_ns, time);
    time.push(b'"');
    record.hex("id", &ex.id.0.to_be_bytes());
    client(&mut record, ex);
    tls(&mut record, ex);
    record.text("method", &ex.method, METHOD_BYTES_MAX);
    record.text("host", &ex.host, HOST_BYTES_MAX);
    record.text("path", &ex.path, PATH_BYTES_MAX);
    record.text("user_agent", &ex.user_agent, USER_AGENT_BYTES_MAX);
    let route = ex.route.as_ref().map(|r| &*r.name);
    record.text_or_null("route", route, NAME_BYTES_MAX);
    identity(&mut record, ex);
    decision(&mut record, ex);
    record.number("status", u64::from(ex.status));
    record.text_or_null("upstream", ex.upstream.as_deref(), NAME_BYTES_MAX);
    record.number("upstream_status", u64::from(ex.upstream_status));
    record.number("bytes_in", ex.bytes_in);
    record.number("bytes_out", ex.bytes_out);
    timings(&mut record, ex);
    record.end();
    out.push(b'\n');
}

fn client(record: &mut Object<'_>, ex: &Exchange) {
    record.plain("client", ex.client);
    record.number("port", u64::from(ex.socket.port()));
    // Behind a trusted proxy the socket's peer is another machine than the client.
    let peer = crate::units::unmapped(ex.socket.ip());
    if peer != ex.client {
        record.plain("peer", peer);
    }
    record.text("listener", &ex.listener, NAME_BYTES_MAX);
}

fn tls(record: &mut Object<'_>, ex: &Exchange) {
    let Some(facts) = &ex.tls else {
        return record.null("tls");
    };
    let mut tls = record.object("tls");
    tls.text("version", facts.version, NAME_BYTES_MAX);
    tls.text("cipher", facts.cipher, NAME_BYTES_MAX);
    tls.text_or_null("sni", facts.sni.as_deref(), HOST_BYTES_MAX);
    tls.end();
}

fn identity(record: &mut Object<'_>, ex: &Exchange) {
    let Some(caller) = &ex.identity else {
        return record.null("identity");
    };
    let mut identity = record.object("identity");
    identity.text("subject", &caller.subject, NAME_BYTES_MAX);
    identity.text("method", caller.method, NAME_BYTES_MAX);
    identity.text_or_null(
        "credential_id",
        caller.credential_id.as_deref(),
        NAME_BYTES_MAX,
    );
    identity.end();
}

fn decision(record: &mut Object<'_>, ex: &Exchange) {
    let mut decision = record.object("decision");
    decision.text("verdict", ex.decision.verdict(), NAME_BYTES_MAX);
    decision.text_or_null("slug", ex.decision.slug(), NAME_BYTES_MAX);
    let rule = match &ex.decision {
        crate::outcome::Decision::Refused { rule, .. } => Some(&**rule),
        _ => None,
    };
    decision.text_or_null("rule", rule, NAME_BYTES_MAX);
    decision.end();
    let list = record.raw("shadowed");
    list.push(b'[');
    for (i, hit) in ex.shadowed.iter().take(SHADOWED_MAX).enumerate() {
        if i > 0 {
            list.push(b',');
        }
        let mut entry = Object::begin(list);
        entry.text("rule", &hit.rule, NAME_BYTES_MAX);
        entry.text("slug", hit.kind.slug(), NAME_BYTES_MAX);
        entry.end();
    }
    list.push(b']');
}

fn timings(record: &mut Object<'_>, ex: &Exchange) {
    let mut us = record.object("us");
    us.number("head", ex.timings.head_us);
    us.number("policy", ex.timings.policy_us);
    us.number("connect", ex.timings.connect_us);
    us.number("upstream", ex.timings.upstream_us);
    us.number("total", ex.timings.total_us);
    us.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::outcome::{Decision, RejectionKind};
    use crate::pipeline::exchange::{RequestId, RouteRef};
    use crate::policy::{Identity, ShadowHit};
    use crate::tls::TlsFacts;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn line(ex: &Exchange) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, &mut Stamp::default(), ex);
        out
    }

    fn full() -> Exchange {
        let mut ex = Exchange::example();
        ex.id = RequestId(0xabc);
        ex.started = Now::at(0, 1_700_000_000);
        ex.tls = Some(Arc::new(TlsFacts {
            version: "1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            sni: Some("api.example".into()),
        }));
        ex.method = "GET".into();
        ex.host = "api.example".into();
        ex.path = "/orders/7".into();
        ex.route = Some(RouteRef {
            id: 3,
            name: "orders".into(),
        });
        ex.identity = Some(Arc::new(Identity {
            subject: "ann".into(),
            method: "api-key",
            credential_id: Some("k1".into()),
            ..Identity::default()
        }));
        ex.decision = Decision::Refused {
            kind: RejectionKind::RateLimited,
            rule: "per-key".into(),
        };
        ex.shadowed.push(ShadowHit {
            rule: "schema".into(),
            kind: RejectionKind::BodyInvalid,
        });
        ex.status = 429;
        ex.timings.total_us = 1234;
        ex
    }

    #[test]
    fn a_full_record_reads_back() {
        let v: serde_json::Value = serde_json::from_slice(&line(&full())).unwrap();
        assert_eq!(v["time"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(v["id"], "00000000000000000000000000000abc");
        assert_eq!(v["client"], "192.0.2.1");
        assert_eq!(v["port"], 40000);
        assert_eq!(v["tls"]["sni"], "api.example");
        assert_eq!(v["route"], "orders");
        assert_eq!(v["identity"]["credential_id"], "k1");
        assert_eq!(v["decision"]["verdict"], "refused");
        assert_eq!(v["decision"]["slug"], "rate-limited");
        assert_eq!(v["decision"]["rule"], "per-key");
        assert_eq!(v["shadowed"][0]["slug"], "body-invalid");
        assert_eq!(v["us"]["total"], 1234);
    }

    #[test]
    fn an_empty_exchange_is_a_record_too() {
        let v: serde_json::Value = serde_json::from_slice(&line(&Exchange::example())).unwrap();
        assert_eq!(v["decision"]["verdict"], "incomplete");
        // As after a malformed head: the members are there, so that every record has the same ones.
        for member in ["method", "host", "path", "user_agent"] {
            assert_eq!(v[member], "", "{member}");
        }
        assert!(v["tls"].is_null() && v["route"].is_null() && v["identity"].is_null());
        assert!(v.get("peer").is_none());
    }

    #[test]
    fn the_peer_stands_beside_a_vouched_for_client() {
        let mut ex = Exchange::example();
        ex.client = "2001:db8::7".parse().unwrap();
        let v: serde_json::Value = serde_json::from_slice(&line(&ex)).unwrap();
        assert_eq!(
            (&v["client"], &v["peer"]),
            (&"2001:db8::7".into(), &"192.0.2.1".into())
        );
    }

    #[test]
    fn a_warm_buffer_is_not_grown() {
        let ex = full();
        let mut out = line(&ex);
        let capacity = out.capacity();
        let mut stamp = Stamp::default();
        for _ in 0..3 {
            out.clear();
            write(&mut out, &mut stamp, &ex);
        }
        assert_eq!(out.capacity(), capacity);
    }

    proptest! {
        #[test]
        fn no_peer_string_forges_a_line(
            method in any::<String>(), host in any::<String>(), path in "(?s).{0,3000}", agent in any::<String>(),
            sni in any::<String>(), subject in any::<String>(), rule in any::<String>(), upstream in any::<String>(),
        ) {
            let mut ex = full();
            (ex.method, ex.host, ex.path, ex.user_agent) = (method, host, path, agent);
            ex.tls = Some(Arc::new(TlsFacts { version: "1.2", cipher: "x", sni: Some(sni.into()) }));
            ex.identity = Some(Arc::new(Identity { subject, ..Identity::default() }));
            ex.decision = Decision::Refused { kind: RejectionKind::Forbidden, rule: rule.into() };
            ex.upstream = Some(upstream.into());
            let bytes = line(&ex);
            let (last, body) = bytes.split_last().unwrap();
            prop_assert_eq!(*last, b'\n');
            let text = std::str::from_utf8(body).unwrap();
            let raw = text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
            prop_assert!(!raw);
            let v: serde_json::Value = serde_json::from_str(text).unwrap();
            prop_assert_eq!(v.as_object().unwrap().len(), 20);
        }
    }
}
