//! The loaded program against crafted frames (`BPF_PROG_TEST_RUN`): verdict and counter of each, life of a ban,
//! rates, fragments, events, attaching; and that the kernel and the host judge mutated frames alike.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::clock::mono_ns;
use gateway::config::filter::{FilterConfig, Fragments, Interface, Mode};
use gateway::kernel::{Action, Filter, KernelError, Reason};
use gateway_common::abi::Reason as R;
use gateway_common::gcra::RateKnobs;
use gateway_common::verdict::decide;
use gateway_tests::kernel::{FrameSpec, Reference, Transport};
use ipnet::IpNet;

const PORTS: &[u16] = &[8443, 53];
const HOUR_NS: u64 = 3_600_000_000_000;

/// Whether this machine can run these tests; says why not, and does not accept that where CI asks for all of them.
fn able() -> bool {
    // SAFETY: no arguments, no memory.
    let why = if unsafe { libc::geteuid() } != 0 {
        "needs root (BPF programs are loaded)"
    } else {
        match Filter::load(&small(), &[]) {
            Err(KernelError::NotBuilt) => {
                "needs the kernel filter in the build (cargo xtask build)"
            }
            _ => return true,
        }
    };
    assert!(
        std::env::var_os("GATEWAY_E2E").is_none_or(|v| v != "1"),
        "GATEWAY_E2E=1, but this {why}"
    );
    println!("SKIP: {why}");
    false
}

/// A filter without a rate, and with tables of test size.
fn small() -> FilterConfig {
    FilterConfig {
        sources: 1 << 12,
        list_entries: 1 << 10,
        sample_every: 1,
        ..FilterConfig::default()
    }
}

fn nets<const N: usize>(texts: [&str; N]) -> std::collections::BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a test names real prefixes")
}

fn load(config: &FilterConfig) -> Filter {
    match Filter::load(config, PORTS) {
        Ok(filter) => filter,
        Err(e) => panic!("{}", e.to_string().replace("\\n", "\n")),
    }
}

fn count(filter: &Filter, reason: R) -> u64 {
    let counters: HashMap<_, _> = filter.counters().expect("readable").into_iter().collect();
    counters[reason.slug()]
}

/// One run; the verdict must be this one, in the answer and in the counters.
fn expect(filter: &Filter, frame: &[u8], reason: R, what: &str) {
    let before = filter.counters().expect("readable");
    let (action, _) = filter.test_run(frame, 1).expect("runs");
    let after = filter.counters().expect("readable");
    let moved: Vec<&str> = before
        .iter()
        .zip(&after)
        .filter(|(b, a)| b.1 != a.1 && a.0 != "events-lost")
        .map(|(b, _)| b.0)
        .collect();
    assert_eq!(moved, [reason.slug()], "{what}");
    let wanted = if reason.drops() {
        Action::Drop
    } else {
        Action::Pass
    };
    assert_eq!(action, wanted, "{what}");
}

fn listed() -> FilterConfig {
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
            R::Malformed,
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

#[test]
fn malformed_headers_are_dropped_and_what_is_not_ip_is_left_alone() {
    if !able() {
        return;
    }
    let filter = load(&small());
    let edit = |spec: FrameSpec, at: usize, value: u8| {
        let mut frame = spec.build();
        frame[at] = value;
        frame
    };
    let v4 = FrameSpec::default;
    let v6 = || FrameSpec::from("2001:db8:1::7");
    let cut = |spec: FrameSpec, len: usize| spec.build()[..len].to_vec();
    for (what, frame, reason) in [
        ("ipv4 says version 5", edit(v4(), 14, 0x55), R::Malformed),
        (
            "ipv4 header of 16 bytes",
            edit(v4(), 14, 0x44),
            R::Malformed,
        ),
        (
            "ipv4 options beyond the frame",
            edit(cut_spec(), 14, 0x4f),
            R::Malformed,
        ),
        (
            "ipv4 length below its header",
            edit(edit_spec(), 17, 19),
            R::Malformed,
        ),
        (
            "ipv4 length leaves no tcp header",
            edit(edit_spec(), 17, 39),
            R::Malformed,
        ),
        (
            "ipv4 length leaves a tcp header",
            edit(edit_spec(), 17, 40),
            R::Passed,
        ),
        ("ipv4 cut in its header", cut(v4(), 33), R::Malformed),
        ("ipv4 cut before its ports", cut(v4(), 37), R::Malformed),
        ("ipv4 cut after its ports", cut(v4(), 38), R::Passed),
        ("ipv6 says version 4", edit(v6(), 14, 0x40), R::Malformed),
        ("ipv6 cut in its header", cut(v6(), 53), R::Malformed),
        (
            "ipv6 without payload",
            {
                let mut f = v6().build();
                f[18..20].fill(0);
                f
            },
            R::Malformed,
        ),
        (
            "ipv6 extension beyond the payload",
            edit(
                FrameSpec {
                    extensions: vec![60],
                    ..v6()
                },
                55,
                40,
            ),
            R::Malformed,
        ),
        ("ethernet alone", cut(v4(), 14), R::Malformed),
        ("arp", edit(v4(), 13, 0x06), R::NotJudged),
        (
            "tag without what follows",
            {
                let mut f = cut(v4(), 14);
                f[12..14].copy_from_slice(&[0x81, 0]);
                f
            },
            R::NotJudged,
        ),
    ] {
        expect(&filter, &frame, reason, what);
    }
    fn edit_spec() -> FrameSpec {
        FrameSpec::default()
    }
    fn cut_spec() -> FrameSpec {
        FrameSpec {
            payload: 0,
            ..FrameSpec::default()
        }
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

#[test]
fn a_source_gets_its_burst_and_no_more() {
    if !able() {
        return;
    }
    let config = FilterConfig {
        rate: RateKnobs::new(1, HOUR_NS, 10).expect("a rate"),
        allow: nets(["203.0.113.9/32"]),
        ..small()
    };
    let filter = load(&config);
    let flood = FrameSpec::from("198.51.100.7").build();
    let (action, _) = filter.test_run(&flood, 10).expect("runs");
    assert_eq!((action, count(&filter, R::Passed)), (Action::Pass, 10));
    expect(&filter, &flood, R::RateLimited, "the eleventh");
    let udp = FrameSpec {
        transport: Transport::Udp,
        port: 53,
        ..FrameSpec::from("198.51.100.7")
    };
    expect(
        &filter,
        &udp.build(),
        R::RateLimited,
        "another protected port",
    );
    let fragment = FrameSpec {
        fragment: Some((5, false)),
        ..FrameSpec::from("198.51.100.7")
    };
    expect(
        &filter,
        &fragment.build(),
        R::RateLimited,
        "a fragment of it",
    );
    expect(
        &filter,
        &FrameSpec {
            port: 1,
            ..FrameSpec::from("198.51.100.7")
        }
        .build(),
        R::NotJudged,
        "another port",
    );
    expect(
        &filter,
        &FrameSpec::from("198.51.100.8").build(),
        R::Passed,
        "another source",
    );

    let trusted = FrameSpec::from("203.0.113.9").build();
    filter.test_run(&trusted, 1_000).expect("runs");
    assert_eq!(count(&filter, R::Allowed), 1_000);

    // An IPv6 client owns its /64: addresses inside share one allowance.
    for i in 0..10 {
        expect(
            &filter,
            &FrameSpec::from(&format!("2001:db8:1:1::{i:x}")).build(),
            R::Passed,
            "inside",
        );
    }
    expect(
        &filter,
        &FrameSpec::from("2001:db8:1:1:ffff::1").build(),
        R::RateLimited,
        "inside, the eleventh",
    );
    expect(
        &filter,
        &FrameSpec::from("2001:db8:1:2::1").build(),
        R::Passed,
        "the next /64",
    );
}

#[test]
fn a_rate_refills() {
    if !able() {
        return;
    }
    let config = FilterConfig {
        rate: RateKnobs::new(20, 1_000_000_000, 1).expect("a rate"),
        ..small()
    };
    let filter = load(&config);
    let frame = FrameSpec::default().build();
    expect(&filter, &frame, R::Passed, "the first");
    expect(&filter, &frame, R::RateLimited, "the second at once");
    let deadline = Instant::now() + Duration::from_secs(5);
    while filter.test_run(&frame, 1).expect("runs").0 != Action::Pass {
        assert!(Instant::now() < deadline, "never admitted again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_limited_source_stays_limited_while_a_million_others_pass() {
    if !able() {
        return;
    }
    let config = FilterConfig {
        rate: RateKnobs::new(1, HOUR_NS, 2).expect("a rate"),
        sources: 1 << 10,
        ..small()
    };
    let bench = gateway::kernel::Bench::of(load(&config));
    let mut bench = bench.expect("loads");
    let flood = FrameSpec::from("198.51.100.7").build();
    bench.filter.test_run(&flood, 1_000).expect("runs");
    assert_eq!(count(&bench.filter, R::Passed), 2);
    bench
        .rotate(
            &FrameSpec::default().build(),
            1_000_000,
            [11, 0, 0, 0].into(),
            (1 << 20) - 1,
        )
        .expect("runs");
    expect(
        &bench.filter,
        &flood,
        R::RateLimited,
        "after a million others",
    );
}

#[test]
fn bans_live_expire_and_survive_a_reload() {
    if !able() {
        return;
    }
    let mut config = FilterConfig {
        allow: nets(["192.0.2.0/24"]),
        ..small()
    };
    let mut filter = load(&config);
    let frame = |source: &str| FrameSpec::from(source).build();

    filter
        .ban(net("198.51.100.7/32"), 3, mono_ns() + HOUR_NS)
        .expect("bans");
    filter
        .ban(net("2001:db8:1:1::/64"), 4, mono_ns() + HOUR_NS)
        .expect("bans");
    filter
        .ban(net("100.64.0.0/10"), 5, mono_ns() + HOUR_NS)
        .expect("bans");
    filter
        .ban(net("198.51.100.8/32"), 6, mono_ns() - 20_000_000)
        .expect("bans");
    expect(
        &filter,
        &frame("198.51.100.7"),
        R::BlockedAddress,
        "banned address",
    );
    expect(
        &filter,
        &frame("2001:db8:1:1::9"),
        R::BlockedPrefix,
        "banned /64",
    );
    expect(
        &filter,
        &frame("100.127.255.1"),
        R::BlockedPrefix,
        "banned prefix",
    );
    expect(
        &filter,
        &frame("198.51.100.8"),
        R::Passed,
        "a ban that is over, unswept",
    );
    assert_eq!(filter.list_bans().len(), 4);

    let swept = filter.sweep_expired(mono_ns()).expect("sweeps");
    assert_eq!(swept.iter().map(|ban| ban.cause).collect::<Vec<_>>(), [6]);

    // The config blocks the same address, then no longer does: the ban is still there.
    config.block = nets(["198.51.100.7/32", "198.51.100.9/32"]);
    filter.apply(&config, PORTS).expect("applies");
    expect(
        &filter,
        &frame("198.51.100.9"),
        R::BlockedAddress,
        "by the config",
    );
    config.block.clear();
    filter.apply(&config, PORTS).expect("applies");
    expect(
        &filter,
        &frame("198.51.100.9"),
        R::Passed,
        "no longer by the config",
    );
    expect(
        &filter,
        &frame("198.51.100.7"),
        R::BlockedAddress,
        "still banned",
    );
    expect(
        &filter,
        &frame("100.127.255.1"),
        R::BlockedPrefix,
        "still banned",
    );

    assert!(filter.unban(net("100.64.0.0/10")).expect("unbans"));
    assert!(!filter.unban(net("100.64.0.0/10")).expect("unbans"));
    expect(&filter, &frame("100.127.255.1"), R::Passed, "unbanned");

    assert!(matches!(
        filter.ban(net("192.0.2.7/32"), 1, u64::MAX),
        Err(KernelError::Trusted { .. })
    ));
    assert!(matches!(
        filter.ban(net("0.0.0.0/0"), 1, u64::MAX),
        Err(KernelError::TooWide { .. })
    ));
    filter
        .ban(net("::ffff:198.51.100.10/128"), 1, u64::MAX)
        .expect("bans");
    expect(
        &filter,
        &frame("198.51.100.10"),
        R::BlockedAddress,
        "banned by its mapped form",
    );

    filter.apply(&config, &[9000]).expect("applies");
    expect(
        &filter,
        &frame("198.51.100.7"),
        R::NotJudged,
        "the port is no longer protected",
    );
}

#[test]
fn a_ban_takes_effect_until_its_time() {
    if !able() {
        return;
    }
    let mut filter = load(&small());
    let frame = FrameSpec::default().build();
    let until = mono_ns() + 300_000_000;
    filter.ban(net("198.51.100.7/32"), 1, until).expect("bans");
    expect(&filter, &frame, R::BlockedAddress, "at once");
    let deadline = Instant::now() + Duration::from_secs(5);
    while filter.test_run(&frame, 1).expect("runs").0 != Action::Pass {
        assert!(Instant::now() < deadline, "never expired");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        mono_ns() >= until - 10_000_000,
        "expired more than a tick early"
    );
}

#[test]
fn full_lists_say_so() {
    if !able() {
        return;
    }
    let mut filter = load(&FilterConfig {
        list_entries: 4,
        ..small()
    });
    let outcome =
        (0..64u32).try_for_each(|i| filter.ban(net(&format!("198.51.100.{i}/32")), 1, u64::MAX));
    assert!(
        matches!(outcome, Err(KernelError::ListFull { .. })),
        "{outcome:?}"
    );
}

#[test]
fn drops_are_sampled_as_events() {
    if !able() {
        return;
    }
    let mut filter = load(&FilterConfig {
        block: nets(["2001:db8:bad::1/128"]),
        ..small()
    });
    let mut events = filter.take_events().expect("there once");
    assert!(filter.take_events().is_none());
    filter
        .ban(net("198.51.100.7/32"), 9, u64::MAX)
        .expect("bans");
    filter
        .test_run(&FrameSpec::default().build(), 1)
        .expect("runs");
    filter
        .test_run(&FrameSpec::from("2001:db8:bad::1").build(), 1)
        .expect("runs");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let (first, second) = runtime.block_on(async {
        (
            events.next().await.expect("an event"),
            events.next().await.expect("an event"),
        )
    });
    assert_eq!(
        IpAddr::from(first.source).to_canonical(),
        "198.51.100.7".parse::<IpAddr>().expect("one")
    );
    assert_eq!(
        (first.reason, first.cause, first.protocol),
        (Reason::BlockedAddress as u8, 9, 6)
    );
    assert_eq!((first.source_port, first.destination_port), (40000, 8443));
    assert!(mono_ns() - first.time_ns < 60_000_000_000);
    assert_eq!(
        IpAddr::from(second.source),
        "2001:db8:bad::1".parse::<IpAddr>().expect("one")
    );

    // One that comes while we wait.
    let woken = runtime.block_on(async {
        let (_, event) = tokio::join!(
            async {
                filter
                    .test_run(&FrameSpec::default().build(), 1)
                    .expect("runs")
            },
            events.next()
        );
        event.expect("an event")
    });
    assert_eq!(woken.cause, 9);
}

#[test]
fn the_kernel_and_the_host_judge_mutated_frames_alike() {
    if !able() {
        return;
    }
    const FRAMES: usize = 40_000;
    let seed = std::env::var("GATEWAY_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261_124u64);
    println!("seed {seed} (GATEWAY_SEED)");
    let mut random = Random(seed);
    for rule in [Fragments::Judge, Fragments::Drop, Fragments::Pass] {
        let config = FilterConfig {
            fragments: rule,
            sample_every: 0,
            ..listed()
        };
        let (filter, reference) = (load(&config), Reference::of(&config, PORTS));
        let mut tally: HashMap<R, u64> = HashMap::new();
        for _ in 0..FRAMES / 3 + 1 {
            let frame = random.frame();
            let host = decide(&frame[..], &reference).reason;
            let (kernel, _) = filter.test_run(&frame, 1).expect("runs");
            let wanted = if host.drops() {
                Action::Drop
            } else {
                Action::Pass
            };
            assert_eq!(kernel, wanted, "host says {host:?} to {frame:02x?}");
            *tally.entry(host).or_default() += 1;
        }
        for reason in R::ALL {
            let host = tally.get(reason).copied().unwrap_or(0);
            assert_eq!(count(&filter, *reason), host, "{reason:?} under {rule:?}");
        }
        assert!(tally.len() >= 6, "the frames reach too little: {tally:?}");
    }
}

/// xorshift64*: a seed makes the same frames everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// A well-formed frame with a few bytes changed, or its end cut off.
    fn frame(&mut self) -> Vec<u8> {
        let sources = [
            "198.51.100.7",
            "198.51.100.66",
            "203.0.113.9",
            "10.2.3.4",
            "2001:db8:1::1",
            "2001:db8:bad::1",
            "2001:db8:bad:64::1",
            "2001:db8:a:1::1",
        ];
        let spec = FrameSpec {
            tags: self.pick(&[
                vec![],
                vec![],
                vec![0x8100],
                vec![0x88a8, 0x8100],
                vec![0x8100; 3],
            ]),
            source: self.pick(&sources).parse().expect("real addresses"),
            transport: self.pick(&[Transport::Tcp, Transport::Udp, Transport::Icmp]),
            port: self.pick(&[8443, 53, 22]),
            options: self.pick(&[0, 0, 4, 40]),
            extensions: self.pick(&[
                vec![],
                vec![0],
                vec![51, 60],
                vec![0, 43, 60, 60, 51, 135, 139, 140],
                vec![60; 9],
            ]),
            fragment: self.pick(&[
                None,
                None,
                Some((0, true)),
                Some((0, false)),
                Some((7, true)),
            ]),
            payload: self.pick(&[0, 1, 64, 600]),
            ..FrameSpec::default()
        };
        let mut frame = spec.build();
        for _ in 0..self.below(4) {
            // Mostly in the headers, where it matters.
            let reach = if self.below(4) == 0 {
                frame.len()
            } else {
                frame.len().min(80)
            };
            let at = 12 + self.below(reach - 12);
            frame[at] = self.below(256) as u8;
        }
        if self.below(4) == 0 {
            let len = 14 + self.below(frame.len() - 14);
            frame.truncate(len);
        }
        frame
    }
}

/// Runs `f` on a thread in a network namespace of its own, which goes away with the thread.
fn in_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is passed; only this thread changes its namespace.
            let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(left, 0, "{}", std::io::Error::last_os_error());
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(
        status.expect("iproute2 is installed").success(),
        "ip {arguments}"
    );
}

fn on(name: &str, mode: Mode) -> FilterConfig {
    let interfaces = vec![Interface {
        name: name.to_owned(),
        mode,
    }];
    FilterConfig {
        enabled: true,
        interfaces,
        ..small()
    }
}

#[test]
fn attaches_natively_where_it_can_and_says_where_it_cannot() {
    if !able() {
        return;
    }
    in_namespace(|| {
        ip("link add gwk0 type veth peer name gwk1");
        ip("link set lo up");
        let native = load(&on("gwk0", Mode::Auto));
        assert_eq!(native.status().interfaces[0].mode, Mode::Native);

        let busy = Filter::load(&on("gwk0", Mode::Auto), PORTS).map(|_| ());
        assert!(matches!(busy, Err(KernelError::Busy { .. })), "{busy:?}");
        let missing = Filter::load(&on("gwk7", Mode::Auto), PORTS).map(|_| ());
        assert!(
            matches!(missing, Err(KernelError::NoInterface { .. })),
            "{missing:?}"
        );
        let driver = Filter::load(&on("lo", Mode::Native), PORTS).map(|_| ());
        assert!(
            matches!(driver, Err(KernelError::NativeUnsupported { .. })),
            "{driver:?}"
        );

        let generic = load(&on("lo", Mode::Auto));
        assert_eq!(generic.status().interfaces[0].mode, Mode::Generic);
        assert_eq!(generic.status().interfaces[0].asked, Mode::Auto);

        drop(native);
        let again = load(&on("gwk0", Mode::Generic));
        assert_eq!(again.status().interfaces[0].mode, Mode::Generic);
    });
}

#[test]
fn everything_after_load_works_without_privileges() {
    if !able() {
        return;
    }
    in_namespace(|| {
        ip("link add gwk2 type veth peer name gwk3");
        let mut config = on("gwk2", Mode::Auto);
        let mut filter = load(&config);
        drop_privileges_of_this_thread();
        let refused = Filter::load(&small(), PORTS).map(|_| ());
        assert!(
            matches!(refused, Err(KernelError::Privilege)),
            "{refused:?}"
        );

        let frame = FrameSpec::default().build();
        filter
            .ban(net("198.51.100.7/32"), 1, u64::MAX)
            .expect("bans");
        expect(&filter, &frame, R::BlockedAddress, "banned");
        let mut events = filter.take_events().expect("mappable");
        assert!(events.try_next().is_some());
        assert!(filter.unban(net("198.51.100.7/32")).expect("unbans"));
        config.block = nets(["198.51.0.0/16", "198.51.100.7/32", "2001:db8::/32"]);
        filter.apply(&config, &[8443]).expect("applies");
        expect(&filter, &frame, R::BlockedAddress, "by the config");
        config.block.clear();
        filter.apply(&config, &[8443]).expect("applies");
        expect(&filter, &frame, R::Passed, "by no one");
        filter.sweep_expired(mono_ns()).expect("sweeps");
        assert_eq!(filter.status().interfaces.len(), 1);
    });
}

/// To nobody, for good, for the calling thread only: the raw calls, because libc's change all threads.
fn drop_privileges_of_this_thread() {
    const NOBODY: libc::c_long = 65534;
    // SAFETY: plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(done, 0);
    // SAFETY: plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
}
