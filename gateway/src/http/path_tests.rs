//! Canonical paths: tables, and what must hold for any bytes.

use super::*;
use crate::outcome::RejectionKind;
use proptest::prelude::*;

fn canonical(raw: &[u8], keep: bool) -> Result<String, RejectionKind> {
    let mut out = String::new();
    let kept = Kept {
        encoded_slash: keep,
        parameters: true,
    };
    canonicalize(raw, kept, &mut out)
        .map(|()| out)
        .map_err(|r| r.kind)
}

#[test]
fn parameters_pass_only_where_they_are_kept() {
    let refused = Kept::default();
    for raw in [&b"/a;v=1/b"[..], b"/a;", b"/;", b"/a;x=1"] {
        let kind = canonicalize(raw, refused, &mut String::new())
            .unwrap_err()
            .kind;
        assert_eq!(kind, RejectionKind::AmbiguousPath);
        assert!(canonical(raw, false).is_ok());
    }
    assert!(
        canonicalize(b"/a%3bb", refused, &mut String::new()).is_ok(),
        "an encoded one is no parameter"
    );
}

#[test]
fn one_form() {
    let table = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/%61%2d%7E", "/a-~"),
        ("/a%2fb", "!"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("//a///b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/..", "/"),
        ("/a//../b", "/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/.../b", "/a/.../b"),
        ("/a..b/..c/d..", "/a..b/..c/d.."),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/x|y[0]", "/x%7Cy%5B0%5D"),
        ("/100%25", "/100%25"),
        ("/100%25/off", "/100%25/off"),
    ];
    for (raw, expected) in table {
        let got = canonical(raw.as_bytes(), false);
        if expected == "!" {
            assert_eq!(got, Err(RejectionKind::AmbiguousPath), "{raw}");
        } else {
            assert_eq!(got.as_deref(), Ok(expected), "{raw}");
        }
    }
    assert_eq!(canonical(b"/a%2fb", true).as_deref(), Ok("/a%2Fb"));
}

#[test]
fn ambiguous_forms_are_refused() {
    let table: &[&[u8]] = &[
        b"/..",
        b"/../",
        b"/a/../..",
        b"/%2e%2e/",
        b"/./../a",
        b"//../a",
        b"/a/%2e%2e/%2e%2e/b",
        b"/a\\b",
        b"/a%5cb",
        b"/..\\a",
        b"/..%5ca",
        b"/..%2fa",
        b"/a%00",
        b"/a%0d%0ab",
        b"/a%7f",
        b"/%252e%252e/",
        b"/%252fa",
        b"/%25%32%65",
        b"/%2525",
        b"/a/..;/b",
        b"/a/..;x=1/b",
        b"/a/.;/b",
        b"/a/..%3b/b",
        b"/%2e%2e;/b",
        b"/%c0%ae",
        b"/%c0%af",
        b"/%c1%9c",
        b"/%e0%80%af",
        b"/%f0%80%80%af",
        b"/%ff",
    ];
    for raw in table {
        assert_eq!(
            canonical(raw, false),
            Err(RejectionKind::AmbiguousPath),
            "{}",
            String::from_utf8_lossy(raw)
        );
    }
    let malformed: &[&[u8]] = &[
        b"",
        b"a",
        b"*",
        b"/%",
        b"/%4",
        b"/%zz",
        b"/%+1",
        b"/a b",
        b"/a\0",
        b"/a\r",
        b"/\xc3\xa9",
        b"/a#b",
        b"/a?b",
    ];
    for raw in malformed {
        assert_eq!(
            canonical(raw, true),
            Err(RejectionKind::MalformedHead),
            "{}",
            String::from_utf8_lossy(raw)
        );
    }
    assert_eq!(
        canonical(b"/a%5cb", true),
        Err(RejectionKind::AmbiguousPath)
    );
    assert_eq!(
        canonical(b"/a/..%2f..%2fb", true).as_deref(),
        Ok("/a/..%2F..%2Fb")
    );
}

fn check(raw: &[u8], keep: bool) {
    let Ok(once) = canonical(raw, keep) else {
        return;
    };
    assert_eq!(
        canonical(once.as_bytes(), keep).as_deref(),
        Ok(&*once),
        "idempotent"
    );
    assert!(
        once.starts_with('/') && once.is_ascii() && !once.contains("//"),
        "{once}"
    );
    assert!(once.split('/').all(|s| s != ".." && s != "."), "{once}");
    assert!(
        !once
            .bytes()
            .any(|b| b <= b' ' || b == 0x7f || b == b'\\' || b == b'?' || b == b'#')
    );
    if is_plain(raw) {
        assert_eq!(raw, once.as_bytes(), "plain means canonical");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes(tail in proptest::collection::vec(any::<u8>(), 0..40), keep: bool) {
        check(&[b"/", &tail[..]].concat(), keep);
    }

    #[test]
    fn hostile_pieces(
        pieces in proptest::collection::vec(
            prop::sample::select(vec!["/", ".", "..", "%2e", "%2E", "%2f", "%25", "2", "5", "e", "%32", "%65", ";", "a", "%61", "\\", "%c3", "%a9", "%e0", "//", "%3b", "|"]),
            0..16,
        ),
        keep: bool,
    ) {
        check(format!("/{}", pieces.concat()).as_bytes(), keep);
    }
}
