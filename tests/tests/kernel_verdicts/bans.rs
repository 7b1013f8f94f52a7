//! Life of bans and list entries, full lists, and what the program says of its drops.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gateway::clock::mono_ns;
use gateway::config::filter::FilterConfig;
use gateway::kernel::{Action, KernelError};
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
