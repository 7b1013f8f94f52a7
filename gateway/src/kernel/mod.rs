//! User-space half of the kernel filter; with `events` and the rest of this folder the only code that names aya.
//!
//! - [`load`](self): the object embedded in this binary, its maps sized, its program attached (needs privileges)
//! - `lists`: allow list, block list and bans, mirrored here and kept in the maps
//! - [`events`](DropEvents): sampled drops and the program's own log
//! - `probe`: runs of the program on crafted frames, for tests and the bench
//!
//! Everything after [`Filter::load`] works in a process that has dropped every privilege, because the descriptors
//! stay open: the parent loads, then forks, and the child goes on with the same [`Filter`]. The program stays
//! attached as long as one of the two lives.

mod error;
mod events;
mod hints;
mod lists;
mod load;
mod probe;

pub use error::KernelError;
pub use events::{DropEvents, FilterLog};
pub use gateway_common::abi::{DropEvent, Reason};
pub use lists::Ban;
pub use load::OLDEST_KERNEL;
pub use probe::{Action, Bench};

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use gateway_common::abi::{self, EVENTS_LOST, Knobs, fragments, maps};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::filter::{FilterConfig, Fragments, Mode};
use lists::Lists;

/// The loaded filter: program, maps, and what user space knows of them.
pub struct Filter {
    /// Owns the program and the maps that are not taken yet.
    bpf: Ebpf,
    /// Attached while these (or their copies in a forked process) are open.
    links: Vec<FdLink>,
    interfaces: Vec<InterfaceStatus>,
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
    /// A reload: lists, rate, fragment rule, samples and ports. Bans stay. What needs new maps or another
    /// attachment is named in the log and waits for a restart.
    ///
    /// On an error what was reached so far is in force; the next `apply` completes it.
    pub fn apply(&mut self, config: &FilterConfig, ports: &[u16]) -> Result<(), KernelError> {
        self.warn_about_restart(config);
        self.lists.set_config(&config.allow, &config.block)?;
        self.write_ports(ports)?;
        self.knobs.rate = config.rate;
        self.knobs.sample_every = config.sample_every;
        self.knobs.fragments = match config.fragments {
            Fragments::Judge => fragments::JUDGE,
            Fragments::Drop => fragments::DROP,
            Fragments::Pass => fragments::PASS,
        };
        self.write_knobs()
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

    /// How many interfaces the program is attached to.
    pub fn attached(&self) -> usize {
        self.links.len()
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

    fn write_ports(&mut self, ports: &[u16]) -> Result<(), KernelError> {
        let mut wanted = vec![0u64; abi::PORT_WORDS as usize];
        for port in ports {
            wanted[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        for (index, (have, want)) in self.ports.iter_mut().zip(wanted).enumerate() {
            if *have != want {
                self.ports_map
                    .set(index as u32, want, 0)
                    .map_err(KernelError::map(maps::PORTS))?;
                *have = want;
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
