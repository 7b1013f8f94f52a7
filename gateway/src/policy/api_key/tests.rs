//! Table tests.

use super::*;
use crate::policy::testing::{Case, error, files, policy, policy_with};

#[test]
fn table() {
    let key = mint("partner \"A\"").unwrap();
    let other = mint("other").unwrap();
    let forged = format!("gwk_{}_{}", key.id, &other.key[17..]);
    let p = policy(&format!(
        "type = \"api_key\"\nname = \"k\"\nkeys = [{}]",
        key.inline_toml()
    ));
    use RejectionKind::*;
    for (sent, expected) in [
        (vec![], Some(CredentialsMissing)),
        (vec![""], Some(CredentialsMissing)),
        (vec![&*key.key], None),
        (vec![&*other.key], Some(CredentialsInvalid)),
        (vec![&*forged], Some(CredentialsInvalid)),
        (vec!["gwk_"], Some(CredentialsInvalid)),
        (vec!["gwk_noend"], Some(CredentialsInvalid)),
        (vec!["not a key"], Some(CredentialsInvalid)),
        (
            vec![&key.key[..key.key.len() - 1]],
            Some(CredentialsInvalid),
        ),
        (vec![&*key.key, &*key.key], Some(CredentialsInvalid)),
        (vec![&*"x".repeat(300)], Some(CredentialsInvalid)),
    ] {
        let mut case = Case::get();
        for value in &sent {
            case = case.header("x-api-KEY", value);
        }
        match (case.check(&*p.policy), expected) {
            (Ok(()), None) => {
                let who = case.identity.unwrap();
                assert_eq!(who.subject, "partner \"A\"");
                assert_eq!(who.credential_id.as_deref(), Some(&*key.id));
                assert_eq!(&*case.strip[0], "x-api-key");
            }
            (Err(r), Some(kind)) => {
                assert_eq!(r.kind, kind, "{sent:?}");
                assert_eq!(
                    r.fields,
                    [("WWW-Authenticate", "ApiKey realm=\"k\"".into())]
                );
                assert!(case.identity.is_none() && case.strip.is_empty());
                assert!(!format!("{r:?}").contains(&key.key[17..]));
            }
            (found, _) => panic!("{sent:?}: {found:?}"),
        }
    }
}

#[test]
fn expiry_to_the_second() {
    let key = mint("a").unwrap();
    let entry = key
        .inline_toml()
        .replace(" }", ", expires = \"2027-01-15T08:00:00Z\" }");
    let p = policy(&format!(
        "type = \"api_key\"\nname = \"k\"\nkeys = [{entry}]"
    ));
    let mut case = Case::get().header("x-api-key", &key.key);
    // 2027-01-15T08:00:00Z is 1_800_000_000, where the test clock stands.
    assert_eq!(
        case.check(&*p.policy).unwrap_err().kind,
        RejectionKind::CredentialsExpired
    );
    case.now.wall_ns -= 1_000_000_000;
    assert!(case.check(&*p.policy).is_ok());
}

#[test]
fn from_query_and_from_file() {
    let key = mint("a").unwrap();
    let files = files(&[("keys.toml", key.entry_toml.as_bytes())]);
    let p = policy_with(
        "type = \"api_key\"\nname = \"k\"\nquery = \"key\"\nforward = true\nfile = \"keys.toml\"",
        &files,
    );
    for (query, passes) in [
        (format!("a=b&key={}", key.key), true),
        (format!("key={0}&key={0}", key.key), false),
        (format!("Key={}", key.key), false),
        ("key".into(), false),
    ] {
        assert_eq!(
            Case::get().query(&query).check(&*p.policy).is_ok(),
            passes,
            "{query}"
        );
    }
}

#[test]
fn bad_entries_say_where() {
    let hash = format!("sha256:{}", "0".repeat(64));
    let files = files(&[("bad.toml", b"[[keys]]\nid = 1"), ("binary", b"\xff")]);
    for (rest, says) in [
        (
            format!("keys = [{{ id = \"a_b\", hash = \"{hash}\", owner = \"o\" }}]"),
            "keys[0].id",
        ),
        (
            "keys = [{ id = \"a\", hash = \"12\", owner = \"o\" }]".into(),
            "keys[0].hash",
        ),
        (
            format!("keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"\" }}]"),
            "keys[0].owner",
        ),
        (
            format!(
                "keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"o\", expires = \"soon\" }}]"
            ),
            "keys[0].expires",
        ),
        (
            format!(
                "keys = [{{ id = \"a\", hash = \"{hash}\", owner = \"o\", expires = \"2027-01-01T00:00:00\" }}]"
            ),
            "keys[0].expires",
        ),
        (
            format!(
                "keys = [{0}, {0}]",
                format_args!("{{ id = \"a\", hash = \"{hash}\", owner = \"o\" }}")
            ),
            "keys[1].id: this id stands twice",
        ),
        (
            "header = \"A\"\nquery = \"b\"".into(),
            "both header and query",
        ),
        ("file = \"none.toml\"".into(), "file: cannot read"),
        ("file = \"bad.toml\"".into(), "is no list of keys"),
        ("file = \"binary\"".into(), "is no list of keys"),
    ] {
        let found = error(&format!("type = \"api_key\"\nname = \"k\"\n{rest}"), &files);
        assert!(found.contains(says), "{rest}: {found}");
    }
}

#[test]
fn dates() {
    for (text, secs) in [
        ("1970-01-01", Some(0)),
        ("2000-02-29", Some(951_782_400)),
        ("2027-01-15T08:00:00Z", Some(1_800_000_000)),
        ("2027-01-15T10:00:00+02:00", Some(1_800_000_000)),
        ("2027-01-15T08:00:00", None),
        ("1969-12-31", None),
        ("08:00:00", None),
        ("", None),
    ] {
        assert_eq!(epoch_secs(text), secs, "{text}");
    }
}
