//! The loaded program against crafted frames (`BPF_PROG_TEST_RUN`): verdict and counter of each, life of a ban,
//! rates, fragments, events, attaching; and that the kernel and the host judge mutated frames alike.

mod attach;
mod bans;
mod frames;
mod mutated;
mod rates;

use std::collections::{BTreeSet, HashMap};

use gateway::config::filter::FilterConfig;
use gateway::kernel::{Action, Filter, KernelError, Reason as R};
use ipnet::IpNet;

pub(crate) const PORTS: &[u16] = &[8443, 53];
pub(crate) const HOUR_NS: u64 = 3_600_000_000_000;

/// Whether this machine can run these tests; says why not, and does not accept that where CI asks for all of them.
pub(crate) fn able() -> bool {
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
pub(crate) fn small() -> FilterConfig {
    FilterConfig {
        sources: 1 << 12,
        list_entries: 1 << 10,
        sample_every: 1,
        ..FilterConfig::default()
    }
}

pub(crate) fn nets<const N: usize>(texts: [&str; N]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a test names real prefixes")
}

pub(crate) fn load(config: &FilterConfig) -> Filter {
    match Filter::load(config, PORTS) {
        Ok(filter) => filter,
        Err(e) => panic!("{}", e.to_string().replace("\\n", "\n")),
    }
}

pub(crate) fn count(filter: &Filter, reason: R) -> u64 {
    let counters: HashMap<_, _> = filter.counters().expect("readable").into_iter().collect();
    counters[reason.slug()]
}

/// One run; the verdict must be this one, in the answer and in the counters.
pub(crate) fn expect(filter: &Filter, frame: &[u8], reason: R, what: &str) {
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
