//! The rate of a source: burst, refill, IPv6 by /64, and a flooder that is not forgotten.

use std::time::{Duration, Instant};

use gateway::config::filter::FilterConfig;
use gateway::kernel::Action;
use gateway_common::gcra::RateKnobs;
use gateway_tests::kernel::{FrameSpec, Transport};

use super::{HOUR_NS, R, able, count, expect, load, nets, small};

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
            1 << 20,
        )
        .expect("runs");
    expect(
        &bench.filter,
        &flood,
        R::RateLimited,
        "after a million others",
    );
}
