//! Which route wins, by table; conflicts; many routes.

use super::*;
use crate::http::{Framing, Header, Version};

fn spec(host: &str, path: &str, methods: &[&str]) -> RouteSpec {
    RouteSpec::parse(Some(host).filter(|h| !h.is_empty()), path, methods, &[])
        .unwrap_or_else(|e| panic!("{path}: {e:?}"))
}

fn head<'a>(
    method: &'a str,
    host: &'a str,
    path: &'a str,
    headers: &'a [Header<'a>],
) -> RequestHead<'a> {
    RequestHead {
        method,
        version: Version::Http11,
        path,
        query: None,
        host,
        headers,
        framing: Framing::Empty,
        keep_alive: true,
        expect_continue: false,
        websocket: false,
    }
}

fn find(
    table: &RouteTable,
    method: &str,
    host: &str,
    path: &str,
) -> Result<(usize, String), NoRoute> {
    let head = head(method, host, path, &[]);
    let found = table.find(&head)?;
    let params: Vec<_> = found
        .params
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    Ok((found.index, params.join("&")))
}

#[test]
fn the_most_specific_wins() {
    let table = RouteTable::build(&[
        spec("", "/*", &[]),                           // 0
        spec("", "/a", &[]),                           // 1
        spec("", "/a/*", &[]),                         // 2
        spec("", "/orders/{id}", &["GET"]),            // 3
        spec("", "/orders/{id}", &["POST", "DELETE"]), // 4
        spec("", "/orders/new", &[]),                  // 5
        spec("", "/orders/{id}/items/{item}", &[]),    // 6
        spec("", "/orders/special/*", &[]),            // 7
        spec("api.example.com", "/a", &[]),            // 8
        spec("*.example.com", "/a", &[]),              // 9
        spec("*.b.example.com", "/a", &[]),            // 10
        spec("", "/users/{name}/*", &[]),              // 11
        spec("", "/a/", &[]),                          // 12
    ])
    .unwrap();
    let cases = [
        ("x", "/", 0, ""),
        ("x", "/zzz/y", 0, ""),
        ("x", "/ab", 0, ""),
        ("x", "/a", 1, ""),
        ("x", "/a/", 12, ""),
        ("x", "/a/b/c", 2, ""),
        ("x", "/orders/7%20b", 3, "id=7%20b"),
        ("x", "/orders/new", 5, ""),
        ("x", "/orders/", 0, ""),
        ("x", "/orders/special/items/9", 6, "id=special&item=9"),
        ("x", "/orders/special/x", 7, ""),
        ("x", "/orders/special", 3, "id=special"),
        ("x", "/users/bob/a/b", 11, "name=bob"),
        ("x", "/users/bob", 11, "name=bob"),
        ("x", "/users/", 0, ""),
        ("api.example.com", "/a", 8, ""),
        ("www.example.com", "/a", 9, ""),
        ("x.y.example.com", "/a", 9, ""),
        ("x.b.example.com", "/a", 10, ""),
        ("example.com", "/a", 1, ""),
        ("evilexample.com", "/a", 1, ""),
        ("", "/a", 1, ""),
        ("api.example.com", "/orders/1", 3, "id=1"),
    ];
    for (host, path, index, params) in cases {
        assert_eq!(
            find(&table, "GET", host, path),
            Ok((index, params.into())),
            "{host} {path}"
        );
    }
    assert_eq!(find(&table, "HEAD", "x", "/orders/1").unwrap().0, 3);
    assert_eq!(find(&table, "POST", "x", "/orders/1").unwrap().0, 4);
    let allow = "DELETE, GET, HEAD, POST".to_owned();
    assert_eq!(
        find(&table, "PUT", "x", "/orders/1"),
        Err(NoRoute::MethodNotAllowed { allow }),
        "no slide to /*"
    );
    assert_eq!(find(&table, "OPTIONS", "x", "*"), Err(NoRoute::NotFound));
    assert_eq!(
        find(&RouteTable::default(), "GET", "x", "/"),
        Err(NoRoute::NotFound)
    );
}

#[test]
fn headers_choose_among_the_routes_of_a_path() {
    let with = |headers: &[(&str, Option<&str>)]| {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned)))
            .collect();
        RouteSpec::parse(None, "/a", &["GET"], &headers).unwrap()
    };
    let rules = [
        with(&[("X-Version", Some("2"))]),
        with(&[("X-Beta", None), ("X-Version", Some("2"))]),
    ];
    let table = RouteTable::build(&rules).unwrap();
    let v2 = Header {
        name: "x-version",
        value: b"2",
    };
    let v1 = Header {
        name: "x-version",
        value: b"1",
    };
    let beta = Header {
        name: "X-BETA",
        value: b"",
    };
    let index = |headers: &[Header<'_>]| {
        table
            .find(&head("GET", "x", "/a", headers))
            .map(|m| m.index)
    };
    assert_eq!(index(&[v2]), Ok(0));
    assert_eq!(index(&[v2, beta]), Ok(1));
    assert_eq!(index(&[v1]), Err(NoRoute::NotFound));
    assert_eq!(
        RouteTable::build(&[rules[0].clone(), with(&[]), rules[0].clone()]).unwrap_err(),
        [Conflict {
            first: 0,
            second: 2
        }]
    );
}

#[test]
fn conflicts() {
    let conflict = |a: RouteSpec, b: RouteSpec| RouteTable::build(&[a, b]).is_err();
    assert!(conflict(
        spec("a", "/x/{id}", &[]),
        spec("A", "/x/{name}", &[])
    ));
    assert!(conflict(
        spec("", "/x", &["GET", "POST"]),
        spec("*", "/x", &["POST"])
    ));
    assert!(!conflict(
        spec("", "/x", &["GET"]),
        spec("", "/x", &["POST"])
    ));
    assert!(!conflict(spec("", "/x", &["GET"]), spec("", "/x", &[])));
    assert!(!conflict(spec("", "/x", &[]), spec("", "/x/*", &[])));
    assert!(!conflict(spec("a", "/x", &[]), spec("", "/x", &[])));
}

#[test]
fn bad_specs_say_why() {
    let path = |p: &str| RouteSpec::parse::<&str>(None, p, &[], &[]);
    for bad in [
        "", "a", "*", "/a*", "/a/*/b", "//", "/a//b", "/a//*", "/{id", "/{}", "/x{id}", "/{a}/{a}",
        "/a/../b", "/%61", "/a b", "/a?b", "/a%5cb", "/é",
    ] {
        let (reason, hint) = path(bad).expect_err(bad);
        assert!(!reason.is_empty() && !hint.is_empty());
    }
    assert!(path("/%61").unwrap_err().1.contains("\"a\""));
    assert!(path("/a%2Fb/{x}/").is_ok());
    for host in ["a:80", "", "a/b", "*.", "*", "*.*.a", "[::1", "*.[::1]"] {
        assert_eq!(
            RouteSpec::parse::<&str>(Some(host), "/", &[], &[]).is_ok(),
            host == "*",
            "{host}"
        );
    }
    for method in ["get", "", "CONNECT", "G T"] {
        assert!(RouteSpec::parse(None, "/", &[method], &[]).is_err());
    }
    assert!(RouteSpec::parse::<&str>(None, "/", &[], &[("a b".into(), None)]).is_err());
    assert!(RouteSpec::parse::<&str>(None, "/", &[], &[("a".into(), Some(" x".into()))]).is_err());
}

#[test]
fn ten_thousand_routes() {
    let specs: Vec<_> = (0..10_000)
        .map(|i| {
            spec(
                &format!("h{}.example.com", i % 10),
                &format!("/api/v{}/r{i}/{{id}}", i % 7),
                &["GET"],
            )
        })
        .collect();
    let table = RouteTable::build(&specs).unwrap();
    for i in (0..10_000).step_by(97) {
        let (host, path) = (
            format!("h{}.example.com", i % 10),
            format!("/api/v{}/r{i}/x", i % 7),
        );
        assert_eq!(find(&table, "GET", &host, &path), Ok((i, "id=x".into())));
        assert_eq!(
            find(&table, "GET", "h11.example.com", &path),
            Err(NoRoute::NotFound)
        );
    }
}
