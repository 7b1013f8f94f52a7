//! Sampled drops: out of line and parsed again, so that the verdict path carries nothing for them.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use gateway_common::abi::DropEvent;
use gateway_common::packet::{Address, Parsed, Payload, parse};

use crate::frame::Frame;
use crate::tables;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Tells user space about one drop.
#[inline(never)]
pub fn emit(ctx: &XdpContext, reason: u8, cause: u8) {
    let mut event = DropEvent {
        // SAFETY: a helper without arguments.
        time_ns: unsafe { bpf_ktime_get_coarse_ns() },
        ifindex: ctx.ingress_ifindex() as u32,
        frame_bytes: (ctx.data_end() - ctx.data()) as u32,
        reason,
        cause,
        ..DropEvent::default()
    };
    if let Parsed::Ip(flow) = parse(&Frame::of(ctx)) {
        event.protocol = flow.protocol;
        event.source = mapped(flow.source);
        if let Payload::Ports {
            source,
            destination,
            ..
        } = flow.payload
        {
            event.source_port = source;
            event.destination_port = destination;
        }
    }
    // Disabled at load time unless the operator asks for it: 35 ns, and lossy under load.
    debug!(
        ctx,
        "drop reason={} port={}", reason, event.destination_port
    );
    let Some(mut slot) = EVENTS.reserve::<DropEvent>(0) else {
        tables::count_lost_event();
        return;
    };
    *slot = MaybeUninit::new(event);
    slot.submit(0);
}

/// IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn mapped(address: Address) -> [u8; 16] {
    let words: [u32; 4] = match address {
        Address::V4(address) => [0, 0, 0xffff_u32.to_be(), address],
        Address::V6([high, low]) => [
            high as u32,
            (high >> 32) as u32,
            low as u32,
            (low >> 32) as u32,
        ],
    };
    // SAFETY: same size, integers on both sides; the target is little-endian, so the words keep the packet's order.
    unsafe { core::mem::transmute(words) }
}
