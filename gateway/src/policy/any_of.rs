//! `type = "any_of"`: passes if one of the named authentication policies passes.

use super::raw::Policies;
use super::{Cost, Mode, Named, Policy, PolicyCx};
use crate::diagnose::{Compiler, did_you_mean};
use crate::outcome::{Rejection, RejectionKind};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAnyOf {
    /// The rule's name in logs, metrics and error bodies.
    pub name: String,
    /// `enforce` (default) or `shadow`. The members' own mode plays no part here.
    #[serde(default)]
    pub mode: Mode,
    /// Names of authentication policies, tried in this order.
    pub of: Vec<String>,
}

impl RawAnyOf {
    pub(super) fn compile(
        &self,
        rule: Arc<str>,
        c: &mut Compiler<'_>,
        others: &Policies,
    ) -> Option<AnyOf> {
        let mut of = Vec::new();
        for (i, name) in self.of.iter().enumerate() {
            c.at("of", |c| {
                c.at(format!("[{i}]"), |c| match others.get(name.as_str()) {
                    Some(member) if !member.policy.authenticates() || member.name == rule => c
                        .error(
                            format!("\"{name}\" is no authentication policy"),
                            "name policies of type api_key or jwt",
                        ),
                    Some(member) => of.push(member.clone()),
                    None => c.error(
                        format!("there is no policy \"{name}\" that could stand here"),
                        did_you_mean(name, others.keys().map(|k| &**k))
                            .map_or_else(String::new, |k| format!("did you mean \"{k}\"?")),
                    ),
                })
            });
        }
        if self.of.is_empty() {
            c.at("of", |c| {
                c.error(
                    "no policy is named",
                    "name at least one authentication policy",
                )
            });
        }
        (of.len() == self.of.len() && !of.is_empty()).then_some(AnyOf { rule, of })
    }
}

pub struct AnyOf {
    rule: Arc<str>,
    of: Vec<Arc<Named>>,
}

impl Policy for AnyOf {
    fn check(&self, cx: &mut PolicyCx<'_>) -> Result<(), Rejection> {
        let mut refused: Option<Rejection> = None;
        for member in &self.of {
            match (member.policy.check(cx), &mut refused) {
                (Ok(()), _) => {
                    // A credential that was not needed is no business of the upstream's either.
                    for field in self.of.iter().filter_map(|m| m.policy.consumes()) {
                        if !cx.strip.contains(field) {
                            cx.strip.push(field.clone());
                        }
                    }
                    return Ok(());
                }
                (Err(new), None) => refused = Some(new),
                (Err(mut new), Some(old)) => {
                    // What the caller did present and got wrong says more than what it did not send;
                    // every scheme that would do is offered (RFC 9110 section 11.6.1).
                    if old.kind == RejectionKind::CredentialsMissing && new.kind != old.kind {
                        std::mem::swap(old, &mut new);
                    }
                    let offers = new
                        .fields
                        .into_iter()
                        .filter(|(n, _)| *n == "WWW-Authenticate");
                    old.fields.extend(offers);
                }
            }
        }
        match refused {
            Some(refused) => Err(refused),
            // Unreachable while `compile` refuses an empty list; and then closed, not open.
            None => Err(Rejection::new(
                RejectionKind::CredentialsMissing,
                self.rule.clone(),
                "Credentials are required.",
            )),
        }
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        let costs = self.of.iter().map(|m| m.policy.cost());
        costs.max().unwrap_or(Cost::Cheap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::api_key::mint;
    use super::super::testing::{Case, policies};
    use super::*;
    use crate::diagnose::Files;

    #[test]
    fn one_is_enough_and_the_wrong_outweighs_the_missing() {
        let (one, two) = (mint("one").unwrap(), mint("two").unwrap());
        let config = format!(
            "[[policies]]\ntype = \"any_of\"\nname = \"any\"\nof = [\"k1\", \"k2\"]\n\
             [[policies]]\ntype = \"api_key\"\nname = \"k1\"\nheader = \"X-One\"\nkeys = [{}]\n\
             [[policies]]\ntype = \"api_key\"\nname = \"k2\"\nheader = \"X-Two\"\nkeys = [{}]\n",
            one.inline_toml(),
            two.inline_toml()
        );
        let any = policies(&config, &Files::default()).unwrap().remove(0);
        for (headers, expected) in [
            (vec![], Err(RejectionKind::CredentialsMissing)),
            (vec![("x-one", &one.key)], Ok("one")),
            (vec![("x-two", &two.key)], Ok("two")),
            (
                vec![("x-two", &one.key)],
                Err(RejectionKind::CredentialsInvalid),
            ),
            (
                vec![("x-one", &two.key)],
                Err(RejectionKind::CredentialsInvalid),
            ),
            (vec![("x-one", &two.key), ("x-two", &two.key)], Ok("two")),
        ] {
            let mut case = Case::get();
            for (name, value) in headers {
                case = case.header(name, value);
            }
            match (case.check(&*any.policy), expected) {
                (Ok(()), Ok(owner)) => assert_eq!(case.identity.unwrap().subject, owner),
                (Err(r), Err(kind)) => {
                    assert_eq!(r.kind, kind);
                    assert_eq!(r.fields.len(), 2, "both schemes are offered");
                    assert!(case.identity.is_none());
                }
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn members_are_checked() {
        for (of, says) in [
            ("[]", "no policy is named"),
            ("[\"nobody\"]", "there is no policy"),
            ("[\"net\"]", "no authentication policy"),
            ("[\"any\"]", "there is no policy"),
        ] {
            let config = format!(
                "[[policies]]\ntype = \"any_of\"\nname = \"any\"\nof = {of}\n[[policies]]\ntype = \"ip\"\nname = \"net\"\ndeny = [\"10.0.0.0/8\"]"
            );
            let errors = policies(&config, &Files::default()).unwrap_err();
            assert!(errors[0].reason.contains(says), "{errors:?}");
        }
    }
}
