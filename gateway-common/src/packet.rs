//! Headers from Ethernet to ports, over a bounds-checked cursor, so that the XDP program and the host run the same code.
//!
//! Sources: IEEE 802.1Q, RFC 791, RFC 8200 (extension headers in any order), RFC 4302 (AH length).
//!
//! What cannot be read is said in three degrees, because it can be said of less and less where it was going:
//!
//! - [`Payload::Ports`] with `cut`: TCP or UDP to a known port, but too short for the transport's own fields
//! - [`Payload::Unreadable`]: the source is known, the ports are not (cut off before them, behind more than
//!   [`EXTENSIONS_MAX`] extension headers, or behind ones longer than the packet)
//! - [`Parsed::Malformed`]: an IP header that no stack accepts (wrong version, length below the header's, cut off)
//!
//! A length of 0 is none of these: a stack gives it to what it has put together beyond 64 KiB (BIG TCP). More than
//! two VLAN tags, and anything that is not IP, is not ours to judge.

/// Types that every bit pattern is valid for.
///
/// # Safety
/// No padding, no invalid values, no pointers.
pub unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u16 {}
// SAFETY: integers without padding, see the layout assertion beside it.
unsafe impl Plain for Ipv4Header {}
// SAFETY: integers without padding, see the layout assertion beside it.
unsafe impl Plain for Ipv6Header {}
// SAFETY: integers without padding.
unsafe impl Plain for Extension {}
// SAFETY: integers without padding.
unsafe impl Plain for Ports {}

/// A frame, readable at any offset up to [`OFFSET_MAX`].
pub trait Packet {
    /// The value at `offset`, as the bytes stand there; `None` past the end or past [`OFFSET_MAX`].
    fn read<T: Plain>(&self, offset: usize) -> Option<T>;
}

/// No header that counts begins beyond this: the verifier wants a bound, and so does good sense.
pub const OFFSET_MAX: usize = 2047;
/// Extension headers walked before the chain counts as unreadable.
pub const EXTENSIONS_MAX: usize = 8;
const VLAN_TAGS_MAX: usize = 2;

/// A frame on the host.
impl Packet for [u8] {
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        if offset > OFFSET_MAX || offset + size_of::<T>() > self.len() {
            return None;
        }
        // SAFETY: the range checked above lies within the slice.
        let at = unsafe { self.as_ptr().add(offset) };
        // SAFETY: `T` is plain, so any initialised bytes are a value of it; unaligned by name.
        Some(unsafe { at.cast::<T>().read_unaligned() })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    version_length: u8,
    _service: u8,
    total_bytes: u16,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    _destination: u32,
}
const _: () = assert!(size_of::<Ipv4Header>() == 20);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6Header {
    version: u8,
    _class_flow: [u8; 3],
    payload_bytes: u16,
    next: u8,
    _hops: u8,
    source: [u64; 2],
    _destination: [u64; 2],
}
const _: () = assert!(size_of::<Ipv6Header>() == 40);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports {
    source: u16,
    destination: u16,
}

/// The first four bytes of any extension header (each has at least eight).
// One read for all: the verifier learns nothing from `p < end` about a single byte.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Extension {
    next: u8,
    units: u8,
    /// Of a fragment header: offset and flag.
    field: u16,
}

/// A source address, as the bytes stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    V6([u64; 2]),
}

impl Address {
    /// What a rate is kept for: the IPv4 address, or the IPv6 /64. Never 0, which marks a free entry.
    #[inline(always)]
    pub const fn source_key(self) -> u64 {
        match self {
            // Multicast is no source, so its prefixes mark what is no IPv6 network: as `ffff:ffff::/32` stands in a
            // packet, and is loaded from it on a little-endian machine, its bits are the low ones.
            Address::V4(address) => (address as u64) << 32 | 0xffff_ffff,
            // `ff00::/64`, likewise.
            Address::V6([0, _]) => 0xff,
            Address::V6([high, _]) => high,
        }
    }
}

/// What a flow carries, as far as the filter cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP or UDP, ports in host order.
    Ports {
        source: u16,
        destination: u16,
        /// The first of several fragments.
        fragmented: bool,
        /// Too short for the rest of the transport's header.
        cut: bool,
    },
    /// A fragment after the first: its ports went with the first.
    LaterFragment,
    /// A protocol without ports.
    Portless,
    /// Ports out of reach: it may be anything, to anywhere.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: Address,
    pub protocol: u8,
    pub payload: Payload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not IP, or under more VLAN tags than we look behind.
    Other,
    Malformed,
    Ip(Flow),
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_VLAN_SERVICE: u16 = 0x88a8;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// From the first byte of the Ethernet header to the ports.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Parsed {
    let mut offset = 12;
    let mut tags = 0;
    loop {
        let Some(ethertype) = packet.read::<u16>(offset) else {
            return Parsed::Other;
        };
        offset += 2;
        match u16::from_be(ethertype) {
            ETHERTYPE_IPV4 => return ipv4(packet, offset).map_or(Parsed::Malformed, Parsed::Ip),
            ETHERTYPE_IPV6 => return ipv6(packet, offset).map_or(Parsed::Malformed, Parsed::Ip),
            ETHERTYPE_VLAN | ETHERTYPE_VLAN_SERVICE if tags < VLAN_TAGS_MAX => {
                tags += 1;
                offset += 2;
            }
            _ => return Parsed::Other,
        }
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow> {
    let header = packet.read::<Ipv4Header>(offset)?;
    let header_bytes = usize::from(header.version_length & 0x0f) * 4;
    if header.version_length >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    let body_bytes = match u16::from_be(header.total_bytes) {
        0 => LENGTH_UNSAID,
        total_bytes => usize::from(total_bytes).checked_sub(header_bytes)?,
    };
    let fragment = u16::from_be(header.fragment);
    let payload = if fragment & 0x1fff != 0 {
        Payload::LaterFragment
    } else {
        let more = fragment & 0x2000 != 0;
        ports(
            packet,
            offset + header_bytes,
            header.protocol,
            body_bytes,
            more,
        )
    };
    Some(Flow {
        source: Address::V4(header.source),
        protocol: header.protocol,
        payload,
    })
}

/// Of a packet whose header gives 0: more than any header needs.
const LENGTH_UNSAID: usize = 1 << 16;

/// What the walk over IPv6 extension headers remembers of a fragment header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Whole,
    First,
    Later,
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Flow> {
    let header = packet.read::<Ipv6Header>(offset)?;
    if header.version >> 4 != 6 {
        return None;
    }
    let source = Address::V6(header.source);
    let Some((protocol, at, position)) = behind_extensions(packet, header.next, offset + 40) else {
        return Some(Flow {
            source,
            protocol: header.next,
            payload: Payload::Unreadable,
        });
    };
    let payload = if position == Position::Later {
        Payload::LaterFragment
    } else {
        let payload_bytes = match u16::from_be(header.payload_bytes) {
            0 => LENGTH_UNSAID,
            bytes => usize::from(bytes),
        };
        // Headers longer than the packet leave nothing for ports.
        let body_bytes = payload_bytes.saturating_sub(at - offset - 40);
        ports(
            packet,
            at,
            protocol,
            body_bytes,
            position == Position::First,
        )
    };
    Some(Flow {
        source,
        protocol,
        payload,
    })
}

/// Protocol and place of what follows the extension headers, as far as this fragment has it.
#[inline(always)]
fn behind_extensions<P: Packet + ?Sized>(
    packet: &P,
    first: u8,
    start: usize,
) -> Option<(u8, usize, Position)> {
    let mut at = start;
    let mut next = first;
    let mut position = Position::Whole;
    let mut walked = 0;
    while is_extension(next) {
        if walked == EXTENSIONS_MAX {
            return None;
        }
        walked += 1;
        let header = packet.read::<Extension>(at)?;
        if next == FRAGMENT {
            position = header.position();
        }
        at += header.bytes(next);
        next = header.next;
        if position == Position::Later {
            break;
        }
    }
    Some((next, at, position))
}

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
const fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        0 | 43 | FRAGMENT | AUTHENTICATION | 60 | 135 | 139 | 140
    )
}

impl Extension {
    /// The header's own length, by its kind.
    #[inline(always)]
    fn bytes(&self, kind: u8) -> usize {
        let units = usize::from(self.units);
        match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        }
    }

    /// Of a fragment header.
    #[inline(always)]
    fn position(&self) -> Position {
        let field = u16::from_be(self.field);
        if field & 0xfff8 != 0 {
            Position::Later
        } else if field & 1 != 0 {
            Position::First
        } else {
            Position::Whole
        }
    }
}

#[inline(always)]
fn ports<P: Packet + ?Sized>(
    packet: &P,
    at: usize,
    protocol: u8,
    body_bytes: usize,
    fragmented: bool,
) -> Payload {
    let header_bytes = match protocol {
        // A first fragment may cut the TCP header after the ports, never before (RFC 791: 8 bytes at least).
        TCP if fragmented => 8,
        TCP => 20,
        UDP => 8,
        _ => return Payload::Portless,
    };
    // What follows the packet in its frame is padding, and says nothing.
    if body_bytes < size_of::<Ports>() {
        return Payload::Unreadable;
    }
    let Some(ports) = packet.read::<Ports>(at) else {
        return Payload::Unreadable;
    };
    Payload::Ports {
        source: u16::from_be(ports.source),
        destination: u16::from_be(ports.destination),
        fragmented,
        cut: body_bytes < header_bytes,
    }
}
