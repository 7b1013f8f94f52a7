//! The list of policies: one line per type in the file, in the compiler, and nowhere else.

use super::{
    Mode, Named, Policy, access, any_of, api_key, ip, jwt, rate_limit, request_rules, schema,
};
use crate::diagnose::{Compiler, did_you_mean};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Compiled policies by name.
pub type Policies = HashMap<String, Arc<Named>>;

/// One `[[policies]]` entry. Each type carries `name` and `mode` itself: a shared part would have to
/// be flattened, and serde cannot refuse unknown fields beside a flattened one. For the same reason
/// `type` is taken out by hand: a tagged enum would lose the path of what is wrong.
macro_rules! policy_types {
    ($($tag:literal => $variant:ident($raw:ty),)*) => {
        #[derive(Clone, Debug)]
        pub enum RawPolicy { $($variant($raw),)* }

        impl RawPolicy {
            /// Every value `type` may take.
            pub const TYPES: &'static [&'static str] = &[$($tag,)*];

            fn of_type(tag: &str, rest: toml::Value, c: &mut Compiler<'_>) -> Option<RawPolicy> {
                match tag {
                    $($tag => read::<$raw>(rest, c).map(RawPolicy::$variant),)*
                    unknown => {
                        let hint = match did_you_mean(unknown, Self::TYPES.iter().copied()) {
                            Some(near) => format!("did you mean \"{near}\"?"),
                            None => format!("one of {}", Self::TYPES.join(", ")),
                        };
                        c.at("type", |c| c.error(format!("there is no policy type \"{unknown}\""), hint));
                        None
                    }
                }
            }

            pub fn name(&self) -> &str { match self { $(RawPolicy::$variant(raw) => &raw.name,)* } }
            pub fn mode(&self) -> Mode { match self { $(RawPolicy::$variant(raw) => raw.mode,)* } }
            pub fn type_name(&self) -> &'static str { match self { $(RawPolicy::$variant(_) => $tag,)* } }

            fn build(&self, rule: Arc<str>, c: &mut Compiler<'_>, others: &Policies) -> Option<Box<dyn Policy>> {
                match self { $(RawPolicy::$variant(raw) => raw.compile(rule, c, others).map(|p| Box::new(p) as Box<dyn Policy>),)* }
            }
        }
    };
}

policy_types! {
    "api_key" => ApiKey(api_key::RawApiKey),
    "jwt" => Jwt(jwt::RawJwt),
    "any_of" => AnyOf(any_of::RawAnyOf),
    "access" => Access(access::RawAccess),
    "rate_limit" => RateLimit(rate_limit::RawRateLimit),
    "json_schema" => JsonSchema(schema::RawJsonSchema),
    "request" => Request(request_rules::RawRequest),
    "ip" => Ip(ip::RawIp),
}

/// Compiles one policy. `others` are those it may name (`any_of`).
pub fn compile(raw: &RawPolicy, c: &mut Compiler<'_>, others: &Policies) -> Option<Named> {
    let name = raw.name();
    if !is_slug(name) {
        c.at("name", |c| {
            c.error(
                "a policy's name is 1 to 64 of a-z, 0-9, '-', '_' and '.'",
                "it stands in logs, metrics and error bodies, for example \"partner-keys\"",
            )
        });
        return None;
    }
    let rule: Arc<str> = name.into();
    let errors = c.errors.len();
    let policy = raw.build(rule.clone(), c, others)?;
    (c.errors.len() == errors).then_some(Named {
        name: rule,
        mode: raw.mode(),
        policy,
    })
}

impl RawPolicy {
    /// Reads one table, at the path of the entry.
    pub fn parse(value: toml::Value, c: &mut Compiler<'_>) -> Option<RawPolicy> {
        let toml::Value::Table(mut table) = value else {
            c.error("a policy is a table", "write it as [[policies]]");
            return None;
        };
        match table.remove("type") {
            Some(toml::Value::String(tag)) => Self::of_type(&tag, toml::Value::Table(table), c),
            _ => {
                let types = format!("add `type`, one of {}", Self::TYPES.join(", "));
                c.error("the policy has no type", types);
                None
            }
        }
    }
}

fn read<T: DeserializeOwned>(value: toml::Value, c: &mut Compiler<'_>) -> Option<T> {
    let error = match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(parsed) => return Some(parsed),
        Err(e) => e,
    };
    let reason = error.inner().message().to_string();
    // "unknown field `x`, expected one of `a`, `b`": the names stand at the odd places.
    let mut quoted = reason.split('`').skip(1).step_by(2);
    let hint = match (reason.starts_with("unknown"), quoted.next()) {
        (true, Some(unknown)) => did_you_mean(unknown, quoted)
            .map_or_else(String::new, |near| format!("did you mean \"{near}\"?")),
        _ => String::new(),
    };
    match error.path().to_string().as_str() {
        "." => c.error(reason, hint),
        path => c.at(path, |c| c.error(reason, hint)),
    }
    None
}

/// Compiles the section `policies`: first what stands alone, then what names others.
pub fn compile_all(list: Vec<toml::Value>, c: &mut Compiler<'_>) -> Policies {
    let mut all = Policies::new();
    let mut seen = HashSet::new();
    let mut composite = Vec::new();
    c.at("policies", |c| {
        for (i, value) in list.into_iter().enumerate() {
            c.at(format!("[{i}]"), |c| {
                let Some(raw) = RawPolicy::parse(value, c) else {
                    return;
                };
                if !seen.insert(raw.name().to_owned()) {
                    c.at("name", |c| {
                        c.error(
                            format!("the policy \"{}\" stands twice", raw.name()),
                            "names are unique, give one of them another",
                        )
                    });
                } else if matches!(raw, RawPolicy::AnyOf(_)) {
                    composite.push((i, raw));
                } else {
                    add(&mut all, &raw, c);
                }
            });
        }
        for (i, raw) in composite {
            c.at(format!("[{i}]"), |c| add(&mut all, &raw, c));
        }
    });
    all
}

fn add(all: &mut Policies, raw: &RawPolicy, c: &mut Compiler<'_>) {
    if let Some(named) = compile(raw, c, all) {
        all.insert(named.name.to_string(), Arc::new(named));
    }
}

fn is_slug(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, policies};
    use crate::diagnose::Files;

    #[test]
    fn wrong_entries_say_why() {
        let none = Files::default();
        for (body, says) in [
            (
                "type = \"ip\"\nname = \"Bad Name\"\ndeny = []",
                "name: a policy's name",
            ),
            (
                "type = \"ipp\"\nname = \"a\"",
                "type: there is no policy type",
            ),
            ("name = \"a\"", "the policy has no type"),
            ("type = \"ip\"", "missing field `name`"),
            (
                "type = \"ip\"\nname = \"a\"\ndenny = []",
                "unknown field `denny`",
            ),
            (
                "type = \"ip\"\nname = \"a\"\nmode = \"off\"",
                "unknown variant `off`",
            ),
        ] {
            let found = error(body, &none);
            assert!(found.contains(says), "{body}: {found}");
        }
        let twice = "[[policies]]\ntype = \"ip\"\nname = \"a\"\ndeny = [\"10.0.0.0/8\"]\n";
        let errors = policies(&format!("{twice}{twice}"), &none).unwrap_err();
        assert_eq!(errors[0].path, "policies[1].name");
    }
}
