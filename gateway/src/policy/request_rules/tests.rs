//! Table tests.

use super::*;
use crate::diagnose::Files;
use crate::policy::Named;
use crate::policy::testing::{Case, error, policy};

fn rules(rest: &str) -> Arc<Named> {
    policy(&format!("type = \"request\"\nname = \"r\"\n{rest}"))
}

#[track_caller]
fn expect(p: &Named, mut case: Case, expected: Option<RejectionKind>) -> Option<Rejection> {
    let found = case.check(&*p.policy);
    assert_eq!(found.as_ref().err().map(|r| r.kind), expected);
    found.err()
}

#[test]
fn sizes_and_types() {
    use RejectionKind::*;
    let p = rules("max_body = \"1KiB\"\ncontent_types = [\"application/json\", \"image/*\"]");
    expect(&p, Case::get(), None);
    expect(&p, Case::post("application/json", 1024), None);
    expect(&p, Case::post("application/json", 1025), Some(BodyTooLarge));
    expect(&p, Case::post("Application/JSON ; charset=utf-8", 1), None);
    expect(&p, Case::post("image/png", 1), None);
    for other in ["text/json", "application/jsonx", "image/", "", "x"] {
        expect(&p, Case::post(other, 1), Some(UnsupportedMediaType));
    }
    let twice = Case::post("application/json", 1).header("content-type", "text/html");
    expect(&p, twice, Some(UnsupportedMediaType));
    let mut none = Case::get();
    none.framing = Framing::Chunked;
    expect(&p, none, Some(UnsupportedMediaType));
    assert_eq!(
        Case::get().with(|cx| p.policy.body_limit(cx.head)),
        Some(1024)
    );
}

#[test]
fn headers() {
    let p = rules(
        "required_headers = [\"X-Id\"]\nforbidden_headers = [\"X-Debug\"]\nheaders = [{ name = \"X-Id\", pattern = \"[a-f]+\" }, { name = \"X-Must\", required = true }]",
    );
    let bad = Some(RejectionKind::ParameterInvalid);
    let base = || Case::get().header("x-id", "abc").header("x-must", "");
    expect(&p, base(), None);
    expect(&p, base().header("X-ID", "xyz"), bad);
    expect(&p, base().header("x-id", b"\xff"), bad);
    expect(&p, base().header("x-debug", "1"), bad);
    expect(&p, Case::get().header("x-must", "1"), bad);
    let r = expect(&p, Case::get().header("x-id", "a"), bad).unwrap();
    assert_eq!(r.errors, [("header.X-Must".into(), "is missing".into())]);
}

#[test]
fn query_and_path() {
    let p = rules(
        "deny_unknown_query = true\nquery = [{ name = \"page\", required = true, type = \"integer\", min = 1 }, { name = \"a b\" }]\npath_params = [{ name = \"id\", required = true, pattern = \"[0-9+]+\" }]",
    );
    let bad = Some(RejectionKind::ParameterInvalid);
    let at = |id: &'static str, query: &str| {
        let mut case = Case::get().query(query);
        case.params = vec![("id", id)];
        case
    };
    expect(&p, at("1", "page=1"), None);
    expect(&p, at("1+1", "%70age=%31&a+b=x"), None);
    for query in [
        "",
        "page=0",
        "page=x",
        "page=1&page=1",
        "page=1&%70age=2",
        "page=%zz",
        "%zz=1&page=1",
        "page=1&other=1",
        "page=1&a%20b=1&a+b=2",
    ] {
        expect(&p, at("1", query), bad);
    }
    expect(&p, at("abc", "page=1"), bad);
    expect(&p, Case::get().query("page=1"), bad);
    // Neither names nor values of the client come back.
    let r = expect(&p, at("1", "page=1&canary=canary"), bad).unwrap();
    assert!(!format!("{r:?}").contains("canary"));
    let open = rules("query = [{ name = \"page\" }]");
    expect(&open, at("x", "other=%41&other=2"), None);
}

#[test]
fn bad_rules_say_where() {
    for (rest, says) in [
        ("content_types = [\"json\"]", "content_types[0]"),
        ("content_types = [\"a/b; q=1\"]", "content_types[0]"),
        (
            "query = [{ name = \"a\", pattern = \"(\" }]",
            "query[0].pattern",
        ),
        (
            "query = [{ name = \"a\" }, { name = \"a\" }]",
            "query[1].name",
        ),
        (
            "required_headers = [\"A\"]\nforbidden_headers = [\"a\"]",
            "both required and forbidden",
        ),
        ("max_body = \"big\"", "a size such as"),
        (
            "query = [{ name = \"a\", typ = \"integer\" }]",
            "unknown key `typ`",
        ),
    ] {
        let found = error(
            &format!("type = \"request\"\nname = \"r\"\n{rest}"),
            &Files::default(),
        );
        assert!(found.contains(says), "{rest}: {found}");
    }
}
