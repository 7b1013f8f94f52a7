//! The maps, and the lookups that the verdict asks for.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use gateway_common::abi::{self, BenchState, Knobs, Reason, Rule, Source, SourceSet, WAYS};
use gateway_common::source::Set;
use gateway_common::verdict::Tables;

// Sizes of lists and table are set by the loader from the config; those here only have to be legal.

#[map]
static KNOBS: Array<Knobs> = Array::with_max_entries(1, 0);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(abi::PORT_WORDS, 0);
#[map]
static HINT_V4: Array<u64> = Array::with_max_entries(abi::HINT_V4_WORDS, 0);
#[map]
static HINT_V6: Array<u64> = Array::with_max_entries(abi::HINT_V6_WORDS, 0);
#[map]
static ALLOW_V4: LpmTrie<u32, Rule> = LpmTrie::with_max_entries(65536, 0);
#[map]
static ALLOW_V6: LpmTrie<[u64; 2], Rule> = LpmTrie::with_max_entries(65536, 0);
#[map]
static BLOCK_V4: HashMap<u32, Rule> = HashMap::with_max_entries(65536, 0);
#[map]
static BLOCK_V6: HashMap<[u64; 2], Rule> = HashMap::with_max_entries(65536, 0);
#[map]
static BLOCK_NET64: HashMap<u64, Rule> = HashMap::with_max_entries(65536, 0);
#[map]
static PREFIX_V4: LpmTrie<u32, Rule> = LpmTrie::with_max_entries(65536, 0);
#[map]
static PREFIX_V6: LpmTrie<[u64; 2], Rule> = LpmTrie::with_max_entries(65536, 0);
/// Mappable, so that user space can scan it, and so that each set begins on a cache line.
#[map]
static SOURCES: Array<SourceSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::COUNTERS, 0);
#[map]
static BENCH: Array<BenchState> = Array::with_max_entries(1, 0);

/// Counts one packet; how many of its reason this CPU had seen before.
#[inline(always)]
pub fn count(reason: Reason) -> u64 {
    add(reason as u32)
}

/// Counts an event that found no room.
#[inline(always)]
pub fn count_lost_event() {
    add(abi::EVENTS_LOST);
}

#[inline(always)]
fn add(index: u32) -> u64 {
    let Some(cell) = COUNTERS.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: a live cell of this CPU; an XDP program does not interrupt itself.
    let seen = unsafe { *cell };
    // SAFETY: as above.
    unsafe { *cell = seen + 1 };
    seen
}

/// Whether the drop after `seen` others of its reason becomes an event: the first on each CPU does.
#[inline(always)]
pub fn sampled(seen: u64) -> bool {
    match KNOBS.get(0) {
        Some(knobs) if knobs.sample_every != 0 => seen & u64::from(knobs.sample_every - 1) == 0,
        _ => false,
    }
}

#[inline(always)]
pub fn bench() -> Option<*mut BenchState> {
    BENCH.get_ptr_mut(0)
}

/// A trie key whose address begins on an eighth byte: the verifier refuses an unaligned store to the stack.
#[repr(C, align(8))]
struct TrieKey {
    _before: u32,
    key: Key<[u64; 2]>,
}

impl TrieKey {
    #[inline(always)]
    fn of(address: [u64; 2], bits: u32) -> TrieKey {
        TrieKey {
            _before: 0,
            key: Key::new(bits, address),
        }
    }
}

/// All maps, as the verdict sees them.
pub struct Maps;

macro_rules! by_hash {
    ($map:ident, $key:expr) => {
        // SAFETY: an entry freed meanwhile may be reused, so a packet in flight can see another address's rule
        // once while the list changes; the value is plain and copied out.
        unsafe { $map.get($key) }.copied()
    };
}

impl Tables for Maps {
    type Set = SetPtr;

    #[inline(always)]
    fn knobs(&self) -> Option<&Knobs> {
        KNOBS.get(0)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn port_word(&self, word: u32) -> u64 {
        PORTS.get(word).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn hint_v4_word(&self, word: u32) -> u64 {
        HINT_V4.get(word).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn hint_v6_word(&self, word: u32) -> u64 {
        HINT_V6.get(word).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn allow_v4(&self, address: u32) -> Option<Rule> {
        ALLOW_V4.get(Key::new(32, address)).copied()
    }

    #[inline(always)]
    fn allow_v6(&self, address: [u64; 2]) -> Option<Rule> {
        ALLOW_V6.get(&TrieKey::of(address, 128).key).copied()
    }

    #[inline(always)]
    fn block_v4(&self, address: u32) -> Option<Rule> {
        by_hash!(BLOCK_V4, address)
    }

    #[inline(always)]
    fn block_v6(&self, address: [u64; 2]) -> Option<Rule> {
        by_hash!(BLOCK_V6, address)
    }

    #[inline(always)]
    fn block_net64(&self, high: u64) -> Option<Rule> {
        by_hash!(BLOCK_NET64, high)
    }

    #[inline(always)]
    fn prefix_v4(&self, address: u32, bits: u32) -> Option<Rule> {
        PREFIX_V4.get(Key::new(bits, address)).copied()
    }

    #[inline(always)]
    fn prefix_v6(&self, address: [u64; 2], bits: u32) -> Option<Rule> {
        PREFIX_V6.get(&TrieKey::of(address, bits).key).copied()
    }

    #[inline(always)]
    fn source_set(&self, index: u32) -> Option<SetPtr> {
        SOURCES.get_ptr_mut(index).map(SetPtr)
    }
}

/// A set inside the mapped array; other CPUs write to it meanwhile.
pub struct SetPtr(*mut SourceSet);

impl SetPtr {
    #[inline(always)]
    fn way(&self, way: usize) -> *mut Source {
        // SAFETY: masked to a way of the set, which is alive while the program runs.
        unsafe {
            addr_of_mut!((*self.0).ways)
                .cast::<Source>()
                .add(way & (WAYS - 1))
        }
    }
}

impl Set for SetPtr {
    #[inline(always)]
    fn key(&self, way: usize) -> u64 {
        // SAFETY: only an address, inside the set.
        let cell = unsafe { addr_of!((*self.way(way)).key) };
        // SAFETY: an aligned word of the map; volatile, because other CPUs write it.
        unsafe { cell.read_volatile() }
    }

    #[inline(always)]
    fn due_ns(&self, way: usize) -> u64 {
        // SAFETY: only an address, inside the set.
        let cell = unsafe { addr_of!((*self.way(way)).due_ns) };
        // SAFETY: as for the key.
        unsafe { cell.read_volatile() }
    }

    #[inline(always)]
    fn claim(&self, way: usize, from: u64, to: u64) -> bool {
        // SAFETY: only an address, inside the set.
        let cell = unsafe { addr_of_mut!((*self.way(way)).key) };
        // SAFETY: an aligned word of the map.
        unsafe { swap_if(cell, from, to) }.is_ok()
    }

    #[inline(always)]
    fn advance(&self, way: usize, from_ns: u64, to_ns: u64) -> Result<(), u64> {
        // SAFETY: only an address, inside the set.
        let cell = unsafe { addr_of_mut!((*self.way(way)).due_ns) };
        // SAFETY: an aligned word of the map.
        unsafe { swap_if(cell, from_ns, to_ns) }
    }
}

/// Compare and swap; `Err` is the value found instead.
///
/// # Safety
/// `cell` must be an aligned, live word that is shared by atomics only.
#[inline(always)]
unsafe fn swap_if(cell: *mut u64, from: u64, to: u64) -> Result<(), u64> {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: promised by the caller.
    let (found, swapped) = unsafe { atomic_cxchg::<u64, ORDER, ORDER>(cell, from, to) };
    if swapped { Ok(()) } else { Err(found) }
}
