//! Life of bans and list entries, full lists, and what the program says of its drops.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gateway::clock::mono_ns;
use gateway::config::filter::FilterConfig;
use gateway::kernel::{Action, Filter, KernelError};
use gateway_tests::kernel::FrameSpec;

use super::{HOUR_NS, PORTS, R, able, expect, load, net, nets, small};

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

/// Runs `f` in a copy of this process, as a worker runs: what it does to the maps stays, what it knows is gone.
fn in_another_process(filter: &mut Filter, f: impl FnOnce(&mut Filter)) {
    // SAFETY: the child is one thread that touches only maps and memory of its own, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(filter)));
        // SAFETY: no precondition; the parent's test harness must not run on here.
        unsafe { libc::_exit(i32::from(done.is_err())) }
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
}

#[test]
fn a_successor_takes_over_what_its_predecessor_left() {
    if !able() {
        return;
    }
    let config = FilterConfig {
        allow: nets(["203.0.113.5/32"]),
        block: nets(["203.0.113.0/24", "2001:db8:c00::/40"]),
        ..small()
    };
    let mut filter = load(&config);
    let until = mono_ns() + HOUR_NS;
    let banned = [
        ("100.64.0.0/10", 5, until),
        ("198.51.100.7/32", 3, until),
        ("2001:db8:1::/48", 6, until),
        ("2001:db8:1:1::/64", 4, until),
        ("2001:db8:2::7/128", 1, u64::MAX),
    ];
    in_another_process(&mut filter, |filter| {
        let reloaded = FilterConfig {
            allow: nets(["2001:db8:a::/48"]),
            block: nets(["198.18.0.0/15"]),
            ..small()
        };
        filter.apply(&reloaded, &[8443, 9000]).expect("applies");
        // Enough to build the hints anew, without those of the config at load.
        for i in 0..200u32 {
            let short = format!("10.{i}.0.0/16");
            filter.ban(net(&short), 1, 1).expect("bans");
            let short = format!("2001:{i:x}::/32");
            filter.ban(net(&short), 1, 1).expect("bans");
        }
        filter.sweep_expired(2).expect("sweeps");
        for (target, cause, until) in banned {
            filter.ban(net(target), cause, until).expect("bans");
        }
    });
    assert_eq!(filter.list_bans(), []);

    let found = filter.adopt().expect("adopts");
    let found: Vec<_> = found
        .iter()
        .map(|ban| (ban.target.to_string(), ban.cause, ban.expires_mono_ns))
        .collect();
    let wanted = banned.map(|(target, cause, until)| (target.to_owned(), cause, until));
    assert_eq!(found, wanted);
    let on_port = |source: &str, port: u16| {
        let spec = FrameSpec {
            port,
            ..FrameSpec::from(source)
        };
        spec.build()
    };
    expect(
        &filter,
        &on_port("198.19.0.1", 9000),
        R::BlockedPrefix,
        "as it was left",
    );

    // The config that the successor was given, which is the one at load.
    filter.apply(&config, PORTS).expect("applies");
    expect(
        &filter,
        &on_port("198.51.100.7", 9000),
        R::NotJudged,
        "a port of before",
    );
    for (source, reason) in [
        ("198.51.100.7", R::BlockedAddress),
        ("100.99.1.2", R::BlockedPrefix),
        ("2001:db8:1:1::9", R::BlockedPrefix),
        ("2001:db8:1:9::9", R::BlockedPrefix),
        ("2001:db8:2::7", R::BlockedAddress),
        ("203.0.113.9", R::BlockedPrefix),
        ("203.0.113.5", R::Allowed),
        ("2001:db8:cff::1", R::BlockedPrefix),
        ("198.19.0.1", R::Passed),
        ("2001:db8:a::1", R::Passed),
        ("10.7.0.1", R::Passed),
    ] {
        expect(&filter, &on_port(source, 8443), reason, source);
    }
    for (target, _, _) in banned {
        assert!(filter.unban(net(target)).expect("unbans"), "{target}");
    }
    for source in [
        "198.51.100.7",
        "100.99.1.2",
        "2001:db8:1:1::9",
        "2001:db8:2::7",
    ] {
        expect(&filter, &on_port(source, 8443), R::Passed, source);
    }
    let sizes: usize = filter.status().lists.iter().map(|(_, size)| size).sum();
    assert_eq!((sizes, filter.status().bans), (3, 0));
}

#[test]
fn a_ban_nobody_remembers_can_be_lifted() {
    if !able() {
        return;
    }
    let mut filter = load(&FilterConfig {
        block: nets(["203.0.113.66/32"]),
        ..small()
    });
    let frame = |source: &str| FrameSpec::from(source).build();
    in_another_process(&mut filter, |filter| {
        filter
            .ban(net("198.51.100.7/32"), 3, u64::MAX)
            .expect("bans");
    });
    expect(
        &filter,
        &frame("198.51.100.7"),
        R::BlockedAddress,
        "by the other",
    );
    assert!(filter.unban(net("198.51.100.7/32")).expect("unbans"));
    assert!(!filter.unban(net("198.51.100.7/32")).expect("unbans"));
    expect(&filter, &frame("198.51.100.7"), R::Passed, "lifted");
    // Neither takes along what the config says, or its list.
    assert!(!filter.unban(net("203.0.113.66/32")).expect("unbans"));
    expect(&filter, &frame("203.0.113.66"), R::BlockedAddress, "config");
}

#[test]
fn an_expired_prefix_is_no_hole_in_a_wider_one() {
    if !able() {
        return;
    }
    let mut filter = load(&FilterConfig {
        block: nets(["2001:db8:c00::/40", "192.0.0.0/8"]),
        ..small()
    });
    let frame = |source: &str| FrameSpec::from(source).build();
    let (over, until) = (mono_ns() - 20_000_000, mono_ns() + HOUR_NS);
    for (target, expires) in [
        ("198.51.0.0/16", until),
        ("198.51.96.0/19", over),
        ("198.51.100.0/24", over),
        ("198.51.100.0/25", over),
        ("198.51.100.7/32", over),
        ("192.0.2.0/24", over),
        ("2001:db8:c01::/48", over),
        ("2001:db8:c01:1::/64", over),
        ("2001:db8:c01:1::/96", over),
        // Nothing wider around these.
        ("198.52.0.0/16", over),
        ("198.52.100.0/24", over),
    ] {
        filter.ban(net(target), 1, expires).expect("bans");
    }
    for round in ["unswept", "swept"] {
        for source in [
            "198.51.100.7",
            "198.51.99.1",
            "192.0.2.1",
            "2001:db8:c01:1::7",
        ] {
            expect(
                &filter,
                &frame(source),
                R::BlockedPrefix,
                &format!("{source}, {round}"),
            );
        }
        expect(&filter, &frame("198.52.100.7"), R::Passed, round);
        filter.sweep_expired(mono_ns()).expect("sweeps");
    }
    // Every length there is, all over but the widest.
    for bits in 1..32u8 {
        let target = ipnet::Ipv4Net::new([77, 77, 77, 77].into(), bits).expect("a length");
        let expires = if bits == 1 { until } else { over };
        filter.ban(target.trunc().into(), 1, expires).expect("bans");
    }
    expect(
        &filter,
        &frame("77.77.77.77"),
        R::BlockedPrefix,
        "behind 30 others",
    );
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    if !able() {
        return;
    }
    let config = FilterConfig {
        list_entries: 4,
        allow: nets(["203.0.113.5/32"]),
        block: nets(["198.51.100.66/32", "203.0.0.0/16"]),
        ..small()
    };
    let mut filter = load(&config);
    let before = filter.status();
    let too_many = (0..64u32).map(|i| net(&format!("198.51.100.{}/32", 128 + i)));
    let failing = FilterConfig {
        allow: nets(["198.51.100.7/32"]),
        block: too_many.chain([net("10.0.0.0/8")]).collect(),
        ..config.clone()
    };
    let outcome = filter.apply(&failing, &[53]);
    assert!(
        matches!(outcome, Err(KernelError::ListFull { .. })),
        "{outcome:?}"
    );
    assert_eq!(filter.status(), before);
    for (source, reason) in [
        ("198.51.100.66", R::BlockedAddress),
        ("203.0.1.1", R::BlockedPrefix),
        ("203.0.113.5", R::Allowed),
        ("198.51.100.7", R::Passed),
        ("198.51.100.128", R::Passed),
        ("10.1.1.1", R::Passed),
    ] {
        expect(&filter, &FrameSpec::from(source).build(), reason, source);
    }
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
fn entries_added_after_many_were_removed_are_found() {
    if !able() {
        return;
    }
    let mut filter = load(&small());
    for round in 0..3 {
        for i in 0..200u32 {
            filter
                .ban(net(&format!("198.51.{i}.7/32")), 1, round)
                .expect("bans");
            filter
                .ban(net(&format!("2001:db8:{i:x}::/48")), 1, round)
                .expect("bans");
        }
        filter
            .ban(net("198.51.100.7/32"), 1, u64::MAX)
            .expect("bans");
        filter
            .ban(net("2001:db8:64::/48"), 1, u64::MAX)
            .expect("bans");
        // The sweep removes 398 of 400, and with them the hints of their ranges but not those of the two.
        assert_eq!(filter.sweep_expired(1_000).expect("sweeps").len(), 398);
        expect(
            &filter,
            &FrameSpec::from("198.51.100.7").build(),
            R::BlockedAddress,
            "kept",
        );
        expect(
            &filter,
            &FrameSpec::from("2001:db8:64::1").build(),
            R::BlockedPrefix,
            "kept",
        );
        expect(
            &filter,
            &FrameSpec::from("198.51.101.7").build(),
            R::Passed,
            "swept",
        );
    }
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
        (R::BlockedAddress as u8, 9, 6)
    );
    assert_eq!((first.source_port, first.destination_port), (40000, 8443));
    assert!(mono_ns() - first.time_ns < 60_000_000_000);
    assert_eq!(
        IpAddr::from(second.source),
        "2001:db8:bad::1".parse::<IpAddr>().expect("one")
    );

    // With its debug messages on, the program loads as well, and says what it drops.
    let mut talkative = load(&FilterConfig {
        debug: true,
        ..small()
    });
    assert!(talkative.take_logger().is_some());
    talkative
        .ban(net("198.51.100.7/32"), 9, u64::MAX)
        .expect("bans");
    expect(
        &talkative,
        &FrameSpec::default().build(),
        R::BlockedAddress,
        "debug",
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
