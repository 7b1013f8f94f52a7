//! Table tests.

use super::*;

fn ban(target: &str, reason: BanReason, expires_mono_ns: u64) -> Ban {
    Ban {
        target: target.parse().unwrap(),
        reason,
        rule: "test".into(),
        since_wall_ns: 0,
        expires_mono_ns,
    }
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

#[test]
fn covers_by_address_subscriber_and_prefix() {
    let table = BanTable::default();
    for target in [
        "192.0.2.1/32",
        "2001:db8:0:1::/64",
        "2001:db8:0:2::5/128",
        "198.51.100.0/24",
    ] {
        table.insert(ban(target, BanReason::Manual, 100)).unwrap();
    }
    for (address, covered) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("192.0.2.2", false),
        ("2001:db8:0:1:ffff::1", true),
        ("2001:db8:0:2::5", true),
        ("2001:db8:0:2::6", false),
        ("198.51.100.255", true),
        ("198.51.101.0", false),
    ] {
        assert_eq!(
            table.covers(ip(address), 99).is_some(),
            covered,
            "{address}"
        );
        assert!(table.covers(ip(address), 100).is_none()); // expired to the nanosecond
    }
    assert_eq!(table.list(99).len(), 4);
    assert_eq!(table.sweep(99), []);
    assert_eq!(table.sweep(100).len(), 4);
    assert!(table.is_empty());
}

#[test]
fn trusted_prefixes_are_safe() {
    let table = BanTable::new(10, vec!["10.0.0.0/8".parse().unwrap()]);
    for target in ["10.1.2.3/32", "0.0.0.0/0", "::ffff:10.1.2.3/128"] {
        let refused = table.insert(ban(target, BanReason::Manual, 100));
        assert!(matches!(refused, Err(BanError::Trusted { .. })), "{target}");
    }
    table
        .insert(ban("11.0.0.1/32", BanReason::Manual, 100))
        .unwrap();
    let lifted = table.set_trusted(vec!["11.0.0.0/8".parse().unwrap()]);
    assert_eq!(lifted.len(), 1);
    assert!(table.covers(ip("11.0.0.1"), 0).is_none());
}

#[test]
fn bounded_and_never_forever_by_itself() {
    let table = BanTable::new(2, Vec::new());
    assert_eq!(
        table.insert(ban("192.0.2.1/32", BanReason::Limit, u64::MAX)),
        Err(BanError::NeverExpires)
    );
    table
        .insert(ban("192.0.2.1/32", BanReason::Limit, 10))
        .unwrap();
    table
        .insert(ban("192.0.2.2/32", BanReason::Manual, u64::MAX))
        .unwrap();
    assert_eq!(
        table.insert(ban("192.0.2.3/32", BanReason::Limit, 10)),
        Err(BanError::Full { max: 2 })
    );
    // Renewing what is there needs no room; a shorter automatic ban changes nothing.
    table
        .insert(ban("192.0.2.1/32", BanReason::Limit, 20))
        .unwrap();
    table
        .insert(ban("192.0.2.1/32", BanReason::Limit, 15))
        .unwrap();
    table
        .insert(ban("192.0.2.2/32", BanReason::Limit, 15))
        .unwrap();
    assert_eq!(
        table.covers(ip("192.0.2.1"), 19).unwrap().expires_mono_ns,
        20
    );
    assert_eq!(
        table.covers(ip("192.0.2.2"), 19).unwrap().reason,
        BanReason::Manual
    );
    assert!(table.remove("192.0.2.2/32".parse().unwrap()));
    assert!(!table.remove("192.0.2.2/32".parse().unwrap()));
    assert_eq!(table.len(), 1);
}

#[test]
fn prefixes_are_few_and_removable() {
    let table = BanTable::default();
    for i in 0..PREFIXES_MAX {
        let target = format!("172.{}.{}.0/24", i / 256, i % 256);
        table.insert(ban(&target, BanReason::Manual, 10)).unwrap();
    }
    assert_eq!(
        table.insert(ban("198.51.100.0/24", BanReason::Manual, 10)),
        Err(BanError::PrefixesFull { max: PREFIXES_MAX })
    );
    assert!(table.remove("172.0.0.7/24".parse().unwrap()));
    assert_eq!(table.len(), PREFIXES_MAX - 1);
}

#[test]
fn codes_round_trip() {
    for reason in BanReason::ALL {
        assert_eq!(BanReason::from_code(reason.code()), Some(reason));
    }
    assert_eq!(BanReason::from_code(0), None);
}
