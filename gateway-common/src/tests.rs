//! Properties of the pure code: parser, admission, source table.

extern crate std;

use std::cell::Cell;

use proptest::prelude::*;

use crate::abi::WAYS;
use crate::gcra::{RateKnobs, admit};
use crate::packet::{Address, Packet, Parsed, Payload, parse};
use crate::source::{Charge, Set, charge, set_index};

const KNOBS: RateKnobs = RateKnobs {
    interval_ns: 100,
    burst_ns: 200,
};

#[test]
fn admission_has_an_exact_edge() {
    assert_eq!(admit(200, 0, KNOBS), Ok(300)); // exactly at the edge: admitted
    assert_eq!(admit(201, 0, KNOBS), Err(1)); // one nanosecond beyond: refused
    assert_eq!(admit(0, 1_000, KNOBS), Ok(1_100)); // no credit for being away longer than the burst
    assert_eq!(admit(u64::MAX, u64::MAX, KNOBS), Ok(u64::MAX));
}

#[test]
fn knobs_say_no_to_what_they_cannot_hold() {
    let second = 1_000_000_000;
    assert_eq!(
        RateKnobs::new(10, second, 3),
        Some(RateKnobs {
            interval_ns: 100_000_000,
            burst_ns: 200_000_000
        })
    );
    assert_eq!(RateKnobs::new(0, second, 1), None);
    assert_eq!(RateKnobs::new(1, second, 0), None);
    assert_eq!(RateKnobs::new(second + 1, second, 1), None);
    assert_eq!(RateKnobs::new(1, u64::MAX, u64::MAX), None);
}

proptest! {
    /// In any window, at most the burst and what the rate gives.
    #[test]
    fn never_more_than_burst_and_rate(steps in prop::collection::vec(0u64..400, 1..400)) {
        let (mut due, mut now, mut admitted) = (0, 0, 0u64);
        for step in steps {
            now += step;
            if let Ok(next) = admit(due, now, KNOBS) {
                due = next;
                admitted += 1;
            }
        }
        prop_assert!(admitted <= 1 + (KNOBS.burst_ns + now) / KNOBS.interval_ns);
    }

    /// A source at or below its rate is never refused.
    #[test]
    fn a_source_at_its_rate_always_passes(gaps in prop::collection::vec(100u64..1_000, 1..200)) {
        let (mut due, mut now) = (0, 0);
        for gap in gaps {
            now += gap;
            match admit(due, now, KNOBS) {
                Ok(next) => due = next,
                Err(wait) => prop_assert!(false, "refused for {wait} ns"),
            }
        }
    }

    /// No bytes make the parser panic or read beyond the frame, and cutting a frame short never reveals other ports.
    #[test]
    fn any_bytes_parse(bytes in prop::collection::vec(any::<u8>(), 0..256), kind in 0usize..4, cut in 0usize..256) {
        let mut frame = bytes;
        let ethertype: [u8; 2] = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x12, 0x34]][kind];
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&ethertype);
            frame[14] = frame[14] & 0x0f | if kind == 0 { 0x40 } else { 0x60 };
        }
        let whole = parse(&frame[..]);
        let part = parse(&frame[..cut.min(frame.len())]);
        if let (Parsed::Ip(whole), Parsed::Ip(part)) = (whole, part)
            && part.payload != Payload::Unreadable
        {
            prop_assert_eq!(whole, part);
        }
    }

    #[test]
    fn the_cursor_ends_where_the_frame_ends(bytes in prop::collection::vec(any::<u8>(), 0..64), offset in 0usize..4096) {
        let read = bytes[..].read::<u16>(offset);
        prop_assert_eq!(read.is_some(), offset + 2 <= bytes.len());
    }
}

/// The key of a source as a packet has it in memory.
fn key_of(network: [u8; 8]) -> u64 {
    Address::V6([u64::from_ne_bytes(network), 7]).source_key()
}

#[test]
fn no_ipv6_network_of_unicast_shares_the_key_of_another_source() {
    // What an IPv4 key looks like as an IPv6 network: multicast with every flag and scope set.
    for address in [[0; 4], [192, 0, 2, 7], [255; 4], [0x20, 0x01, 0x0d, 0xb8]] {
        let key = Address::V4(u32::from_ne_bytes(address)).source_key();
        assert_eq!(key.to_ne_bytes()[..4], [0xff; 4], "{address:?}");
        assert_eq!(key.to_ne_bytes()[4..], address);
    }
    // The one that collided: its low half is all ones.
    let documentation = key_of([0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0xff, 0xff]);
    let collided = Address::V4(u32::from_ne_bytes([0x20, 0x01, 0x0d, 0xb8]));
    assert_ne!(documentation, collided.source_key());
    assert_ne!(key_of([0; 8]), 0);
    assert_eq!(key_of([0; 8]).to_ne_bytes()[0], 0xff);
    assert_ne!(key_of([0; 8]), Address::V4(0).source_key());
}

proptest! {
    #[test]
    fn unicast_networks_and_ipv4_addresses_have_keys_apart(network in any::<[u8; 8]>(), address in any::<[u8; 4]>()) {
        prop_assume!(network[0] != 0xff);
        prop_assert_ne!(key_of(network), Address::V4(u32::from_ne_bytes(address)).source_key());
    }
}

/// A set of one thread.
#[derive(Default)]
struct OneSet(Cell<[(u64, u64); WAYS]>);

impl OneSet {
    fn put(&self, way: usize, entry: (u64, u64)) {
        let mut ways = self.0.get();
        ways[way] = entry;
        self.0.set(ways);
    }
}

impl Set for OneSet {
    fn key(&self, way: usize) -> u64 {
        self.0.get()[way].0
    }
    fn due_ns(&self, way: usize) -> u64 {
        self.0.get()[way].1
    }
    fn claim(&self, way: usize, from: u64, to: u64) -> bool {
        let same = self.key(way) == from;
        if same {
            self.put(way, (to, self.due_ns(way)));
        }
        same
    }
    fn advance(&self, way: usize, from_ns: u64, to_ns: u64) -> Result<(), u64> {
        if self.due_ns(way) != from_ns {
            return Err(self.due_ns(way));
        }
        self.put(way, (self.key(way), to_ns));
        Ok(())
    }
}

#[test]
fn a_source_over_its_limit_is_not_forgotten_while_others_pass() {
    let set = OneSet::default();
    let mut now = 1_000_000;
    let mut admitted = 0;
    for other in 0..100_000u64 {
        now += 50; // the flooder sends at twice its rate, and each time a new source falls into its set
        admitted += u64::from(charge(&set, 7, now, KNOBS) == Charge::Admitted);
        charge(&set, 1_000 + other, now, KNOBS);
    }
    let allowance = 100_000 * 50 / KNOBS.interval_ns;
    assert!(admitted <= allowance + 3, "{admitted} of {allowance}");
    assert!(admitted >= allowance, "{admitted} of {allowance}");
}

#[test]
fn newcomers_wait_while_all_places_are_over_their_limit() {
    let set = OneSet::default();
    for way in 0..WAYS {
        set.put(way, (1 + way as u64, 1_000 + KNOBS.burst_ns + 1));
    }
    assert_eq!(charge(&set, 99, 1_000, KNOBS), Charge::Crowded);
    assert_eq!(charge(&set, 99, 1_001, KNOBS), Charge::Admitted); // one nanosecond later a place is at its edge
    assert_eq!(set.key(0), 99);
}

#[test]
fn the_coldest_goes_first() {
    let set = OneSet::default();
    for way in 0..WAYS {
        set.put(way, (1 + way as u64, 500 - way as u64));
    }
    assert_eq!(charge(&set, 99, 1_000, KNOBS), Charge::Admitted);
    assert_eq!(set.key(WAYS - 1), 99);
    assert_eq!(set.due_ns(WAYS - 1), 1_100);
}

/// A source that two CPUs hammer: every step may find that the other was there first.
struct Contended<'s> {
    set: &'s OneSet,
    stolen: Cell<u32>,
}

impl Set for Contended<'_> {
    fn key(&self, way: usize) -> u64 {
        self.set.key(way)
    }
    fn due_ns(&self, way: usize) -> u64 {
        self.set.due_ns(way)
    }
    fn claim(&self, way: usize, from: u64, to: u64) -> bool {
        self.set.claim(way, from, to)
    }
    fn advance(&self, way: usize, from_ns: u64, to_ns: u64) -> Result<(), u64> {
        // Every other time another CPU has just spent one packet.
        self.stolen.set(self.stolen.get() + 1);
        if self.stolen.get() % 2 == 1 {
            let due = self.set.due_ns(way);
            self.set
                .put(way, (self.set.key(way), due + KNOBS.interval_ns));
        }
        self.set.advance(way, from_ns, to_ns)
    }
}

#[test]
fn lost_races_are_charged_on_what_the_winner_left() {
    let set = OneSet::default();
    set.put(0, (7, 1_000));
    let contended = Contended {
        set: &set,
        stolen: Cell::new(0),
    };
    assert_eq!(charge(&contended, 7, 1_000, KNOBS), Charge::Admitted);
    assert_eq!(set.due_ns(0), 1_200); // two packets, ours and the winner's
}

#[test]
fn places_are_even_and_depend_on_the_seed() {
    let mask = 1023;
    let mut counts = [0u32; 1024];
    for i in 0..1_024_000u64 {
        counts[set_index(i << 32 | 0xffff_ffff, 42, mask) as usize] += 1;
    }
    assert!(counts.iter().all(|n| (850..1_150).contains(n)), "uneven");
    let same = (0..1_000u64)
        .filter(|i| set_index(*i, 1, mask) == set_index(*i, 2, mask))
        .count();
    assert!(
        same < 20,
        "{same} of 1000 keep their place under another seed"
    );
}
