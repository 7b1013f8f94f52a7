//! Waiting on a condition with a deadline: the only way a test may let time pass.

use std::time::{Duration, Instant};

/// For what should happen at once, on a machine that may be busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Asks until there is an answer; `None` when the deadline passes first.
pub fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Asks until there is an answer, and fails the test with `what` when there is none in time.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, ask).unwrap_or_else(|| panic!("in {PATIENCE:?} there was no {what}"))
}
