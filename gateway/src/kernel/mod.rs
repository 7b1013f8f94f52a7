//! User-space half of the kernel filter; with `events` and the rest of this folder the only code that names aya.
//!
//! - [`load`](self): the object embedded in this binary, its maps sized, its program attached (needs privileges)
//! - `adopt`: what a new worker finds in the maps that its predecessor wrote
//! - `health`: whether the program is still attached
//! - `lists`: allow list, block list and bans, mirrored here and kept in the maps
//! - [`events`](DropEvents): sampled drops and the program's own log
//! - `probe`: runs of the program on crafted frames, for tests and the bench
//!
//! Everything after [`Filter::load`] works in a process that has dropped every privilege, because the descriptors
//! stay open: the parent loads, then forks, and the child goes on with the same [`Filter`], but for the links: those
//! are the parent's, and the program stays attached as long as it lives.

mod adopt;
mod error;
mod events;
mod health;
mod hints;
mod lists;
mod load;
mod probe;

pub use error::KernelError;
pub use events::{DropEvents, FilterLog};
pub use gateway_common::abi::{DropEvent, Reason};
pub use health::AttachState;
pub use lists::Ban;
pub use load::OLDEST_KERNEL;
pub use probe::{Action, Bench};

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use gateway_common::abi::{self, EVENTS_LOST, Knobs, fragments, malformed, maps};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::filter::{FilterConfig, Fragments, Malformed, Mode};
use health::LinksQuery;
use lists::Lists;

/// The loaded filter: program, maps, and what user space knows of them.
pub struct Filter {
    /// Owns the program and the maps that are not taken yet.
    bpf: Ebpf,
    /// Attached while these (or their copies in a forked process) are open.
    links: Vec<FdLink>,
    interfaces: Vec<InterfaceStatus>,
    program_id: u32,
    links_query: LinksQuery,
    knobs: Knobs,
    knobs_map: Array<MapData, Knobs>,
    ports: Vec<u64>,
    ports_map: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    lists: Lists,
    sources: u32,
    list_entries: u32,
}

/// One interface the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// What the operator asked for.
    pub asked: Mode,
    /// What it is: [`Mode::Native`] or [`Mode::Generic`].
    pub mode: Mode,
    /// As of the last [`Filter::check_attached`].
    pub state: AttachState,
}

/// What `gateway status` and the metrics show of the filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterStatus {
    pub abi_version: u32,
    pub interfaces: Vec<InterfaceStatus>,
    pub protected_ports: Vec<u16>,
    /// Entries of the source table.
    pub sources: u32,
    /// What the maps hold, by list.
    pub lists: Vec<(&'static str, usize)>,
    pub bans: usize,
}

impl Filter {
    /// A reload: lists, rate, rules on fragments and malformed packets, samples and ports. Bans stay. What needs new
    /// maps or another attachment is named in the log and waits for a restart.
    ///
    /// All or nothing: on an error what was in force before is again.
    pub fn apply(&mut self, config: &FilterConfig, ports: &[u16]) -> Result<(), KernelError> {
        self.warn_about_restart(config);
        let before = Settings {
            allow: self.lists.allow.clone(),
            block: self.lists.block.clone(),
            ports: self.ports.clone(),
            knobs: self.knobs,
        };
        let wanted = Settings {
            allow: config.allow.clone(),
            block: config.block.clone(),
            ports: port_words(ports),
            knobs: turned(self.knobs, config),
        };
        self.put_in_force(&wanted).inspect_err(|_| {
            if let Err(error) = self.put_in_force(&before) {
                tracing::error!(%error, "kernel filter: the config before cannot be put back in full");
            }
        })
    }

    fn put_in_force(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.lists.add_allows(&settings.allow)?;
        // A list that was empty is not looked into before its bit is set: new allows count before new blocks do.
        self.sync_lists()?;
        self.lists.set_blocks(&settings.block)?;
        self.lists.drop_allows(&settings.allow)?;
        self.write_ports(&settings.ports)?;
        self.knobs = settings.knobs;
        self.write_knobs()
    }

    /// Closes this process's copies of the links. Whoever holds one may detach the program without any privilege,
    /// so the process that talks to the network should hold none; the one that loaded keeps the program attached.
    pub fn release_links(&mut self) {
        self.links.clear();
    }

    /// Drops everything from `target` to the protected ports until `expires_mono_ns` ([`crate::clock::mono_ns`]).
    /// A second ban of the same target replaces the first. `cause` comes back in [`DropEvent::cause`].
    pub fn ban(
        &mut self,
        target: IpNet,
        cause: u8,
        expires_mono_ns: u64,
    ) -> Result<(), KernelError> {
        self.lists.ban(target, cause, expires_mono_ns)?;
        self.sync_lists()
    }

    /// Lifts a ban; `false` where there was none. Entries of the config stay.
    pub fn unban(&mut self, target: IpNet) -> Result<bool, KernelError> {
        let known = self.lists.unban(target)?;
        self.sync_lists()?;
        Ok(known)
    }

    /// All bans, in address order, expired ones not yet swept included.
    pub fn list_bans(&self) -> Vec<Ban> {
        self.lists.bans()
    }

    /// Frees the entries of bans that are over (the kernel ignores them already); returns them.
    pub fn sweep_expired(&mut self, now_mono_ns: u64) -> Result<Vec<Ban>, KernelError> {
        let gone = self.lists.sweep(now_mono_ns)?;
        self.sync_lists()?;
        Ok(gone)
    }

    /// Packets by verdict since load, summed over CPUs; then sampled events lost to a full ring.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        let names = Reason::ALL.iter().map(|reason| reason.slug());
        let mut out = Vec::with_capacity(abi::COUNTERS as usize);
        for (index, name) in names.chain(["events-lost"]).enumerate() {
            debug_assert!(index as u32 <= EVENTS_LOST);
            let cells = self
                .counters
                .get(&(index as u32), 0)
                .map_err(KernelError::map(maps::COUNTERS))?;
            out.push((name, cells.iter().sum()));
        }
        Ok(out)
    }

    pub fn status(&self) -> FilterStatus {
        FilterStatus {
            abi_version: abi::ABI_VERSION,
            interfaces: self.interfaces.clone(),
            protected_ports: protected(&self.ports),
            sources: self.sources,
            lists: self.lists.sizes(),
            bans: self.lists.ban_count(),
        }
    }

    fn warn_about_restart(&self, config: &FilterConfig) {
        let same_interfaces = config
            .interfaces
            .iter()
            .map(|i| (&i.name, i.mode))
            .eq(self.interfaces.iter().map(|i| (&i.name, i.asked)));
        for (key, same) in [
            ("filter.interfaces", same_interfaces),
            ("filter.sources", config.sources == self.sources),
            (
                "filter.list_entries",
                config.list_entries == self.list_entries,
            ),
        ] {
            if !same {
                tracing::warn!(
                    config.key = key,
                    "changed, but takes effect at the next start only"
                );
            }
        }
    }

    fn write_ports(&mut self, wanted: &[u64]) -> Result<(), KernelError> {
        for (index, (have, want)) in self.ports.iter_mut().zip(wanted).enumerate() {
            if have != want {
                self.ports_map
                    .set(index as u32, *want, 0)
                    .map_err(KernelError::map(maps::PORTS))?;
                *have = *want;
            }
        }
        Ok(())
    }

    /// The kernel looks into a list only if its bit is set; this writes the bits that changed.
    fn sync_lists(&mut self) -> Result<(), KernelError> {
        if self.knobs.lists == self.lists.bits() {
            return Ok(());
        }
        self.write_knobs()
    }

    fn write_knobs(&mut self) -> Result<(), KernelError> {
        self.knobs.lists = self.lists.bits();
        self.knobs_map
            .set(0, self.knobs, 0)
            .map_err(KernelError::map(maps::KNOBS))
    }
}

/// What a config decides of a loaded filter.
struct Settings {
    allow: BTreeSet<IpNet>,
    block: BTreeSet<IpNet>,
    /// As in the map: one bit per port.
    ports: Vec<u64>,
    knobs: Knobs,
}

fn turned(knobs: Knobs, config: &FilterConfig) -> Knobs {
    Knobs {
        rate: config.rate,
        sample_every: config.sample_every,
        fragments: match config.fragments {
            Fragments::Judge => fragments::JUDGE,
            Fragments::Drop => fragments::DROP,
            Fragments::Pass => fragments::PASS,
        },
        malformed: match config.malformed {
            Malformed::Judge => malformed::JUDGE,
            Malformed::Drop => malformed::DROP,
            Malformed::Pass => malformed::PASS,
        },
        ..knobs
    }
}

fn port_words(ports: &[u16]) -> Vec<u64> {
    let mut words = vec![0u64; abi::PORT_WORDS as usize];
    for port in ports {
        words[usize::from(port >> 6)] |= 1 << (port & 63);
    }
    words
}

const _: () = {
    // The child of a fork may hand the filter to whichever thread controls it.
    const fn sendable<T: Send>() {}
    sendable::<Filter>();
};

fn protected(words: &[u64]) -> Vec<u16> {
    (0..=u16::MAX)
        .filter(|port| words[usize::from(port >> 6)] >> (port & 63) & 1 != 0)
        .collect()
}
