//! Tables of crafted frames: protocols, lists, tags, options, extension headers, fragments, malformed headers.

use gateway::config::filter::{FilterConfig, Fragments, Malformed};
use gateway_tests::kernel::{FrameSpec, Transport};

use super::{PORTS, R, able, expect, load, nets, small};

pub(super) fn listed() -> FilterConfig {
    FilterConfig {
        allow: nets(["203.0.113.0/28", "2001:db8:a::/48", "198.51.100.250/32"]),
        block: nets([
            "198.51.100.66/32",
            "203.0.113.0/24",
            "203.0.113.5/32",
            "10.0.0.0/8",
            "2001:db8:bad::1/128",
            "2001:db8:bad:64::/64",
            "2001:db8:c00::/40",
            "2001:db8:a:1::/64",
        ]),
        ..small()
    }
}

#[test]
fn crafted_frames_get_their_verdict() {
    if !able() {
        return;
    }
    let filter = load(&listed());
    let from = FrameSpec::from;
    let v6 = "2001:db8:1::7";
    let cases: Vec<(&str, FrameSpec, R)> = vec![
        ("ipv4 tcp", from("198.51.100.7"), R::Passed),
        (
            "ipv4 udp",
            FrameSpec {
                transport: Transport::Udp,
                port: 53,
                ..from("198.51.100.7")
            },
            R::Passed,
        ),
        ("ipv6 tcp", from(v6), R::Passed),
        (
            "ipv6 udp",
            FrameSpec {
                transport: Transport::Udp,
                ..from(v6)
            },
            R::Passed,
        ),
        (
            "another port",
            FrameSpec {
                port: 8442,
                ..from("198.51.100.66")
            },
            R::NotJudged,
        ),
        (
            "a reply to us",
            FrameSpec {
                source_port: 8443,
                port: 40000,
                ..from("10.1.1.1")
            },
            R::NotJudged,
        ),
        (
            "icmp",
            FrameSpec {
                transport: Transport::Icmp,
                ..from("10.1.1.1")
            },
            R::NotJudged,
        ),
        (
            "icmpv6",
            FrameSpec {
                transport: Transport::Icmp,
                ..from("2001:db8:bad::1")
            },
            R::NotJudged,
        ),
        ("blocked address", from("198.51.100.66"), R::BlockedAddress),
        ("its neighbour", from("198.51.100.67"), R::Passed),
        ("blocked prefix", from("203.0.113.200"), R::BlockedPrefix),
        ("wide prefix", from("10.255.255.255"), R::BlockedPrefix),
        ("beside the wide prefix", from("11.0.0.0"), R::Passed),
        ("allow beats prefix", from("203.0.113.9"), R::Allowed),
        ("allow beats address", from("203.0.113.5"), R::Allowed),
        ("allowed only", from("198.51.100.250"), R::Allowed),
        (
            "ipv6 blocked address",
            from("2001:db8:bad::1"),
            R::BlockedAddress,
        ),
        ("ipv6 its neighbour", from("2001:db8:bad::2"), R::Passed),
        (
            "ipv6 blocked /64",
            from("2001:db8:bad:64::9"),
            R::BlockedPrefix,
        ),
        (
            "ipv6 blocked /40",
            from("2001:db8:cff::1"),
            R::BlockedPrefix,
        ),
        ("ipv6 beside the /40", from("2001:db8:d00::1"), R::Passed),
        ("ipv6 allow beats /64", from("2001:db8:a:1::1"), R::Allowed),
        (
            "one tag",
            FrameSpec {
                tags: vec![0x8100],
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "two tags",
            FrameSpec {
                tags: vec![0x88a8, 0x8100],
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "two tags ipv6",
            FrameSpec {
                tags: vec![0x8100, 0x8100],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "three tags",
            FrameSpec {
                tags: vec![0x88a8, 0x8100, 0x8100],
                ..from("198.51.100.66")
            },
            R::NotJudged,
        ),
        (
            "options",
            FrameSpec {
                options: 4,
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "all options",
            FrameSpec {
                options: 40,
                tags: vec![0x8100],
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "options, other port",
            FrameSpec {
                options: 40,
                port: 1,
                ..from("198.51.100.66")
            },
            R::NotJudged,
        ),
        (
            "hop-by-hop",
            FrameSpec {
                extensions: vec![0],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "all extensions",
            FrameSpec {
                extensions: vec![0, 60, 43, 51, 60, 135, 139, 140],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "odd order",
            FrameSpec {
                extensions: vec![51, 60, 0, 43],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "nine extensions",
            FrameSpec {
                extensions: vec![60; 9],
                ..from(v6)
            },
            R::PassedMalformed,
        ),
        (
            "nine extensions do not hide who is blocked",
            FrameSpec {
                extensions: vec![60; 9],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "nine extensions, allowed",
            FrameSpec {
                extensions: vec![60; 9],
                ..from("2001:db8:a:1::1")
            },
            R::Allowed,
        ),
        (
            "first fragment",
            FrameSpec {
                fragment: Some((0, true)),
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "atomic fragment",
            FrameSpec {
                fragment: Some((0, false)),
                ..from(v6)
            },
            R::Passed,
        ),
        (
            "later fragment",
            FrameSpec {
                fragment: Some((3, false)),
                ..from("198.51.100.7")
            },
            R::PassedFragment,
        ),
        (
            "later fragment, blocked",
            FrameSpec {
                fragment: Some((3, true)),
                ..from("198.51.100.66")
            },
            R::BlockedAddress,
        ),
        (
            "ipv6 later fragment, blocked",
            FrameSpec {
                fragment: Some((3, false)),
                extensions: vec![0, 43],
                ..from("2001:db8:bad::1")
            },
            R::BlockedAddress,
        ),
        (
            "ipv6 later fragment",
            FrameSpec {
                fragment: Some((1, false)),
                ..from(v6)
            },
            R::PassedFragment,
        ),
    ];
    for (what, spec, reason) in cases {
        expect(&filter, &spec.build(), reason, what);
    }
}

/// A frame with some bytes set.
fn edit(spec: FrameSpec, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = spec.build();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(spec: FrameSpec, len: usize) -> Vec<u8> {
    spec.build()[..len].to_vec()
}

#[test]
fn what_cannot_be_read_follows_its_rule_and_what_is_not_ip_is_left_alone() {
    if !able() {
        return;
    }
    let mut config = FilterConfig {
        block: nets(["198.51.100.66/32"]),
        ..small()
    };
    let mut filter = load(&config);
    let v4 = FrameSpec::default;
    let v6 = || FrameSpec::from("2001:db8:1::7");
    let bad = || FrameSpec::from("198.51.100.66");
    let other = || FrameSpec { port: 1, ..v4() };
    let extended = FrameSpec {
        extensions: vec![60],
        ..v6()
    };
    const UNREADABLE: [R; 3] = [R::PassedMalformed, R::Malformed, R::PassedMalformed];
    const ALWAYS: fn(R) -> [R; 3] = |reason| [reason; 3];
    let cases: Vec<(&str, Vec<u8>, [R; 3])> = vec![
        ("ipv4 says version 5", edit(v4(), 14, &[0x55]), UNREADABLE),
        (
            "ipv4 header of 16 bytes",
            edit(v4(), 14, &[0x44]),
            UNREADABLE,
        ),
        (
            "ipv4 length below its header",
            edit(v4(), 17, &[19]),
            UNREADABLE,
        ),
        ("ipv4 cut in its header", cut(v4(), 33), UNREADABLE),
        ("ipv4 cut before its ports", cut(v4(), 37), UNREADABLE),
        (
            "ipv4 length ends before its ports",
            edit(v4(), 17, &[23]),
            UNREADABLE,
        ),
        (
            "ipv4 options beyond the frame",
            edit(cut_spec(), 14, &[0x4f]),
            UNREADABLE,
        ),
        (
            "the same, from a blocked source",
            cut(bad(), 37),
            [R::BlockedAddress, R::Malformed, R::PassedMalformed],
        ),
        (
            "length leaves ports, but no tcp header",
            edit(v4(), 17, &[39]),
            ALWAYS(R::Malformed),
        ),
        (
            "length leaves ports only",
            edit(v4(), 17, &[24]),
            ALWAYS(R::Malformed),
        ),
        (
            "the same, to another port",
            edit(other(), 17, &[39]),
            ALWAYS(R::NotJudged),
        ),
        (
            "length leaves a tcp header",
            edit(v4(), 17, &[40]),
            ALWAYS(R::Passed),
        ),
        (
            "length 0 (big tcp)",
            edit(v4(), 16, &[0, 0]),
            ALWAYS(R::Passed),
        ),
        (
            "length 0, blocked",
            edit(bad(), 16, &[0, 0]),
            ALWAYS(R::BlockedAddress),
        ),
        (
            "length 0, to another port",
            edit(other(), 16, &[0, 0]),
            ALWAYS(R::NotJudged),
        ),
        ("ipv4 cut after its ports", cut(v4(), 38), ALWAYS(R::Passed)),
        ("ipv6 says version 4", edit(v6(), 14, &[0x40]), UNREADABLE),
        ("ipv6 cut in its header", cut(v6(), 53), UNREADABLE),
        (
            "ipv6 length 0 (big tcp)",
            edit(v6(), 18, &[0, 0]),
            ALWAYS(R::Passed),
        ),
        (
            "ipv6 length 0 behind an extension",
            edit(extended.clone(), 18, &[0, 0]),
            ALWAYS(R::Passed),
        ),
        (
            "ipv6 extension beyond the payload",
            edit(extended, 55, &[40]),
            UNREADABLE,
        ),
        ("ethernet alone", cut(v4(), 14), UNREADABLE),
        ("arp", edit(v4(), 13, &[0x06]), ALWAYS(R::NotJudged)),
        (
            "tag without what follows",
            edit_of(cut(v4(), 14), 12, &[0x81, 0]),
            ALWAYS(R::NotJudged),
        ),
    ];
    for (rule, column) in [
        (Malformed::Judge, 0),
        (Malformed::Drop, 1),
        (Malformed::Pass, 2),
    ] {
        config.malformed = rule;
        filter.apply(&config, PORTS).expect("applies");
        for (what, frame, reasons) in &cases {
            expect(
                &filter,
                frame,
                reasons[column],
                &format!("{what}, {rule:?}"),
            );
        }
    }
    fn cut_spec() -> FrameSpec {
        FrameSpec {
            payload: 0,
            ..FrameSpec::default()
        }
    }
    fn edit_of(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    }
}

#[test]
fn fragments_follow_their_rule() {
    if !able() {
        return;
    }
    let mut config = FilterConfig {
        allow: nets(["203.0.113.9/32"]),
        ..small()
    };
    let mut filter = load(&config);
    let first = FrameSpec {
        fragment: Some((0, true)),
        ..FrameSpec::default()
    };
    let later = FrameSpec {
        fragment: Some((9, false)),
        ..FrameSpec::default()
    };
    let trusted = FrameSpec {
        fragment: Some((9, false)),
        ..FrameSpec::from("203.0.113.9")
    };
    let elsewhere = FrameSpec {
        port: 1,
        ..first.clone()
    };
    for (rule, first_gets, later_gets, trusted_gets) in [
        (Fragments::Judge, R::Passed, R::PassedFragment, R::Allowed),
        (Fragments::Drop, R::Fragment, R::Fragment, R::Allowed),
        (
            Fragments::Pass,
            R::Passed,
            R::PassedFragment,
            R::PassedFragment,
        ),
    ] {
        config.fragments = rule;
        filter.apply(&config, PORTS).expect("applies");
        let what = format!("{rule:?}");
        expect(&filter, &first.build(), first_gets, &what);
        expect(&filter, &later.build(), later_gets, &what);
        expect(&filter, &trusted.build(), trusted_gets, &what);
        expect(&filter, &elsewhere.build(), R::NotJudged, &what);
    }
}
