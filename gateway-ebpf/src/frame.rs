//! The frame as the verifier lets it be read.

use aya_ebpf::programs::XdpContext;
use gateway_common::packet::{OFFSET_MAX, Packet, Plain};

use crate::tables;

/// The first buffer of a frame: headers never lie in a later one.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Frame {
        Frame {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        // The verifier follows an offset only while it is bounded.
        if offset > OFFSET_MAX {
            return None;
        }
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: `at .. at + size` lies before `data_end`, and `T` is plain.
        Some(unsafe { (at as *const T).read_unaligned() })
    }
}

/// Bench only: writes a drawn IPv4 source address into an untagged frame.
#[inline(always)]
pub fn rotate_source(ctx: &XdpContext) {
    const SOURCE: usize = 14 + 12;
    let Some(bench) = tables::bench() else { return };
    // SAFETY: the map value is alive while the program runs; a lost update only repeats a number.
    let state = unsafe { &mut *bench };
    if state.source_count == 0 {
        return;
    }
    state.state = state
        .state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let drawn = ((state.state >> 32) * u64::from(state.source_count)) >> 32;
    let at = ctx.data() + SOURCE;
    if at + 4 > ctx.data_end() {
        return;
    }
    let address = state.first.wrapping_add(drawn as u32).to_be();
    // SAFETY: `at .. at + 4` lies before `data_end`.
    unsafe { (at as *mut u32).write_unaligned(address) };
}
