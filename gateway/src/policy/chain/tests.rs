//! Table tests.

use super::*;
use crate::diagnose::Files;
use crate::policy::api_key::mint;
use crate::policy::compile_all;
use crate::policy::testing::{Case, policies, raws};

fn chain(toml: &str) -> Chain {
    Chain::new(policies(toml, &Files::default()).unwrap())
}

fn run(
    chain: &Chain,
    case: &mut Case,
    body: &[u8],
) -> (Result<Option<u64>, RejectionKind>, Vec<ShadowHit>) {
    let mut shadowed = Vec::new();
    let out = case.with(|cx| {
        let permit = match chain.check_head(cx, &mut shadowed)? {
            Admission::Permit(permit) => permit,
            Admission::NeedsBody(pending) if body.len() as u64 > pending.max() => {
                pending.exceeded(chain, cx, &mut shadowed)?
            }
            Admission::NeedsBody(pending) => pending.check_body(chain, cx, body, &mut shadowed)?,
        };
        Ok(permit.body_limit())
    });
    (out.map_err(|r: Rejection| r.kind), shadowed)
}

const DENY: &str = "[[policies]]\ntype = \"ip\"\nname = \"ip\"\ndeny = [\"192.0.2.1\"]\n";
const SCHEMA: &str = "[[policies]]\ntype = \"json_schema\"\nname = \"s\"\nmax_body = \"10B\"\nschema = '{\"type\":\"object\"}'\n";

#[test]
fn an_empty_chain_permits() {
    assert_eq!(
        run(&Chain::default(), &mut Case::get(), b""),
        (Ok(None), vec![])
    );
}

#[test]
fn shadow_records_and_passes() {
    let shadow = format!("{DENY}mode = \"shadow\"\n");
    let hit = ShadowHit {
        rule: "ip".into(),
        kind: RejectionKind::AddressDenied,
    };
    assert_eq!(
        run(&chain(DENY), &mut Case::get(), b"").0,
        Err(RejectionKind::AddressDenied)
    );
    assert_eq!(
        run(&chain(&shadow), &mut Case::get(), b""),
        (Ok(None), vec![hit])
    );
    assert_eq!(
        run(&chain(&shadow), &mut Case::get().ip("192.0.2.2"), b""),
        (Ok(None), vec![])
    );
}

#[test]
fn bodies_enforced_and_shadowed() {
    use RejectionKind::*;
    let shadow = format!("{SCHEMA}mode = \"shadow\"\n");
    for (body, kind) in [
        (&b"{}"[..], None),
        (b"[]", Some(BodyInvalid)),
        (b"{\"a\":1,\"a\":1}", Some(BodyTooLarge)),
        (b"{", Some(MalformedBody)),
    ] {
        let mut case = Case::post("application/json", 2);
        let (out, hits) = run(&chain(SCHEMA), &mut case, body);
        assert_eq!(out.err(), kind);
        assert!(hits.is_empty());
        let (out, hits) = run(&chain(&shadow), &mut case, body);
        assert_eq!(out, Ok(None), "a shadow policy never limits");
        assert_eq!(hits.first().map(|h| h.kind), kind);
        assert!(hits.len() <= 1);
    }
    // A shadow policy that refused the head is not asked again.
    let (out, hits) = run(&chain(&shadow), &mut Case::post("text/plain", 2), b"[]");
    assert_eq!((out, hits.len()), (Ok(None), 1));
}

#[test]
fn the_smallest_limit_counts() {
    let toml = "[[policies]]\ntype = \"request\"\nname = \"a\"\nmax_body = \"20B\"\n\
                [[policies]]\ntype = \"request\"\nname = \"b\"\nmax_body = \"10B\"\n\
                [[policies]]\ntype = \"request\"\nname = \"c\"\nmode = \"shadow\"\nmax_body = \"1B\"\n";
    assert_eq!(run(&chain(toml), &mut Case::get(), b"").0, Ok(Some(10)));
    assert_eq!(
        run(
            &chain(&format!("{toml}{SCHEMA}")),
            &mut Case::post("application/json", 2),
            b"{}"
        )
        .0,
        Ok(Some(10))
    );
}

#[test]
fn shadow_limits_do_not_show() {
    let toml = "[[policies]]\ntype = \"rate_limit\"\nname = \"l\"\nmode = \"shadow\"\nrate = \"1/h\"\nburst = 1\n";
    let (chain, mut case) = (chain(toml), Case::get());
    assert!(run(&chain, &mut case, b"").1.is_empty());
    assert_eq!(
        run(&chain, &mut case, b"").1[0].kind,
        RejectionKind::RateLimited
    );
    assert!(case.response_fields.is_empty());
}

#[test]
fn ip_key_role_limit() {
    let key = mint("a").unwrap();
    let toml = format!(
        "[[policies]]\ntype = \"ip\"\nname = \"ip\"\ndeny = [\"10.0.0.0/8\"]\n\
         [[policies]]\ntype = \"api_key\"\nname = \"k\"\nkeys = [{}]\n\
         [[policies]]\ntype = \"access\"\nname = \"a\"\n\
         [[policies]]\ntype = \"rate_limit\"\nname = \"l\"\nkey = \"api_key\"\nrate = \"1/h\"\nburst = 1\n",
        key.inline_toml()
    );
    let chain = chain(&toml);
    let mut case = Case::get();
    assert_eq!(
        run(&chain, &mut case, b"").0,
        Err(RejectionKind::CredentialsMissing)
    );
    let mut case = case.header("x-api-key", &key.key);
    assert_eq!(run(&chain, &mut case, b"").0, Ok(None));
    assert_eq!(
        run(&chain, &mut case, b"").0,
        Err(RejectionKind::RateLimited)
    );
}

#[test]
fn names_and_order() {
    let toml = format!("{SCHEMA}{DENY}[[policies]]\ntype = \"access\"\nname = \"a\"\n");
    let files = Files::default();
    let mut c = Compiler::new(&files);
    let raws = raws(&toml, &mut c);
    let all = compile_all(&raws, &mut c);
    let mut order = |names: &[&str]| {
        c.warnings.clear();
        c.errors.clear();
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let chain = Chain::compile(&names, &all, &mut c);
        (
            chain.is_some(),
            c.warnings.len(),
            c.errors.first().map(|e| e.hint.clone()),
        )
    };
    assert_eq!(order(&["ip", "s"]), (true, 0, None));
    assert_eq!(order(&["s", "ip"]), (true, 1, None));
    assert_eq!(order(&["a"]), (true, 1, None));
    assert_eq!(
        order(&["ipp"]),
        (false, 0, Some("did you mean \"ip\"?".into()))
    );
}

#[test]
fn a_shadow_policy_changes_nothing() {
    let (real, tried) = (mint("real").unwrap(), mint("tried").unwrap());
    let keys = |name: &str, field: &str, mode: &str, key: &crate::policy::api_key::Minted| {
        format!(
            "[[policies]]\ntype = \"api_key\"\nname = \"{name}\"\nheader = \"{field}\"\nmode = \"{mode}\"\nkeys = [{}]\n",
            key.inline_toml()
        )
    };
    let toml = [
        keys("real", "x-real", "enforce", &real),
        keys("tried", "x-tried", "shadow", &tried),
    ]
    .concat();
    let chain = chain(&toml);
    let both = || {
        Case::get()
            .header("x-real", &real.key)
            .header("x-tried", &tried.key)
    };
    let mut case = both();
    assert_eq!(run(&chain, &mut case, b""), (Ok(None), vec![]));
    assert_eq!(
        case.identity.as_ref().unwrap().subject,
        "real",
        "the enforced identity stays"
    );
    assert_eq!(
        case.strip.len(),
        1,
        "the tried credential reaches an upstream that may need it"
    );
    // A shadow policy alone makes nobody known.
    let alone = super::super::testing::policies(
        &keys("tried", "x-tried", "shadow", &tried),
        &Files::default(),
    )
    .unwrap();
    let mut case = both();
    assert!(run(&Chain::new(alone), &mut case, b"").0.is_ok());
    assert!(case.identity.is_none() && case.strip.is_empty());
}
