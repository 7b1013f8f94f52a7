//! The kernel and the host judge mutated frames alike: the same code on both sides, and the maps against plain lists.

use std::collections::HashMap;

use gateway::config::filter::{FilterConfig, Fragments, Malformed};
use gateway::kernel::Action;
use gateway_common::verdict::decide;
use gateway_tests::kernel::{FrameSpec, Reference, Transport};

use super::frames::listed;

use super::{PORTS, R, able, count, load};

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
    for (rule, malformed) in [
        (Fragments::Judge, Malformed::Judge),
        (Fragments::Drop, Malformed::Pass),
        (Fragments::Pass, Malformed::Drop),
    ] {
        let config = FilterConfig {
            fragments: rule,
            malformed,
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
