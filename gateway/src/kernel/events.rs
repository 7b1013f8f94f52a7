//! What the program says by itself: sampled drops, and its log where the config switched that on.

#![allow(
    unsafe_code,
    reason = "a ring buffer entry is bytes that become a value, and a descriptor is registered for readiness"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use gateway_common::abi::{DropEvent, maps};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Filter;
use super::load::take;

impl Filter {
    /// The stream of sampled drops; `None` when it was taken before, or cannot be mapped.
    pub fn take_events(&mut self) -> Option<DropEvents> {
        match take(&mut self.bpf, maps::EVENTS, RingBuf::try_from) {
            Ok(ring) => Some(DropEvents { ring, wake: None }),
            Err(e) => {
                tracing::debug!(error = %e, "no stream of drop events");
                None
            }
        }
    }

    /// The program's debug messages; `None` when taken before, or when the program was built without any.
    pub fn take_logger(&mut self) -> Option<FilterLog> {
        let logger = EbpfLogger::init_with_logger(&mut self.bpf, ToTracing).ok()?;
        Some(FilterLog { logger, wake: None })
    }
}

/// Sampled drops, in order.
pub struct DropEvents {
    ring: RingBuf<MapData>,
    /// Made at the first wait: it belongs to the runtime that waits.
    wake: Option<AsyncFd<OwnedFd>>,
}

impl DropEvents {
    /// The next drop. Needs a tokio runtime with I/O; may be dropped while waiting without losing an event.
    pub async fn next(&mut self) -> io::Result<DropEvent> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            wait(&mut self.wake, &self.ring).await?;
        }
    }

    /// The next drop, if one is there already.
    pub fn try_next(&mut self) -> Option<DropEvent> {
        loop {
            let entry = self.ring.next()?;
            // Another length would be another ABI; the program and this file come from one build.
            if entry.len() == size_of::<DropEvent>() {
                // SAFETY: as many initialised bytes as the event has, which is plain integers without padding.
                return Some(unsafe { entry.as_ptr().cast::<DropEvent>().read_unaligned() });
            }
        }
    }
}

/// The program's log, forwarded to `tracing` under the target `kernel.filter`.
pub struct FilterLog {
    logger: EbpfLogger<ToTracing>,
    wake: Option<AsyncFd<OwnedFd>>,
}

impl FilterLog {
    /// Waits for messages and forwards them. Needs a tokio runtime with I/O.
    pub async fn forward(&mut self) -> io::Result<()> {
        self.logger.flush();
        wait(&mut self.wake, &self.logger).await?;
        self.logger.flush();
        Ok(())
    }
}

/// Waits until `source` was readable once more. Readiness is cleared before the caller reads, so nothing is missed.
async fn wait(wake: &mut Option<AsyncFd<OwnedFd>>, source: &impl AsFd) -> io::Result<()> {
    if wake.is_none() {
        let copy = source.as_fd().try_clone_to_owned()?;
        // SAFETY: an owned descriptor, which `AsyncFd` keeps open until after it has deregistered it.
        let registered = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
        *wake = Some(registered?);
    }
    if let Some(wake) = wake {
        wake.readable().await?.clear_ready();
    }
    Ok(())
}

struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "kernel.filter", "{}", record.args());
    }

    fn flush(&self) {}
}

impl std::fmt::Debug for DropEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DropEvents")
    }
}
