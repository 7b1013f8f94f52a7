//! A request and its surroundings for the policies' table tests.

use super::{Identity, Peer, Policy, PolicyCx, RawPolicy, compile_all};
use crate::clock::Now;
use crate::diagnose::{Compiler, Diagnostic, Files};
use crate::http::{Framing, Header, RequestHead, Version};
use crate::limit::LimitTable;
use crate::outcome::Rejection;
use crate::policy::Named;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const NOW: Now = Now::at(1_000_000_000_000, 1_800_000_000);

/// One request. Owns what a head borrows.
pub(crate) struct Case {
    pub method: &'static str,
    pub path: &'static str,
    pub query: Option<String>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub framing: Framing,
    pub ip: IpAddr,
    pub params: Vec<(&'static str, &'static str)>,
    pub now: Now,
    pub limits: LimitTable,
    pub identity: Option<Arc<Identity>>,
    pub response_fields: Vec<(&'static str, String)>,
    pub strip: Vec<Arc<str>>,
}

impl Case {
    pub(crate) fn get() -> Case {
        Case {
            method: "GET",
            path: "/",
            query: None,
            headers: Vec::new(),
            framing: Framing::Empty,
            ip: "192.0.2.1".parse().unwrap(),
            params: Vec::new(),
            now: NOW,
            limits: LimitTable::new(1000),
            identity: None,
            response_fields: Vec::new(),
            strip: Vec::new(),
        }
    }

    pub(crate) fn post(content_type: &str, length: u64) -> Case {
        let mut case = Case::get().header("content-type", content_type);
        case.method = "POST";
        case.framing = Framing::Length(length);
        case
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Case {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn query(mut self, query: &str) -> Case {
        self.query = Some(query.into());
        self
    }

    pub(crate) fn ip(mut self, ip: &str) -> Case {
        self.ip = ip.parse().unwrap();
        self
    }

    pub(crate) fn identity(mut self, identity: Identity) -> Case {
        self.identity = Some(Arc::new(identity));
        self
    }

    pub(crate) fn with<T>(&mut self, f: impl FnOnce(&mut PolicyCx<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value })
            .collect();
        let head = RequestHead {
            method: self.method,
            version: Version::Http11,
            path: self.path,
            query: self.query.as_deref(),
            host: "api.example",
            headers: &headers,
            framing: self.framing,
            keep_alive: true,
            expect_continue: false,
            websocket: false,
        };
        f(&mut PolicyCx {
            head: &head,
            peer: Peer {
                ip: self.ip,
                tls: None,
            },
            params: &self.params.iter().copied().collect(),
            route: "test",
            now: self.now,
            limits: &self.limits,
            identity: &mut self.identity,
            response_fields: &mut self.response_fields,
            strip: &mut self.strip,
        })
    }

    pub(crate) fn check(&mut self, policy: &dyn Policy) -> Result<(), Rejection> {
        self.with(|cx| policy.check(cx))
    }

    pub(crate) fn check_body(&mut self, policy: &dyn Policy, body: &[u8]) -> Result<(), Rejection> {
        self.with(|cx| policy.check_body(cx, body))
    }
}

#[derive(serde::Deserialize)]
struct File {
    policies: Vec<toml::Value>,
}

/// The entries of `[[policies]]…`, parsed as the config does.
pub(crate) fn raws(toml: &str, c: &mut Compiler<'_>) -> Vec<Option<RawPolicy>> {
    let file: File = toml::from_str(toml).unwrap();
    c.at("policies", |c| {
        let parse = |(i, value)| c.at(format!("[{i}]"), |c| RawPolicy::parse(value, c));
        file.policies.into_iter().enumerate().map(parse).collect()
    })
}

/// The policies of a config such as `[[policies]]…`, or what is wrong with it.
pub(crate) fn policies(toml: &str, files: &Files) -> Result<Vec<Arc<Named>>, Vec<Diagnostic>> {
    let mut c = Compiler::new(files);
    let raws = raws(toml, &mut c);
    let all = c.at("policies", |c| compile_all(&raws, c));
    if !c.errors.is_empty() {
        return Err(c.errors);
    }
    Ok(raws
        .iter()
        .flatten()
        .map(|raw| all[raw.name()].clone())
        .collect())
}

/// The single policy of a table body.
pub(crate) fn policy(body: &str) -> Arc<Named> {
    policy_with(body, &Files::default())
}

pub(crate) fn policy_with(body: &str, files: &Files) -> Arc<Named> {
    policies(&format!("[[policies]]\n{body}"), files)
        .unwrap_or_else(|e| panic!("{e:?}"))
        .remove(0)
}

/// The first thing wrong with a policy: path and reason in one line.
pub(crate) fn error(body: &str, files: &Files) -> String {
    let errors = policies(&format!("[[policies]]\n{body}"), files).expect_err(body);
    errors[0].to_string()
}

pub(crate) fn files(list: &[(&str, &[u8])]) -> Files {
    Files(
        list.iter()
            .map(|(path, bytes)| (path.into(), Arc::from(*bytes)))
            .collect(),
    )
}
