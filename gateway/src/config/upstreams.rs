//! `[[upstreams]]` -> groups of targets.

use super::{Ids, raw};
use crate::diagnose::Compiler;
use crate::tls::ClientTls;
use crate::upstream::{Target, Upstream};
use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// More targets than this in one group is a mistake.
const TARGETS_MAX: usize = 4096;

pub fn compile(
    raw: Vec<Option<raw::Upstream>>,
    ids: &mut Ids,
    c: &mut Compiler<'_>,
) -> HashMap<String, Arc<Upstream>> {
    let mut made = HashMap::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let Some(raw) = raw else { continue };
        c.at(format!("upstreams[{i}]"), |c| {
            if made.contains_key(&raw.name) {
                c.at("name", |c| {
                    c.error(
                        format!("two upstreams are called `{}`", raw.name),
                        "every upstream needs its own name",
                    )
                });
            }
            if let Some(upstream) = upstream(&raw, ids, c) {
                made.insert(raw.name, Arc::new(upstream));
            }
        });
    }
    made
}

fn upstream(raw: &raw::Upstream, ids: &mut Ids, c: &mut Compiler<'_>) -> Option<Upstream> {
    for (name, span) in [
        ("connect_timeout", raw.connect_timeout),
        ("response_timeout", raw.response_timeout),
    ] {
        if span.0.is_zero() {
            c.at(name, |c| {
                c.error(
                    "nothing can be done in no time",
                    "leave it out for the default",
                )
            });
        }
    }
    if raw.targets.is_empty() || raw.targets.len() > TARGETS_MAX {
        c.at("targets", |c| {
            c.error(
                format!(
                    "{} targets; 1 to {TARGETS_MAX} are possible",
                    raw.targets.len()
                ),
                "targets = [\"10.0.0.7:8080\"]",
            )
        });
        return None;
    }
    let (tls, tls_key) = match &raw.tls {
        None => (None, String::new()),
        Some(tls) => c.at("tls", |c| client_tls(tls, c))?,
    };
    let mut targets = Vec::new();
    for (i, text) in raw.targets.iter().enumerate() {
        let addresses = c.at(format!("targets[{i}]"), |c| resolve(text, c));
        for address in addresses {
            let (id, health) = ids.target(format!("{address} {tls_key}"));
            targets.push(Arc::new(Target {
                id,
                label: address.to_string().into(),
                address,
                tls: tls.clone(),
                health,
            }));
        }
    }
    if targets.is_empty() {
        return None; // said above
    }
    Some(Upstream {
        name: raw.name.as_str().into(),
        targets,
        connect_timeout: raw.connect_timeout.0,
        response_timeout: raw.response_timeout.0,
        idle_connections_max: raw.idle_connections,
        idle_timeout: raw.idle_timeout.0,
    })
}

/// The client side of TLS, and a key that tells its settings from others.
fn client_tls(raw: &raw::UpstreamTls, c: &mut Compiler<'_>) -> Option<(Option<ClientTls>, String)> {
    let ca = match &raw.ca {
        None => None,
        Some(path) => Some(c.at("ca", |c| c.read(path))?),
    };
    match ClientTls::new(&raw.server_name, ca.as_deref()) {
        Ok(tls) => {
            let digest = aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA256,
                ca.as_deref().unwrap_or_default(),
            );
            Some((Some(tls), format!("tls {} {digest:?}", raw.server_name)))
        }
        Err(e) => {
            c.error(
                e.to_string(),
                "server_name is the name on the upstream's certificate; ca a PEM bundle",
            );
            None
        }
    }
}

fn resolve(text: &str, c: &mut Compiler<'_>) -> Vec<SocketAddr> {
    match text.to_socket_addrs() {
        Ok(found) => {
            let mut all: Vec<SocketAddr> = found.collect();
            all.sort();
            all.dedup();
            if all.iter().any(|a| a.port() == 0) {
                c.error(
                    "port 0 cannot be connected to",
                    "write the port the upstream listens on",
                );
            }
            all
        }
        Err(e) => {
            c.error(
                format!("`{text}` is not ADDRESS:PORT or a name that resolves ({e})"),
                "for example \"10.0.0.7:8080\"",
            );
            Vec::new()
        }
    }
}
