//! Heads on both sides of each rule, every split position, and arbitrary bytes.

use super::*;
use RejectionKind::*;
use proptest::prelude::*;

/// An owned picture of a parse, to compare and to look into.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    method: String,
    path: String,
    query: Option<String>,
    host: String,
    version: Version,
    framing: Framing,
    flags: (bool, bool, bool),
    headers: Vec<(String, Vec<u8>)>,
    head_len: usize,
    dropped: u32,
}

fn run(buf: &[u8], limits: &HeadLimits) -> Result<Option<Seen>, Rejection> {
    let (mut scratch, mut space) = (HeadScratch::new(), HeaderSpace::new());
    Ok(match parse(buf, limits, &mut scratch, &mut space)? {
        Parsed::Partial => None,
        Parsed::Complete {
            head,
            head_len,
            dropped_fields,
        } => Some(Seen {
            method: head.method.into(),
            path: head.path.into(),
            query: head.query.map(Into::into),
            host: head.host.into(),
            version: head.version,
            framing: head.framing,
            flags: (head.keep_alive, head.expect_continue, head.websocket),
            headers: head
                .headers
                .iter()
                .map(|h| (h.name.into(), h.value.into()))
                .collect(),
            head_len,
            dropped: dropped_fields,
        }),
    })
}

fn ok(head: &str) -> Seen {
    match run(head.as_bytes(), &HeadLimits::default()) {
        Ok(Some(seen)) => seen,
        other => panic!("{head:?} gave {other:?}"),
    }
}

fn refused(head: &[u8]) -> RejectionKind {
    match run(head, &HeadLimits::default()) {
        Err(rejection) => {
            assert!(rejection.close);
            rejection.kind
        }
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(head)),
    }
}

/// A GET with these further lines.
fn with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn a_whole_head() {
    let seen = ok(
        "POST /a%2d/../b?x=1&y=%20 HTTP/1.1\r\nHost: API.Example.com.:8080\r\nA:\t v \t\r\nB:\r\nC: \u{e9}\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(
        (&*seen.method, &*seen.path, seen.query.as_deref()),
        ("POST", "/b", Some("x=1&y=%20"))
    );
    assert_eq!(
        (&*seen.host, seen.framing),
        ("api.example.com", Framing::Length(5))
    );
    assert_eq!(seen.headers[1], ("A".into(), b"v".to_vec()));
    assert_eq!(seen.headers[2], ("B".into(), Vec::new()));
    assert_eq!(seen.flags, (true, false, false));
}

#[test]
fn request_lines() {
    for bad in [
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        "GET / HTTP/11\r\nHost: a\r\n\r\n",
        "GET / HTTP/+1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?% HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ?a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "connect a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(refused(bad.as_bytes()), MalformedHead, "{bad:?}");
    }
    assert_eq!(
        refused(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        ConnectRefused
    );
    for version in ["2.0", "1.2", "0.9", "3.0", "9.9"] {
        assert_eq!(
            refused(format!("GET / HTTP/{version}\r\n\r\n").as_bytes()),
            VersionNotSupported
        );
    }
    assert_eq!(
        refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        VersionNotSupported
    );
    assert_eq!(
        refused(b"GET /..%2f HTTP/1.1\r\nHost: a\r\n\r\n"),
        AmbiguousPath
    );
    assert_eq!(ok("get / HTTP/1.1\r\nHost: a\r\n\r\n").method, "get");
    assert_eq!(ok("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").head_len, 29);
    assert_eq!(ok("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, "*");
    assert_eq!(ok("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n").path, "*");
    assert_eq!(
        ok("GET http://A:80?q HTTP/1.1\r\nHost: a:80\r\n\r\n").path,
        "/"
    );
    assert_eq!(ok("GET HTTPS://a/x HTTP/1.1\r\nHost: a\r\n\r\n").path, "/x");
}

#[test]
fn hosts() {
    for bad in [
        "",
        "Host:\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a:\r\n",
        "Host: a:x\r\n",
        "Host: a:0\r\n",
        "Host: a:65536\r\n",
        "Host: a:080\r\n",
        "Host: a:80:80\r\n",
        "Host: a..b\r\n",
        "Host: .a\r\n",
        "Host: .\r\n",
        "Host: a..\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: [::1]x\r\n",
        "Host: [::1%25eth0]\r\n",
        "Host: [127.0.0.1]\r\n",
        "Host: []\r\n",
        "Host: 127.1\r\n",
        "Host: 0x7f000001\r\n",
        "Host: 2130706433\r\n",
        "Host: 0177.0.0.1\r\n",
        "Host: 1.2.3.4.5\r\n",
        "Host: a%41\r\n",
        "Host: a\\b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: \u{e9}\r\n",
        "Host: http://a\r\n",
        "Host: *\r\n",
        "Host: a;b\r\n",
    ] {
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\n{bad}\r\n").as_bytes()),
            HostInvalid,
            "{bad:?}"
        );
    }
    for (sent, host) in [
        ("A.b", "a.b"),
        ("a.b.", "a.b"),
        ("a:443", "a"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[0:0::1]:65535", "[::1]"),
        ("a-b_c.1x", "a-b_c.1x"),
    ] {
        assert_eq!(
            ok(&format!("GET / HTTP/1.1\r\nHost: {sent}\r\n\r\n")).host,
            host
        );
    }
    for bad in [
        "http://b/",
        "http://a:81/",
        "http://u@a/",
        "http://u:p@a/",
        "http:///x",
        "http://a@b/",
        "http://a\\@b/",
    ] {
        assert_eq!(
            refused(format!("GET {bad} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()),
            HostInvalid,
            "{bad}"
        );
    }
    assert_eq!(refused(b"GET http://a/ HTTP/1.0\r\n\r\n"), HostInvalid);
    assert_eq!(ok("GET / HTTP/1.0\r\n\r\n").host, "");
    assert_eq!(ok("GET / HTTP/1.0\r\n\r\n").flags, (false, false, false));
    let label = "a".repeat(63);
    assert_eq!(
        ok(&format!("GET / HTTP/1.1\r\nHost: {label}\r\n\r\n")).host,
        label
    );
    assert_eq!(
        refused(format!("GET / HTTP/1.1\r\nHost: {label}a\r\n\r\n").as_bytes()),
        HostInvalid
    );
}

#[test]
fn smuggling() {
    let malformed = [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding: chunked\x0b\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\r\n\tz\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\n chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\r\r\n",
        "Foo\r\n",
        "Foo Bar: x\r\n",
        ": x\r\n",
        "F\u{e9}: x\r\n",
        "F(o): x\r\n",
        "X: a\x7f\r\n",
        "X: a\x01\r\n",
        "X: a\x08\r\n",
        "X: \x0c\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\n\r\n",
        "X:y\n\n",
    ];
    for lines in malformed {
        assert_eq!(refused(with(lines).as_bytes()), MalformedHead, "{lines:?}");
    }
    let ambiguous = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunk ed\r\n",
        "Transfer-Encoding: gzip, deflate\r\n",
        "Transfer-Encoding: \u{212a}\r\n",
        "Content-Length:\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5,5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: \u{0665}\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: 6\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: \"5\"\r\n",
    ];
    for lines in ambiguous {
        assert_eq!(
            refused(with(lines).as_bytes()),
            AmbiguousFraming,
            "{lines:?}"
        );
    }
    for lines in [
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        assert_eq!(
            refused(with(lines).as_bytes()),
            TransferCodingUnknown,
            "{lines:?}"
        );
    }
    assert_eq!(
        refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        AmbiguousFraming
    );
    assert_eq!(
        ok(&with("Transfer-Encoding: \t Chunked \t\r\n")).framing,
        Framing::Chunked
    );
    assert_eq!(
        ok(&with("Content-Length:0\r\n")).framing,
        Framing::Length(0)
    );
    assert_eq!(
        ok(&with("Content-Length: 9223372036854775807\r\n")).framing,
        Framing::Length(i64::MAX as u64)
    );
    assert_eq!(
        ok(&with("Content-Length: 5\t\r\n")).framing,
        Framing::Length(5)
    );
}

#[test]
fn underscores() {
    let lines = with("Content_Length: 5\r\nX_A: 1\r\nB: 2\r\n");
    let seen = ok(&lines);
    assert_eq!(
        (seen.dropped, seen.headers.len(), seen.framing),
        (2, 2, Framing::Empty)
    );
    let many: String = (0..60)
        .map(|i| format!("A{i}: x\r\nB_{i}: x\r\n"))
        .collect::<String>()
        .lines()
        .take(90)
        .map(|l| format!("{l}\r\n"))
        .collect();
    let seen = ok(&with(&many));
    assert_eq!((seen.dropped, seen.headers.len()), (45, 46));
    let limits = HeadLimits {
        underscores: Underscores::Refuse,
        ..HeadLimits::default()
    };
    assert!(run(lines.as_bytes(), &limits).is_err());
    let limits = HeadLimits {
        underscores: Underscores::Keep,
        ..HeadLimits::default()
    };
    assert_eq!(
        run(lines.as_bytes(), &limits)
            .unwrap()
            .unwrap()
            .headers
            .len(),
        4
    );
}

#[test]
fn connection_options() {
    let options = |n: usize| with(&format!("Connection: {}\r\n", "a,".repeat(n)));
    assert!(ok(&options(32)).flags.0);
    assert_eq!(refused(options(33).as_bytes()), MalformedHead);
    assert!(!ok(&with("Connection: x, Close\r\n")).flags.0);
    assert!(
        !ok(&with("Connection: keep-alive\r\nConnection: close\r\n"))
            .flags
            .0
    );
    assert!(
        ok("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            .flags
            .0
    );
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
    assert!(ok(&with(upgrade)).flags.2);
    assert!(
        !ok(&with(&format!("{upgrade}Content-Length: 0\r\n")))
            .flags
            .2
    );
    assert!(
        !ok(&with(&format!("{upgrade}Upgrade: websocket\r\n")))
            .flags
            .2
    );
    assert!(!ok(&with("Upgrade: websocket\r\n")).flags.2);
    assert!(!ok(&with("Connection: upgrade\r\nUpgrade: h2c\r\n")).flags.2);
    assert!(!ok(&with(upgrade).replace("GET", "POST")).flags.2);
    assert!(!ok(&with(upgrade).replace("1.1", "1.0")).flags.2);
    assert!(
        ok(&with("Expect: 100-Continue\r\nContent-Length: 1\r\n"))
            .flags
            .1
    );
    assert!(!ok(&with("Expect: 100-continue\r\n")).flags.1);
    for bad in ["", "100", "200-ok", "100-continue, x", "100-continue;a"] {
        assert_eq!(
            refused(with(&format!("Expect: {bad}\r\n")).as_bytes()),
            ExpectationFailed
        );
    }
}

#[test]
fn limits_on_both_sides() {
    let limits = HeadLimits {
        head_bytes_max: 100,
        target_bytes_max: 20,
        headers_max: 3,
        ..HeadLimits::default()
    };
    let head = |pad: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "y".repeat(pad)
        )
    };
    let fits = 100 - head(0).len();
    assert_eq!(
        run(head(fits).as_bytes(), &limits)
            .unwrap()
            .unwrap()
            .head_len,
        100
    );
    assert_eq!(
        run(head(fits + 1).as_bytes(), &limits).unwrap_err().kind,
        HeadTooLarge
    );
    assert_eq!(
        run(&head(fits + 1).as_bytes()[..100], &limits)
            .unwrap_err()
            .kind,
        HeadTooLarge
    );
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(n - 1));
    assert!(run(target(20).as_bytes(), &limits).unwrap().is_some());
    assert_eq!(
        run(target(21).as_bytes(), &limits).unwrap_err().kind,
        TargetTooLong
    );
    assert_eq!(
        run(&target(99).as_bytes()[..30], &limits).unwrap_err().kind,
        TargetTooLong
    );
    assert!(
        run(with("A: b\r\nC: d\r\n").as_bytes(), &limits)
            .unwrap()
            .is_some()
    );
    assert_eq!(
        run(with("A: b\r\nC: d\r\nE: f\r\n").as_bytes(), &limits)
            .unwrap_err()
            .kind,
        HeadTooLarge
    );
    let method = |n: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(n));
    assert!(run(method(32).as_bytes(), &limits).unwrap().is_some());
    assert_eq!(
        run(method(33).as_bytes(), &limits).unwrap_err().kind,
        MalformedHead
    );
    let fields = |n: usize| with(&"A: b\r\n".repeat(n - 1));
    let capped = HeadLimits {
        headers_max: 500,
        ..HeadLimits::default()
    };
    assert_eq!(
        run(fields(128).as_bytes(), &capped)
            .unwrap()
            .unwrap()
            .headers
            .len(),
        128
    );
    assert_eq!(
        run(fields(129).as_bytes(), &capped).unwrap_err().kind,
        HeadTooLarge
    );
}

#[test]
fn the_first_impossible_byte_ends_it() {
    for start in [
        &b"\x16"[..],
        b"\x00",
        b"\n",
        b"\r\n\r",
        b"\r\n\n",
        b" ",
        b"{",
        b"GET\r",
        b"GET / F",
        b"GET / HTTP/x",
        b"GET /\n",
        b"GET /\xff",
        b"GET / HTTP/1.1\r\n ",
        b"GET / HTTP/1.1\r\n:",
        b"GET / HTTP/1.1\r\nA ",
        b"GET / HTTP/1.1\r\nA: \0",
        b"GET / HTTP/1.1\r\nA: b\rc",
        b"GET / HTTP/1.1\r\nA\r",
        b"SSH-2.0-OpenSSH_9\r",
    ] {
        assert_eq!(refused(start), MalformedHead, "{start:?}");
        assert!(run(&start[..start.len() - 1], &HeadLimits::default()).is_ok_and(|s| s.is_none()));
    }
}

#[test]
fn every_split_gives_the_same() {
    for head in [
        "\r\nPOST /a/%2e%2e/b?q=%20 HTTP/1.1\r\nHost: A.b:80\r\nX_y: 1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nV: a\tb\r\n\r\n",
        "GET http://[::1]/ HTTP/1.0\r\nHost: [::1]\r\n\r\n",
    ] {
        let whole = ok(head);
        for cut in 0..head.len() {
            assert_eq!(
                run(&head.as_bytes()[..cut], &HeadLimits::default()),
                Ok(None),
                "cut at {cut}"
            );
        }
        assert_eq!(ok(&format!("{head}GET /next")), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), lf in 0..4usize) {
        let _ = run(&bytes, &HeadLimits::default());
        let starts = [&b"GET / HTTP/1.1\r\n"[..], b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET /", b"\r\n"];
        let _ = run(&[starts[lf], &bytes].concat(), &HeadLimits::default());
    }

    /// A refusal of a prefix holds for the whole, and what a mutated head is accepted as has no second reading.
    #[test]
    fn mutations(at in 0..90usize, byte: u8, insert: bool, cut in 0..92usize) {
        let mut bytes = b"POST /a/b?c HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\nX-Name: value\r\nConnection: close\r\n\r\n".to_vec();
        let at = at.min(bytes.len() - 1);
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        let limits = HeadLimits::default();
        let whole = run(&bytes, &limits);
        if run(&bytes[..cut.min(bytes.len())], &limits).is_err() {
            prop_assert!(whole.is_err());
        }
        if let Ok(Some(seen)) = whole {
            let head = &bytes[..seen.head_len];
            prop_assert_eq!(head.iter().filter(|b| **b == b'\n').count(), head.windows(2).filter(|w| w == b"\r\n").count());
            prop_assert!(seen.headers.iter().all(|(n, v)| lines::is_token(n.as_bytes()) && !lines::has_control(v)));
        }
    }
}

/// The shape of a connection's read loop: the buffer grows while nothing is borrowed from it.
#[test]
fn a_buffer_that_grows() {
    let mut incoming = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".iter();
    let (mut buf, mut scratch, limits) = (Vec::new(), HeadScratch::new(), HeadLimits::default());
    let path = loop {
        let mut space = HeaderSpace::new();
        match parse(&buf, &limits, &mut scratch, &mut space) {
            Ok(Parsed::Partial) => buf.push(*incoming.next().expect("complete by then")),
            Ok(Parsed::Complete { head, .. }) => break head.path.to_owned(),
            Err(rejection) => panic!("{rejection:?}"),
        }
    };
    assert_eq!(path, "/a");
}
