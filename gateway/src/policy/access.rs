//! `type = "access"`: what the caller must be (roles) and hold (scopes), by method where it differs.

use super::raw::Policies;
use super::{Identity, Mode, Policy, PolicyCx};
use crate::diagnose::Compiler;
use crate::outcome::{Rejection, RejectionKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAccess {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// The caller has at least one of these roles.
    #[serde(default)]
    pub roles_any: Vec<String>,
    /// The caller has all of these roles.
    #[serde(default)]
    pub roles_all: Vec<String>,
    /// The caller holds at least one of these scopes.
    #[serde(default)]
    pub scopes_any: Vec<String>,
    /// The caller holds all of these scopes.
    #[serde(default)]
    pub scopes_all: Vec<String>,
    /// Needs of one method, in place of those above: `methods.DELETE = { roles_any = ["admin"] }`.
    /// `HEAD` follows `GET` unless named.
    #[serde(default)]
    pub methods: BTreeMap<String, Needs>,
}

/// All lists must be met; an empty list asks for nothing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// At least one of these roles.
    pub roles_any: Vec<String>,
    /// All of these roles.
    pub roles_all: Vec<String>,
    /// At least one of these scopes.
    pub scopes_any: Vec<String>,
    /// All of these scopes.
    pub scopes_all: Vec<String>,
}

impl RawAccess {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        _: &Policies,
    ) -> Option<Access> {
        for method in self.methods.keys() {
            let is_method =
                !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if !is_method {
                c.at(format!("methods.{method}"), |c| {
                    c.error("methods are written in upper case", "for example DELETE")
                });
            }
        }
        Some(Access {
            rule,
            base: Needs {
                roles_any: self.roles_any.clone(),
                roles_all: self.roles_all.clone(),
                scopes_any: self.scopes_any.clone(),
                scopes_all: self.scopes_all.clone(),
            },
            methods: self.methods.clone().into_iter().collect(),
        })
    }
}

pub struct Access {
    rule: Arc<str>,
    base: Needs,
    methods: Vec<(String, Needs)>,
}

impl Access {
    fn needs(&self, method: &str) -> &Needs {
        let find = |name: &str| self.methods.iter().find(|(m, _)| m == name);
        let found = find(method).or_else(|| (method == "HEAD").then(|| find("GET")).flatten());
        found.map_or(&self.base, |(_, needs)| needs)
    }
}

impl Policy for Access {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let Some(identity) = cx.identity.as_deref() else {
            return Err(Rejection::new(
                RejectionKind::CredentialsMissing,
                self.rule.clone(),
                "This resource is for authenticated callers.",
            )
            // RFC 9110 section 15.5.2: a 401 names at least one challenge.
            .field("WWW-Authenticate", "Bearer realm=\"gateway\""));
        };
        let detail = match unmet(self.needs(cx.head.method), identity) {
            None => return Ok(()),
            Some(Unmet::Role) => "The caller lacks a role this needs.",
            Some(Unmet::Scope) => "The credentials lack a scope this needs.",
        };
        Err(Rejection::new(
            RejectionKind::Forbidden,
            self.rule.clone(),
            detail,
        ))
    }

    fn needs_identity(&self) -> bool {
        true
    }
}

enum Unmet {
    Role,
    Scope,
}

fn unmet(needs: &Needs, who: &Identity) -> Option<Unmet> {
    let meets = |any: &[String], all: &[String], has: &[String]| {
        (any.is_empty() || any.iter().any(|n| has.contains(n)))
            && all.iter().all(|n| has.contains(n))
    };
    if !meets(&needs.roles_any, &needs.roles_all, &who.roles) {
        return Some(Unmet::Role);
    }
    if !meets(&needs.scopes_any, &needs.scopes_all, &who.scopes) {
        return Some(Unmet::Scope);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, error, policy};
    use super::*;
    use crate::diagnose::Files;

    fn who(roles: &[&str], scopes: &[&str]) -> Identity {
        Identity {
            roles: roles.iter().map(|s| s.to_string()).collect(),
            scopes: scopes.iter().map(|s| s.to_string()).collect(),
            ..Identity::default()
        }
    }

    #[test]
    fn table() {
        let p = policy(
            "type = \"access\"\nname = \"a\"\nroles_any = [\"reader\", \"admin\"]\nroles_all = []\nscopes_all = [\"x\", \"y\"]\nscopes_any = [\"p\", \"q\"]\nmethods.DELETE = { roles_all = [\"admin\", \"root\"] }\nmethods.GET = {}",
        );
        for (method, roles, scopes, passes) in [
            ("POST", &["reader"][..], &["x", "y", "q"][..], true),
            ("POST", &["other"], &["x", "y", "q"], false),
            ("POST", &[], &["x", "y", "q"], false),
            ("POST", &["admin"], &["x", "q"], false),
            ("POST", &["admin"], &["x", "y"], false),
            ("DELETE", &["admin", "root"], &[], true),
            ("DELETE", &["admin"], &["x", "y", "q"], false),
            ("delete", &["admin", "root"], &[], false), // methods are case-sensitive
            ("GET", &[], &[], true),
            ("HEAD", &[], &[], true),
        ] {
            let mut case = Case::get().identity(who(roles, scopes));
            case.method = method;
            let found = case.check(&*p.policy);
            assert_eq!(found.is_ok(), passes, "{method} {roles:?} {scopes:?}");
            if let Err(r) = found {
                assert_eq!(r.kind, RejectionKind::Forbidden);
            }
        }
    }

    #[test]
    fn nobody_is_not_somebody() {
        let p = policy("type = \"access\"\nname = \"a\"");
        let r = Case::get().check(&*p.policy).unwrap_err();
        assert_eq!(r.kind, RejectionKind::CredentialsMissing);
        assert_eq!(r.fields[0].0, "WWW-Authenticate");
        let found = error(
            "type = \"access\"\nname = \"a\"\nmethods.delete = {}",
            &Files::default(),
        );
        assert!(found.contains("methods.delete"), "{found}");
    }
}
