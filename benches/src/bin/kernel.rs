//! Nanoseconds per packet of the loaded filter, by `BPF_PROG_TEST_RUN`: medians of five rounds, as the kernel measures them.
//!
//! About 5 ns of each figure are the harness (an empty program reads 5); where many sources send, drawing the address
//! is part of it. All cases run with 10,000 blocked addresses and 10,000 blocked prefixes in the lists.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use gateway::config::filter::FilterConfig;
use gateway::kernel::{Action, Bench, Filter};
use gateway_benches::report::{Row, median, publish};
use gateway_common::gcra::RateKnobs;

const ROUNDS: usize = 5;
const REPEAT: u32 = 1_000_000;
/// Before the rounds: enough that nearly every drawn source is in the table.
const WARM_UP: u32 = 8_000_000;
const SOURCES: u32 = 900_000;
const PORT: u16 = 8443;
/// Where the drawn sources begin: 11.0.0.0. Listed addresses lie in 12.0.0.0/8, prefixes in 13.0.0.0/8.
const FIRST: [u8; 4] = [11, 0, 0, 0];
const BLOCKED: [u8; 4] = [12, 0, 0, 7];

const HOUR_NS: u64 = 3_600_000_000_000;
/// Charges every packet and refuses none.
const GENEROUS: RateKnobs = RateKnobs {
    interval_ns: 1,
    burst_ns: HOUR_NS,
};
/// Refuses all but a source's first packet.
const STRICT: RateKnobs = RateKnobs {
    interval_ns: HOUR_NS,
    burst_ns: 0,
};

struct Case {
    work: &'static str,
    source: [u8; 4],
    /// 0: `source` only.
    sources: u32,
    rate: RateKnobs,
    expect: Action,
}

const CASES: [Case; 5] = [
    Case {
        work: "one-source-pass",
        source: FIRST,
        sources: 0,
        rate: GENEROUS,
        expect: Action::Pass,
    },
    Case {
        work: "one-source-limited",
        source: FIRST,
        sources: 0,
        rate: STRICT,
        expect: Action::Drop,
    },
    Case {
        work: "one-source-blocked",
        source: BLOCKED,
        sources: 0,
        rate: GENEROUS,
        expect: Action::Drop,
    },
    Case {
        work: "900k-sources-pass",
        source: FIRST,
        sources: SOURCES,
        rate: GENEROUS,
        expect: Action::Pass,
    },
    Case {
        work: "900k-sources-limited",
        source: FIRST,
        sources: SOURCES,
        rate: STRICT,
        expect: Action::Drop,
    },
];

fn main() -> Result<()> {
    let mut rows = Vec::new();
    for case in &CASES {
        let ns = measure(case).with_context(|| case.work)?;
        rows.push(Row::new(case.work, "gateway", "ns_per_packet", ns, "ns"));
    }
    match xdp_filter() {
        Some(ns) => rows.push(Row::new(
            "one-source-pass",
            "xdp-filter",
            "ns_per_packet",
            ns,
            "ns",
        )),
        None => println!("xdp-filter: not measured (needs the packages xdp-tools and bpftool)\n"),
    }
    publish(&rows)?;
    Ok(())
}

/// The peer on the same packet: xdp-filter's program with all its features, loaded in a mount namespace of its own
/// and run by bpftool.
fn xdp_filter() -> Option<f64> {
    let folder = tempfile::tempdir().ok()?;
    let path = folder.path().join("frame");
    std::fs::write(&path, frame(FIRST)).ok()?;
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && \
         bpftool prog load /usr/lib/*/bpf/xdpfilt_dny_all.o /sys/fs/bpf/peer type xdp && \
         for i in 0 1 2 3 4 5; do \
         bpftool prog run pinned /sys/fs/bpf/peer data_in {} repeat {REPEAT}; done",
        path.display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figures: Vec<f64> = text
        .split("duration (average): ")
        .skip(2)
        .filter_map(|rest| rest.split("ns").next()?.trim().parse().ok())
        .collect();
    (figures.len() == ROUNDS).then(|| median(figures))
}

/// The median over rounds, after one round that fills table and caches.
fn measure(case: &Case) -> Result<f64> {
    let config = FilterConfig {
        rate: case.rate,
        sources: 1 << 22,
        block: listed()?,
        ..FilterConfig::default()
    };
    let mut bench = Bench::of(Filter::load(&config, &[PORT])?)?;
    let frame = frame(case.source);
    let mut figures = Vec::new();
    for round in 0..=ROUNDS {
        let repeat = if round == 0 { WARM_UP } else { REPEAT };
        let (action, ns) = if case.sources == 0 {
            bench.filter.test_run(&frame, repeat)?
        } else {
            bench.rotate(&frame, repeat, case.source.into(), case.sources)?
        };
        if round > 0 {
            ensure!(action == case.expect, "the filter answered {action:?}");
            figures.push(ns as f64);
        }
    }
    Ok(median(figures))
}

/// 10,000 addresses and 10,000 prefixes.
fn listed<N: std::str::FromStr + Ord>() -> Result<std::collections::BTreeSet<N>>
where
    N::Err: std::error::Error + Send + Sync + 'static,
{
    let mut out = std::collections::BTreeSet::new();
    for i in 0..10_000u32 {
        out.insert(format!("12.0.{}.{}/32", i >> 8, i & 255).parse()?);
        out.insert(format!("13.{}.{}.0/26", i >> 8, i & 255).parse()?);
    }
    Ok(out)
}

/// A 64-byte TCP SYN.
fn frame(source: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(source);
    frame.extend([192, 0, 2, 1, 0x9c, 0x40]);
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(64, 0);
    frame
}
