//! The XDP program: hands frame and maps to [`gateway_common::verdict::decide`], counts, samples, answers.
//!
//! All judgement lives in `gateway-common`, where the host can test it; here are only the map types, the packet
//! cursor the verifier accepts, and the two entry points.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "core::sync::atomic lacks read-modify-write on this target"
)]

mod event;
mod frame;
mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use gateway_common::verdict::decide;

use crate::frame::Frame;
use crate::tables::Maps;

#[xdp(frags)]
pub fn gateway_filter(ctx: XdpContext) -> u32 {
    filter(&ctx)
}

/// Gives the frame another source address each time, then judges it: what `gateway kernel bench` measures.
/// Loaded for that only, never attached.
#[xdp(frags)]
pub fn gateway_bench(ctx: XdpContext) -> u32 {
    frame::rotate_source(&ctx);
    filter(&ctx)
}

#[inline(always)]
fn filter(ctx: &XdpContext) -> u32 {
    let verdict = decide(&Frame::of(ctx), &Maps);
    let seen = tables::count(verdict.reason);
    if !verdict.reason.drops() {
        return XDP_PASS;
    }
    if tables::sampled(seen) {
        event::emit(ctx, verdict.reason as u8, verdict.cause);
    }
    XDP_DROP
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
