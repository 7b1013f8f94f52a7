//! The list of policies: one line per type in the file, in the compiler, and nowhere else.

use super::{
    Mode, Named, Policy, access, any_of, api_key, ip, jwt, rate_limit, request_rules, schema,
};
use crate::diagnose::{Compiler, did_you_mean, element};
use std::collections::HashMap;
use std::sync::Arc;
use toml::Value;

/// Compiled policies by name.
pub type Policies = HashMap<Arc<str>, Arc<Named>>;

/// One `[[policies]]` entry. Each type carries `name` and `mode` itself: a shared part would have to
/// be flattened, and serde cannot refuse unknown fields beside a flattened one.
macro_rules! policy_types {
    ($($tag:literal => $variant:ident($raw:ty),)*) => {
        #[derive(Clone, Debug)]
        pub enum RawPolicy { $($variant($raw),)* }

        impl RawPolicy {
            /// Every value `type` may take.
            pub const TYPES: &'static [&'static str] = &[$($tag,)*];

            fn parse_as(tag: &str, value: Value, c: &mut Compiler<'_>) -> Option<RawPolicy> {
                match tag {
                    $($tag => element(value, c).map(RawPolicy::$variant),)*
                    _ => {
                        let hint = did_you_mean(tag, Self::TYPES.iter().copied())
                            .map_or_else(|| format!("types: {}", Self::TYPES.join(", ")), |t| format!("did you mean `{t}`?"));
                        c.at("type", |c| c.error(format!("there is no policy type `{tag}`"), hint));
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

impl RawPolicy {
    /// One `[[policies]]` entry. The type decides which keys there are.
    pub fn parse(mut value: Value, c: &mut Compiler<'_>) -> Option<RawPolicy> {
        let tag = value.as_table_mut().and_then(|table| table.remove("type"));
        match tag {
            Some(Value::String(tag)) => RawPolicy::parse_as(&tag, value, c),
            _ => {
                let hint = format!("type is one of {}", Self::TYPES.join(", "));
                c.at("type", |c| c.error("a policy needs a type", hint));
                None
            }
        }
    }
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

/// Compiles the whole list: first what stands alone, then what names others. Call it at the path of
/// the list; errors get the index. `None` holds the place of an entry that did not parse.
pub fn compile_all(raws: &[Option<RawPolicy>], c: &mut Compiler<'_>) -> Policies {
    let mut all = Policies::new();
    let composite = |raw: &RawPolicy| matches!(raw, RawPolicy::AnyOf(_));
    for second_pass in [false, true] {
        let parsed = raws
            .iter()
            .enumerate()
            .filter_map(|(i, raw)| Some((i, raw.as_ref()?)));
        for (i, raw) in parsed {
            if composite(raw) != second_pass || names_a_broken_one(raw, raws, &all) {
                continue;
            }
            c.at(format!("[{i}]"), |c| {
                let duplicate = raws[..i].iter().flatten().any(|r| r.name() == raw.name());
                if duplicate {
                    c.at("name", |c| {
                        c.error(
                            format!("the policy \"{}\" stands twice", raw.name()),
                            "names are unique, give one of them another",
                        )
                    });
                } else if let Some(named) = compile(raw, c, &all) {
                    all.insert(named.name.clone(), Arc::new(named));
                }
            });
        }
    }
    all
}

/// Whether it needs a policy that is declared but does not compile: of that enough was said.
fn names_a_broken_one(raw: &RawPolicy, raws: &[Option<RawPolicy>], all: &Policies) -> bool {
    let RawPolicy::AnyOf(any) = raw else {
        return false;
    };
    let declared = |name: &String| {
        raws.iter()
            .flatten()
            .any(|r| r.name() == name && !matches!(r, RawPolicy::AnyOf(_)))
    };
    any.of
        .iter()
        .any(|name| declared(name) && !all.contains_key(name.as_str()))
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
                "there is no policy type `ipp`",
            ),
            ("name = \"a\"", "a policy needs a type"),
            ("type = \"ip\"", "missing field `name`"),
            (
                "type = \"ip\"\nname = \"a\"\ndenny = []",
                "unknown key `denny`",
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
