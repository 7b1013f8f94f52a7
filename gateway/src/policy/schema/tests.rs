//! Table tests.

use super::*;
use crate::policy::Named;
use crate::policy::testing::{Case, error, files, policy, policy_with};

const USER: &str = r##"{"type":"object","required":["name"],"additionalProperties":false,"properties":{
    "name":{"type":"string","maxLength":5},"tags":{"type":"array","items":{"$ref":"#/$defs/tag"}}},
    "$defs":{"tag":{"type":"string","pattern":"^[a-z]+$"}}}"##;

fn user() -> Arc<Named> {
    policy(&format!(
        "type = \"json_schema\"\nname = \"s\"\nmax_body = \"1KiB\"\nschema = '''{USER}'''"
    ))
}

#[test]
fn heads() {
    use RejectionKind::*;
    let p = user();
    let gzip = Case::post("application/json", 5).header("content-encoding", "gzip");
    let twice = Case::post("application/json", 5).header("content-type", "application/json");
    let mut chunked = Case::post("application/json", 5);
    chunked.framing = Framing::Chunked;
    for (mut case, expected) in [
        (Case::get(), None),
        (Case::post("application/json", 1024), None),
        (chunked, None),
        (Case::post("application/json; charset=utf-8", 5), None),
        (Case::post("application/json", 1025), Some(BodyTooLarge)),
        (Case::post("application/json", 0), Some(BodyInvalid)),
        (Case::post("text/plain", 5), Some(UnsupportedMediaType)),
        (gzip, Some(UnsupportedMediaType)),
        (twice, Some(UnsupportedMediaType)),
    ] {
        let found = case.check(&*p.policy);
        assert_eq!(found.err().map(|r| r.kind), expected);
    }
    assert_eq!(Case::get().with(|cx| p.policy.wants_body(cx.head)), None);
    let mut post = Case::post("application/json", 1);
    assert_eq!(post.with(|cx| p.policy.wants_body(cx.head)), Some(1024));
}

#[test]
fn bodies() {
    use RejectionKind::*;
    let p = user();
    for (body, expected) in [
        (r#"{"name":"x"}"#, None),
        (r#"{"name":"x","tags":["a"]}"#, None),
        ("", Some((BodyInvalid, ""))),
        ("{", Some((MalformedBody, ""))),
        (r#"{"name":"x","name":"y"}"#, Some((MalformedBody, ""))),
        ("{}", Some((BodyInvalid, "|does not satisfy \"required\""))),
        (
            r#"{"name":"canary"}"#,
            Some((BodyInvalid, "/name|does not satisfy \"maxLength\"")),
        ),
        (
            r#"{"name":"x","tags":["a","B"]}"#,
            Some((BodyInvalid, "/tags/1|does not satisfy \"pattern\"")),
        ),
        (
            r#"{"name":"x","canary":1}"#,
            Some((BodyInvalid, "|does not satisfy \"additionalProperties\"")),
        ),
    ] {
        let found = Case::post("application/json", 1).check_body(&*p.policy, body.as_bytes());
        match (found, expected) {
            (Ok(()), None) => {}
            (Err(r), Some((kind, first))) => {
                assert_eq!(r.kind, kind, "{body}");
                let shown = r.errors.first().map(|(at, why)| format!("{at}|{why}"));
                assert_eq!(shown.as_deref().unwrap_or(""), first);
                assert!(
                    !format!("{r:?}").contains("canary"),
                    "values are not echoed"
                );
            }
            (found, _) => panic!("{body}: {found:?}"),
        }
    }
    let large = format!("\"{}\"", "x".repeat(1023));
    let r = Case::post("application/json", 1).check_body(&*p.policy, large.as_bytes());
    assert_eq!(r.unwrap_err().kind, BodyTooLarge);
    let many = format!("{{\"name\":\"x\",\"tags\":[{}]}}", ["1"; 50].join(","));
    let r = Case::post("application/json", 1).check_body(&*p.policy, many.as_bytes());
    assert_eq!(r.unwrap_err().errors.len(), ERRORS_MAX);
}

#[test]
fn from_file_and_from_toml() {
    let files = files(&[("user.json", USER.as_bytes())]);
    let from_file = policy_with(
        "type = \"json_schema\"\nname = \"s\"\nschema_file = \"user.json\"",
        &files,
    );
    let from_toml = policy(
        "type = \"json_schema\"\nname = \"s\"\nschema = { type = \"object\", required = [\"name\"] }",
    );
    for p in [from_file, from_toml] {
        let mut case = Case::post("application/json", 1);
        assert!(case.check_body(&*p.policy, b"{\"name\":\"x\"}").is_ok());
        assert!(case.check_body(&*p.policy, b"{}").is_err());
    }
}

#[test]
fn bad_schemas_say_why() {
    let files = files(&[("bad.json", b"{")]);
    for (rest, says) in [
        ("", "either schema_file or schema"),
        (
            "schema = '{}'\nschema_file = \"bad.json\"",
            "either schema_file or schema",
        ),
        ("schema_file = \"none.json\"", "schema_file: cannot read"),
        ("schema_file = \"bad.json\"", "not JSON"),
        ("schema = '{\"type\":\"strin\"}'", "does not compile"),
        ("schema = '{\"pattern\":\"(?=a)\"}'", "does not compile"),
        (
            "schema = '{\"$ref\":\"https://example.com/x\"}'",
            "lies outside it",
        ),
        (
            "schema = '{\"items\":[{\"$ref\":\"file:///etc/passwd\"}]}'",
            "lies outside it",
        ),
        ("schema = '{\"$ref\":\"#/$defs/none\"}'", "does not compile"),
        ("schema = '{}'\nmax_body = \"1GiB\"", "max_body"),
        ("schema = '{}'\nmethods = []", "methods"),
        (
            "schema = '{}'\ncontent_types = [\"json\"]",
            "content_types[0]",
        ),
    ] {
        let found = error(
            &format!("type = \"json_schema\"\nname = \"s\"\n{rest}"),
            &files,
        );
        assert!(found.contains(says), "{rest}: {found}");
    }
}
