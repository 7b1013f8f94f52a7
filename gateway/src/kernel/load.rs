//! Loading and attaching: the only steps that need privileges.

use aya::maps::{Array, HashMap, LpmTrie, Map, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use gateway_common::abi::{self, ABI_VERSION, Knobs, WAYS, maps};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::error::{chain, os_error};
use super::health::{AttachState, LinksQuery};
use super::hints::Hints;
use super::lists::{ListMaps, Lists};
use super::{Filter, InterfaceStatus, KernelError};
use crate::config::filter::{FilterConfig, Interface, Mode};

/// Major and minor. The program itself would do with 5.18 (XDP on frames in several buffers). But a worker without
/// privileges writes to the maps by their descriptors, which older kernels than 5.19 refuse where
/// `kernel.unprivileged_bpf_disabled` is set, as it is nearly everywhere; and the data plane's io_uring wants 6.1,
/// the long-term kernel after it and the oldest one that is tested.
pub const OLDEST_KERNEL: (u8, u8) = (6, 1);

/// The XDP object, or nothing where the build had none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter.o"));

impl Filter {
    /// Loads the program, fills its maps and attaches it to every interface of the config, or to none:
    /// on an error what was attached is detached again.
    pub fn load(config: &FilterConfig, ports: &[u16]) -> Result<Filter, KernelError> {
        let mut filter = Filter::load_unattached(config, ports)?;
        for interface in &config.interfaces {
            let (link, status) = attach(xdp(&mut filter.bpf, abi::PROGRAM)?, interface)?;
            filter.links.push(link);
            filter.interfaces.push(status);
        }
        Ok(filter)
    }

    fn load_unattached(config: &FilterConfig, ports: &[u16]) -> Result<Filter, KernelError> {
        if OBJECT.is_empty() {
            return Err(KernelError::NotBuilt);
        }
        check_kernel()?;
        // Kernels before 5.11 count maps against this limit; later ones do not mind.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let mut bpf = open(config)?;
        let program = xdp(&mut bpf, abi::PROGRAM)?;
        program.load().map_err(|e| KernelError::refused(&e))?;
        let info = program.info().map_err(|e| KernelError::refused(&e))?;
        let program_id = info.id();

        let knobs = Knobs {
            abi_version: ABI_VERSION,
            seed: seed()?,
            source_mask: config.sources / WAYS as u32 - 1,
            ..Knobs::default()
        };
        let mut filter = Filter {
            links: Vec::new(),
            interfaces: Vec::new(),
            program_id,
            links_query: LinksQuery::default(),
            knobs,
            knobs_map: take(&mut bpf, maps::KNOBS, Array::try_from)?,
            ports: vec![0; abi::PORT_WORDS as usize],
            ports_map: take(&mut bpf, maps::PORTS, Array::try_from)?,
            counters: take(&mut bpf, maps::COUNTERS, PerCpuArray::try_from)?,
            lists: Lists::new(list_maps(&mut bpf)?),
            sources: config.sources,
            list_entries: config.list_entries,
            bpf,
        };
        // Before any interface: no packet is judged by half a config. (`apply` compares with what is attached,
        // so it is given none yet.)
        let unattached = FilterConfig {
            interfaces: Vec::new(),
            ..config.clone()
        };
        filter.apply(&unattached, ports)?;
        Ok(filter)
    }
}

fn open(config: &FilterConfig) -> Result<Ebpf, KernelError> {
    // Levels of aya-log: 0 switches every message off at load time, where the verifier removes its code; 4 is debug.
    let level: u8 = if config.debug { 4 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    loader.map_max_entries(maps::SOURCES, config.sources / WAYS as u32);
    for list in [
        maps::ALLOW_V4,
        maps::ALLOW_V6,
        maps::BLOCK_V4,
        maps::BLOCK_V6,
        maps::BLOCK_NET64,
        maps::PREFIX_V4,
        maps::PREFIX_V6,
    ] {
        loader.map_max_entries(list, config.list_entries);
    }
    loader.load(OBJECT).map_err(|e| KernelError::refused(&e))
}

fn list_maps(bpf: &mut Ebpf) -> Result<ListMaps, KernelError> {
    Ok(ListMaps {
        allow_v4: take(bpf, maps::ALLOW_V4, LpmTrie::try_from)?,
        allow_v6: take(bpf, maps::ALLOW_V6, LpmTrie::try_from)?,
        block_v4: take(bpf, maps::BLOCK_V4, HashMap::try_from)?,
        block_v6: take(bpf, maps::BLOCK_V6, HashMap::try_from)?,
        block_net64: take(bpf, maps::BLOCK_NET64, HashMap::try_from)?,
        prefix_v4: take(bpf, maps::PREFIX_V4, LpmTrie::try_from)?,
        prefix_v6: take(bpf, maps::PREFIX_V6, LpmTrie::try_from)?,
        hints_v4: Hints::v4(take(bpf, maps::HINT_V4, Array::try_from)?),
        hints_v6: Hints::v6(take(bpf, maps::HINT_V6, Array::try_from)?),
    })
}

/// Takes a map out of the object as the type it is declared with.
pub(super) fn take<M>(
    bpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, KernelError> {
    let map = bpf.take_map(name).ok_or(KernelError::Map {
        map: name,
        reason: "missing from the embedded object".into(),
    })?;
    convert(map).map_err(KernelError::map(name))
}

pub(super) fn xdp<'b>(bpf: &'b mut Ebpf, name: &'static str) -> Result<&'b mut Xdp, KernelError> {
    bpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| KernelError::Refused {
            reason: format!("the embedded object has no XDP program {name}"),
        })
}

fn check_kernel() -> Result<(), KernelError> {
    let (major, minor) = OLDEST_KERNEL;
    if KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(major, minor, 0)) {
        return Ok(());
    }
    let found = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Err(KernelError::KernelTooOld {
        found: found.trim().to_owned(),
    })
}

fn seed() -> Result<u64, KernelError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KernelError::Refused {
        reason: "the system has no random numbers for the table's seed".into(),
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

fn attach(
    program: &mut Xdp,
    interface: &Interface,
) -> Result<(FdLink, InterfaceStatus), KernelError> {
    let name = &interface.name;
    let ifindex = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(|_| KernelError::NoInterface { name: name.clone() })?;
    let (link, mode) = match interface.mode {
        Mode::Generic => (
            attach_as(program, interface, ifindex, Mode::Generic)?,
            Mode::Generic,
        ),
        Mode::Native => (
            attach_as(program, interface, ifindex, Mode::Native)?,
            Mode::Native,
        ),
        Mode::Auto => match attach_as(program, interface, ifindex, Mode::Native) {
            Ok(link) => (link, Mode::Native),
            Err(e @ (KernelError::NativeUnsupported { .. } | KernelError::Attach { .. })) => {
                let link = attach_as(program, interface, ifindex, Mode::Generic)?;
                tracing::warn!(interface = %name, because = %e, "kernel filter runs in generic mode: several times slower than native");
                (link, Mode::Generic)
            }
            Err(e) => return Err(e),
        },
    };
    tracing::info!(interface = %name, ifindex, mode = ?mode, "kernel filter attached");
    let status = InterfaceStatus {
        name: name.clone(),
        ifindex,
        asked: interface.mode,
        mode,
        state: AttachState::Attached,
    };
    Ok((link, status))
}

fn attach_as(
    program: &mut Xdp,
    interface: &Interface,
    ifindex: u32,
    mode: Mode,
) -> Result<FdLink, KernelError> {
    let flags = match mode {
        Mode::Generic => XdpMode::Skb,
        Mode::Auto | Mode::Native => XdpMode::Driver,
    };
    let name = &interface.name;
    let id = program
        .attach_to_if_index(ifindex, flags)
        .map_err(|e| attach_error(name, mode, &e))?;
    let link = program
        .take_link(id)
        .map_err(|e| attach_error(name, mode, &e))?;
    // Without a link of its own the program would outlive the daemon.
    FdLink::try_from(link).map_err(|_| KernelError::Attach {
        name: name.clone(),
        reason: "the kernel gives no link for XDP here".into(),
    })
}

fn attach_error(name: &str, mode: Mode, e: &ProgramError) -> KernelError {
    let name = name.to_owned();
    match os_error(e) {
        Some(libc::EBUSY | libc::EEXIST) => KernelError::Busy { name },
        Some(libc::EPERM | libc::EACCES) => KernelError::Privilege,
        Some(libc::ENODEV) => KernelError::NoInterface { name },
        Some(libc::EOPNOTSUPP) if mode == Mode::Native => KernelError::NativeUnsupported { name },
        _ => KernelError::Attach {
            name,
            reason: chain(e),
        },
    }
}
