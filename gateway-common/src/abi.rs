//! Keys, values, knobs, counters and events: `repr(C)`, no padding, layouts asserted beside each declaration.
//!
//! Addresses are kept as the packet has them (network byte order in memory), so neither side swaps bytes to
//! look one up. No `bool`, `enum`, `Option` or `usize` crosses.

use crate::gcra::RateKnobs;

/// Goes up with every change of a layout, a map or the meaning of a field.
pub const ABI_VERSION: u32 = 2;

/// The program that is attached, and the one that `bench` runs (it rotates the source address, then judges).
pub const PROGRAM: &str = "gateway_filter";
pub const BENCH_PROGRAM: &str = "gateway_bench";

/// Map names, at most 15 bytes each as the kernel keeps them.
pub mod maps {
    /// `Array<Knobs>`, one entry.
    pub const KNOBS: &str = "KNOBS";
    /// `Array<u64>`, 1024 words: one bit per protected destination port.
    pub const PORTS: &str = "PORTS";
    /// `LpmTrie<u32, Rule>` and `LpmTrie<[u64; 2], Rule>`: what always passes.
    pub const ALLOW_V4: &str = "ALLOW_V4";
    pub const ALLOW_V6: &str = "ALLOW_V6";
    /// `HashMap<u32, Rule>`, `HashMap<[u64; 2], Rule>`: single addresses.
    pub const BLOCK_V4: &str = "BLOCK_V4";
    pub const BLOCK_V6: &str = "BLOCK_V6";
    /// `HashMap<u64, Rule>`: IPv6 /64 networks, the unit in which IPv6 sources are limited and banned.
    pub const BLOCK_NET64: &str = "BLOCK_NET64";
    /// `LpmTrie`: all other blocked prefixes.
    pub const PREFIX_V4: &str = "PREFIX_V4";
    pub const PREFIX_V6: &str = "PREFIX_V6";
    /// `Array<u64>`: a set bit says that some entry of a list may cover part of this /24.
    pub const HINT_V4: &str = "HINT_V4";
    /// `Array<u64>`: the same for IPv6, by a hash of the first 32 bits.
    pub const HINT_V6: &str = "HINT_V6";
    /// `Array<SourceSet>`: rate state per source.
    pub const SOURCES: &str = "SOURCES";
    /// `PerCpuArray<u64>`, one per [`super::Reason`] and then [`super::EVENTS_LOST`].
    pub const COUNTERS: &str = "COUNTERS";
    /// `RingBuf` of [`super::DropEvent`].
    pub const EVENTS: &str = "EVENTS";
    /// `Array<BenchState>`, one entry; used by the bench program only.
    pub const BENCH: &str = "BENCH";
}

/// Words in the port bitmap and in the two hint bitmaps.
pub const PORT_WORDS: u32 = 65536 / 64;
pub const HINT_V4_WORDS: u32 = (1 << 24) / 64;
pub const HINT_V6_WORDS: u32 = (1 << HINT_V6_BITS) / 64;
const HINT_V6_BITS: u32 = 20;

/// The /24 of an IPv4 address, as an index into the hint bitmap.
#[inline(always)]
pub const fn hint_v4(address: u32) -> u32 {
    u32::from_be(address) >> 8
}

/// The slot of an IPv6 address by its first 32 bits (the size of a provider's allocation).
#[inline(always)]
pub const fn hint_v6(high: u64) -> u32 {
    let first = (u64::from_be(high) >> 32) as u32;
    first.wrapping_mul(0x9e37_79b1) >> (32 - HINT_V6_BITS)
}

/// One entry of an allow or block list.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `CLOCK_MONOTONIC`; the kernel ignores the entry from here on. [`NEVER`]: it stays.
    pub expires_ns: u64,
    /// Why, as user space numbers it; comes back in [`DropEvent::cause`].
    pub cause: u8,
    /// Bits of the entry's prefix: where it has expired, the next shorter one is looked up from here.
    pub prefix_bits: u8,
    pub spare: [u8; 6],
}
const _: () = assert!(size_of::<Rule>() == 16 && align_of::<Rule>() == 8);

/// An expiry that does not come.
pub const NEVER: u64 = u64::MAX;

impl Rule {
    pub const fn new(cause: u8, expires_ns: u64, prefix_bits: u8) -> Rule {
        Rule {
            expires_ns,
            cause,
            prefix_bits,
            spare: [0; 6],
        }
    }
}

/// Bits of [`Knobs::lists`]: which lists hold anything. An empty list costs no lookup.
pub mod lists {
    pub const ALLOW_V4: u32 = 1;
    pub const ALLOW_V6: u32 = 1 << 1;
    pub const BLOCK_V4: u32 = 1 << 2;
    pub const BLOCK_V6: u32 = 1 << 3;
    pub const BLOCK_NET64: u32 = 1 << 4;
    pub const PREFIX_V4: u32 = 1 << 5;
    pub const PREFIX_V6: u32 = 1 << 6;
    /// All of one family.
    pub const V4: u32 = ALLOW_V4 | BLOCK_V4 | PREFIX_V4;
    pub const V6: u32 = ALLOW_V6 | BLOCK_V6 | BLOCK_NET64 | PREFIX_V6;
}

/// Values of [`Knobs::fragments`].
pub mod fragments {
    /// Later fragments have no ports: they are judged by their source as if sent to a protected port.
    pub const JUDGE: u32 = 0;
    /// Later fragments, and first ones to protected ports, are dropped.
    pub const DROP: u32 = 1;
    /// Later fragments pass untouched.
    pub const PASS: u32 = 2;
}

/// Values of [`Knobs::malformed`].
pub mod malformed {
    /// Where the source can be read: judged by it, as if sent to a protected port. Passes where it cannot.
    pub const JUDGE: u32 = 0;
    /// Dropped, wherever it was going.
    pub const DROP: u32 = 1;
    /// Passes untouched.
    pub const PASS: u32 = 2;
}

/// What user space may turn while packets flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Knobs {
    /// Packets of one source (IPv4 address, IPv6 /64) to protected ports.
    pub rate: RateKnobs,
    /// Secret: makes the place of a source in the table unpredictable.
    pub seed: u64,
    /// Sets in the source table minus one; the number of sets is a power of two.
    pub source_mask: u32,
    pub lists: u32,
    pub fragments: u32,
    /// One drop in this many (a power of two, per CPU and reason) becomes an event. 0: none.
    pub sample_every: u32,
    /// [`ABI_VERSION`] of the writer. 0: not configured yet, everything passes.
    pub abi_version: u32,
    pub malformed: u32,
}
const _: () = assert!(size_of::<Knobs>() == 48 && align_of::<Knobs>() == 8);

/// One source in the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// [`crate::packet::Address::source_key`]. 0: free.
    pub key: u64,
    /// GCRA state of packets/s; also how warm the entry is.
    pub due_ns: u64,
    /// GCRA state of bytes/s and SYN/s, and a ban inside the entry: kept for the filter in full, 0 for now.
    pub bytes_due_ns: u64,
    pub syn_due_us: u32,
    pub banned_until_s: u32,
}
const _: () = assert!(size_of::<Source>() == 32 && align_of::<Source>() == 8);

/// Ways of the set-associative table.
pub const WAYS: usize = 4;

/// Where a source may be: two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SourceSet {
    pub ways: [Source; WAYS],
}
const _: () = assert!(size_of::<SourceSet>() == 128);

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident = $slug:literal, $drops:literal;)*) => {
        /// The verdict on a packet, and the index of its counter. Each packet gets exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$meta])* $name,)* }

        impl Reason {
            /// In counter order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];
            /// The stable name in metrics and logs.
            pub const fn slug(self) -> &'static str { match self { $(Reason::$name => $slug,)* } }
            /// Whether the packet is dropped.
            #[inline(always)]
            pub const fn drops(self) -> bool { match self { $(Reason::$name => $drops,)* } }
        }
    };
}

reasons! {
    /// Not IP, or not to a protected port.
    NotJudged = "not-judged", false;
    /// Judged and admitted.
    Passed = "passed", false;
    /// A later fragment, admitted or not judged by the rule on fragments.
    PassedFragment = "passed-fragment", false;
    /// Its ports, or all of its header, cannot be read; admitted or not judged by the rule on malformed packets.
    PassedMalformed = "passed-malformed", false;
    /// On the allow list.
    Allowed = "allowed", false;
    BlockedAddress = "blocked-address", true;
    BlockedPrefix = "blocked-prefix", true;
    /// Over the source's rate.
    RateLimited = "rate-limited", true;
    /// New, and every place of its set in the source table is held by a source over its rate.
    Crowded = "crowded", true;
    /// A fragment, where the rule says so.
    Fragment = "fragment", true;
    /// To a protected port and too short for its own header, or unreadable where the rule says so.
    Malformed = "malformed", true;
}

/// After the reasons: sampled drops that found the ring buffer full.
pub const EVENTS_LOST: u32 = Reason::ALL.len() as u32;
/// Entries of the counter map.
pub const COUNTERS: u32 = EVENTS_LOST + 1;

/// A sampled drop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DropEvent {
    /// `CLOCK_MONOTONIC`, as coarse as the timer tick.
    pub time_ns: u64,
    /// IPv4 as `::ffff:a.b.c.d`. All zero where the header could not be read.
    pub source: [u8; 16],
    pub ifindex: u32,
    /// Bytes of the frame's first buffer.
    pub frame_bytes: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// [`Rule::cause`] of the entry that decided, else 0.
    pub cause: u8,
    pub spare: u8,
}
const _: () = assert!(size_of::<DropEvent>() == 40 && align_of::<DropEvent>() == 8);

/// What the bench program turns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BenchState {
    /// State of the generator of source addresses.
    pub state: u64,
    /// Sources to draw from; 0 keeps the frame's own.
    pub source_count: u32,
    /// Added to the drawn number, in host order: the first source address.
    pub first: u32,
}
const _: () = assert!(size_of::<BenchState>() == 16 && align_of::<BenchState>() == 8);

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($name:ty),*) => { $(
            // SAFETY: `repr(C)`, `Copy`, only integers and arrays of them, no padding (asserted above).
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(Rule, Knobs, Source, SourceSet, DropEvent, BenchState);
}
