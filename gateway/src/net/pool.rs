//! Idle upstream connections of one core, by target. Last in, first out: the warmest is reused, the
//! rest age and are closed.

use super::stream::Stream;
use std::cell::RefCell;
use std::time::Duration;

#[derive(Default)]
pub struct Pools {
    by_target: RefCell<Vec<Vec<Idle>>>,
}

struct Idle {
    stream: Stream,
    expires_ns: u64,
}

impl Pools {
    /// A connection that was alive a moment ago. Whether it still is shows at the first read, or by
    /// asking the socket where a request could not be sent twice.
    pub fn take(&self, target: u32, now_ns: u64) -> Option<Stream> {
        let mut all = self.by_target.borrow_mut();
        let idle = all.get_mut(target as usize)?;
        let last = idle.pop()?;
        if last.expires_ns <= now_ns {
            // Those below it are older still.
            idle.clear();
            return None;
        }
        Some(last.stream)
    }

    /// Keeps a connection whose response was read to its end.
    pub fn give(
        &self,
        target: u32,
        stream: Stream,
        idle_max: usize,
        idle_timeout: Duration,
        now_ns: u64,
    ) {
        stream.deadline.disarm();
        let mut all = self.by_target.borrow_mut();
        let index = target as usize;
        if all.len() <= index {
            all.resize_with(index + 1, Vec::new);
        }
        let idle = &mut all[index];
        if idle.len() < idle_max {
            idle.push(Idle {
                stream,
                expires_ns: now_ns.saturating_add(idle_timeout.as_nanos() as u64),
            });
        }
    }

    /// Closes what has aged, or been closed by the other side.
    pub fn sweep(&self, now_ns: u64) {
        for idle in self.by_target.borrow_mut().iter_mut() {
            idle.retain(|i| i.expires_ns > now_ns && i.stream.socket.is_quiet());
        }
    }

    pub fn clear(&self) {
        self.by_target.borrow_mut().clear();
    }
}
