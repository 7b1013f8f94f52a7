//! Raw config -> [`Snapshot`]. Goes on after every error, so that one run shows them all.

use super::filter::RawFilter;
use super::observe::{RawAccessLog, RawAlerts, RawAuditLog};
use super::raw;
use super::sections::Sections;
use super::snapshot::{Listener, Route, Snapshot, Timeouts};
use super::{Ids, upstreams};
use crate::diagnose::{Compiler, Diagnostic, FileSource, did_you_mean};
use crate::http::HeadLimits;
use crate::limit::strikes::RawStrikes;
use crate::policy::chain::Chain;
use crate::policy::raw::Policies;
use crate::policy::{self, RawPolicy};
use crate::route::{RouteSpec, RouteTable};
use crate::tls;
use crate::upstream::Upstream;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

const SECTIONS: &[&str] = &[
    "server",
    "admin",
    "listeners",
    "upstreams",
    "policies",
    "routes",
    "strikes",
    "filter",
    "access_log",
    "audit_log",
    "alerts",
];

/// A config that works, and what its author should know about it.
pub struct Compiled {
    pub snapshot: Snapshot,
    pub warnings: Vec<Diagnostic>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Compiled({} routes, {} warnings)",
            self.snapshot.routes.len(),
            self.warnings.len()
        )
    }
}

/// Compiles the text and the files it names, or says everything that is wrong.
pub fn compile(
    text: &str,
    files: &dyn FileSource,
    ids: &mut Ids,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut c = Compiler::new(files);
    let snapshot = snapshot(text, ids, &mut c);
    match snapshot {
        Some(snapshot) if c.errors.is_empty() => Ok(Compiled {
            snapshot,
            warnings: c.warnings,
        }),
        _ => Err(c.errors),
    }
}

fn snapshot(text: &str, ids: &mut Ids, c: &mut Compiler<'_>) -> Option<Snapshot> {
    let mut sections = Sections::parse(text, c)?;
    let server: raw::Server = sections.one("server", c);
    let admin: raw::Admin = sections.one("admin", c);
    check_server(&server, &admin, c);
    let listeners = listeners(sections.many("listeners", c), c);
    let upstreams = upstreams::compile(sections.many("upstreams", c), ids, c);
    let names = sections.names("policies");
    let policies = policies(
        sections.many_with("policies", c, RawPolicy::parse),
        names,
        c,
    );
    let raw_routes = sections.many("routes", c);
    let (table, routes) = routes(raw_routes, &upstreams, &policies, ids, c);
    let strikes = sections.one::<RawStrikes>("strikes", c);
    let strikes = c.at("strikes", |c| strikes.compile(c));
    let filter = sections
        .maybe::<RawFilter>("filter", c)
        .map(|raw| c.at("filter", |c| raw.compile(c)));
    let access_log = sections.one::<RawAccessLog>("access_log", c).compile(c);
    let audit_log = sections.one::<RawAuditLog>("audit_log", c).compile(c);
    let alerts = sections.one::<RawAlerts>("alerts", c).compile(c);
    sections.refuse_rest(SECTIONS, c);
    Some(Snapshot {
        server,
        admin,
        listeners,
        table: table?,
        routes,
        strikes: strikes?,
        filter,
        access_log,
        audit_log,
        alerts,
    })
}

fn check_server(server: &raw::Server, admin: &raw::Admin, c: &mut Compiler<'_>) {
    c.at("server", |c| {
        if server.workers > 1024 {
            c.at("workers", |c| {
                c.error("more than 1024 threads", "0 starts one per core")
            });
        }
        if server.connections_max == 0 {
            c.at("connections_max", |c| {
                c.error("no connection would be accepted", "leave it out for 100000")
            });
        }
        if server.limiter_keys_max < 1024 {
            c.at("limiter_keys_max", |c| {
                c.error(
                    "fewer than 1024 keys would make limits forget callers",
                    "leave it out for 1048576",
                )
            });
        }
    });
    if let Some(metrics) = &admin.metrics
        && metrics.parse::<SocketAddr>().is_err()
    {
        c.at("admin", |c| {
            c.at("metrics", |c| {
                c.error(
                    format!("`{metrics}` is not ADDRESS:PORT"),
                    "for example \"127.0.0.1:9901\"",
                )
            })
        });
    }
}

fn listeners(raw: Vec<Option<raw::Listener>>, c: &mut Compiler<'_>) -> Vec<Arc<Listener>> {
    if raw.is_empty() {
        c.error(
            "no listener",
            "add one: [[listeners]] name = \"https\" address = \"0.0.0.0:8443\"",
        );
    }
    let mut made: Vec<Arc<Listener>> = Vec::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let Some(raw) = raw else { continue };
        c.at(format!("listeners[{i}]"), |c| {
            let twin = made
                .iter()
                .find(|l| *l.name == *raw.name || l.address.to_string() == raw.address);
            if let Some(twin) = twin {
                c.error(
                    format!("listener `{}` has the same name or address", twin.name),
                    "every listener needs its own",
                );
            }
            if let Some(listener) = listener(raw, c) {
                made.push(Arc::new(listener));
            }
        });
    }
    made
}

fn listener(raw: raw::Listener, c: &mut Compiler<'_>) -> Option<Listener> {
    let address = raw.address.parse::<SocketAddr>();
    if address.is_err() {
        c.at("address", |c| {
            c.error(
                format!("`{}` is not ADDRESS:PORT", raw.address),
                "for example \"0.0.0.0:8443\" or \"[::]:8443\"",
            )
        });
    }
    let tls = raw
        .tls
        .as_ref()
        .map(|tls| c.at("tls", |c| server_tls(tls, c)));
    let limits = raw.limits;
    c.at("limits", |c| check_limits(&limits, c));
    let timeouts = c.at("timeouts", |c| timeouts(&raw.timeouts, c));
    Some(Listener {
        name: raw.name.into(),
        address: address.ok()?,
        tls: match tls {
            None => None,
            Some(made) => Some(made?),
        },
        trusted_proxies: raw.trusted_proxies,
        timeouts,
        head: HeadLimits {
            head_bytes_max: limits.head_bytes.0 as usize,
            target_bytes_max: limits.target_bytes.0 as usize,
            headers_max: limits.fields,
            underscores: limits.underscores,
            encoded_slash: limits.encoded_slash,
            path_parameters: limits.path_parameters,
        },
        body_bytes_max: limits.body_bytes.0,
        requests_per_connection: limits.requests_per_connection,
    })
}

fn check_limits(limits: &raw::HeadLimits, c: &mut Compiler<'_>) {
    let head = limits.head_bytes.0;
    if !(1024..=256 << 10).contains(&head) {
        c.at("head_bytes", |c| {
            c.error(
                format!("{head} bytes is outside 1KiB to 256KiB"),
                "16KiB suits most APIs",
            )
        });
    }
    if limits.target_bytes.0 == 0 || limits.target_bytes.0 > head {
        c.at("target_bytes", |c| {
            c.error(
                "must be more than 0 and at most head_bytes",
                "8KiB suits most APIs",
            )
        });
    }
    if !(1..=128).contains(&limits.fields) {
        c.at("fields", |c| {
            c.error(
                format!("{} is outside 1 to 128", limits.fields),
                "100 suits most APIs",
            )
        });
    }
    if limits.requests_per_connection == 0 {
        c.at("requests_per_connection", |c| {
            c.error("no request would be served", "leave it out for 100000")
        });
    }
}

fn timeouts(raw: &raw::Timeouts, c: &mut Compiler<'_>) -> Timeouts {
    let all = [
        ("handshake", raw.handshake),
        ("head", raw.head),
        ("body", raw.body),
        ("idle", raw.idle),
        ("send", raw.send),
    ];
    for (name, span) in all {
        if span.0.is_zero() {
            c.at(name, |c| {
                c.error(
                    "a wait of nothing would end every connection",
                    "leave it out for the default",
                )
            });
        }
    }
    Timeouts {
        handshake: raw.handshake.0,
        head: raw.head.0,
        body: raw.body.0,
        body_rate_min: raw.body_rate_min.0.max(1),
        idle: raw.idle.0,
        send: raw.send.0,
    }
}

fn server_tls(raw: &raw::ListenerTls, c: &mut Compiler<'_>) -> Option<tls::ServerTls> {
    let only_tls13 = match raw.min_version.as_deref() {
        None | Some("1.2") => false,
        Some("1.3") => true,
        Some(other) => {
            c.at("min_version", |c| {
                c.error(format!("`{other}` is not offered"), "\"1.2\" or \"1.3\"")
            });
            false
        }
    };
    if raw.certificates.is_empty() {
        c.at("certificates", |c| {
            c.error(
                "no certificate",
                "certificates = [{ cert = \"chain.pem\", key = \"key.pem\" }]",
            )
        });
        return None;
    }
    let mut identities = Vec::new();
    for (i, certificate) in raw.certificates.iter().enumerate() {
        c.at(format!("certificates[{i}]"), |c| {
            let chain = c.at("cert", |c| c.read(&certificate.cert));
            let key = c.at("key", |c| c.read(&certificate.key));
            let (Some(chain), Some(key)) = (chain, key) else {
                return;
            };
            match tls::Identity::from_pem(&chain, &key) {
                Ok(identity) => identities.push(identity),
                Err(e) => c.error(
                    e.to_string(),
                    "cert: PEM chain, leaf first; key: the PEM private key of the leaf",
                ),
            }
        });
    }
    if identities.len() < raw.certificates.len() {
        return None; // said above
    }
    tls::ServerTls::new(identities, only_tls13)
        .map_err(|e| c.error(e.to_string(), ""))
        .ok()
}

type Routes = (Option<RouteTable>, Vec<Arc<Route>>);

fn routes(
    raw: Vec<Option<raw::Route>>,
    upstreams: &HashMap<String, Arc<Upstream>>,
    policies: &Declared,
    ids: &mut Ids,
    c: &mut Compiler<'_>,
) -> Routes {
    if raw.is_empty() {
        c.error(
            "no route",
            "add one: [[routes]] name = \"all\" path = \"/*\" upstream = \"…\"",
        );
    }
    let (mut specs, mut routes, mut names) = (Vec::new(), Vec::<Arc<Route>>::new(), HashMap::new());
    for (i, raw) in raw.into_iter().enumerate() {
        let Some(raw) = raw else { continue };
        c.at(format!("routes[{i}]"), |c| {
            if let Some(first) = names.insert(raw.name.clone(), i) {
                c.at("name", |c| {
                    c.error(
                        format!("routes[{first}] is called `{}` too", raw.name),
                        "every route needs its own name",
                    )
                });
            }
            let specs_of_route = route_specs(&raw, c);
            if let Some(route) = route(&raw, upstreams, policies, ids, c).map(Arc::new) {
                // One entry per host; all of them are the same route.
                routes.extend(specs_of_route.iter().map(|_| route.clone()));
                specs.extend(specs_of_route);
            }
        });
    }
    let table = match RouteTable::build(&specs) {
        Ok(table) => Some(table),
        Err(conflicts) => {
            for conflict in conflicts {
                let (first, second) = (&routes[conflict.first].name, &routes[conflict.second].name);
                let reason = format!("`{first}` and `{second}` would match the same requests");
                c.at("routes", |c| {
                    c.error(reason, "tell them apart by host, path, method or header")
                });
            }
            None
        }
    };
    (table, routes)
}

fn route_specs(raw: &raw::Route, c: &mut Compiler<'_>) -> Vec<RouteSpec> {
    let headers: Vec<(String, Option<String>)> = raw
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), (!value.is_empty()).then(|| value.clone())))
        .collect();
    let hosts: Vec<Option<&str>> = if raw.hosts.is_empty() {
        vec![None]
    } else {
        raw.hosts.iter().map(|h| Some(h.as_str())).collect()
    };
    let mut specs = Vec::new();
    for host in hosts {
        match RouteSpec::parse(host, &raw.path, &raw.methods, &headers) {
            Ok(spec) => specs.push(spec),
            Err((reason, hint)) => {
                c.error(reason, hint);
                break; // the same flaw for every host would be noise
            }
        }
    }
    specs
}

fn route(
    raw: &raw::Route,
    upstreams: &HashMap<String, Arc<Upstream>>,
    policies: &Declared,
    ids: &mut Ids,
    c: &mut Compiler<'_>,
) -> Option<Route> {
    let upstream = upstreams.get(&raw.upstream).cloned();
    if upstream.is_none() {
        let hint = missing_hint(
            &raw.upstream,
            upstreams.keys().map(String::as_str),
            "[[upstreams]]",
        );
        c.at("upstream", |c| {
            c.error(format!("no upstream is called `{}`", raw.upstream), hint)
        });
    }
    let chain = c.at("policies", |c| chain(&raw.policies, policies, c));
    if raw.response_timeout.is_some_and(|t| t.0.is_zero()) {
        c.at("response_timeout", |c| {
            c.error(
                "no response could arrive in no time",
                "leave it out for the upstream's",
            )
        });
    }
    let upstream = upstream?;
    Some(Route {
        id: ids.route(&raw.name),
        name: raw.name.as_str().into(),
        chain: chain?,
        strip_prefix_bytes: if raw.strip_prefix {
            literal_prefix(&raw.path)
        } else {
            0
        },
        websocket: raw.websocket,
        response_timeout: raw
            .response_timeout
            .map_or(upstream.response_timeout, |t| t.0),
        upstream,
    })
}

/// Policies by name, those that are declared but broken included: about these enough was said.
struct Declared {
    compiled: Policies,
    names: HashSet<String>,
}

fn policies(raw: Vec<Option<RawPolicy>>, names: HashSet<String>, c: &mut Compiler<'_>) -> Declared {
    let compiled = c.at("policies", |c| policy::compile_all(&raw, c));
    Declared { compiled, names }
}

fn chain(names: &[String], policies: &Declared, c: &mut Compiler<'_>) -> Option<Chain> {
    let is_broken = |name: &&String| {
        policies.names.contains(*name) && !policies.compiled.contains_key(name.as_str())
    };
    if !names.iter().any(|name| is_broken(&name)) {
        return Chain::compile(names, &policies.compiled, c);
    }
    let unknown = |name: &String| !policies.names.contains(name);
    for (i, name) in names.iter().enumerate().filter(|(_, name)| unknown(name)) {
        let hint = missing_hint(
            name,
            policies.names.iter().map(String::as_str),
            "[[policies]]",
        );
        c.at(format!("[{i}]"), |c| {
            c.error(format!("there is no policy \"{name}\""), hint)
        });
    }
    None
}

fn missing_hint<'k>(name: &str, known: impl Iterator<Item = &'k str>, section: &str) -> String {
    match did_you_mean(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("define it under {section}"),
    }
}

/// `/api/v1/*` and `/api/v1/{id}` both have the literal prefix `/api/v1`.
fn literal_prefix(path: &str) -> usize {
    let end = path.find(['*', '{']).unwrap_or(path.len());
    path[..end].trim_end_matches('/').len()
}
