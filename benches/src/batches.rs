//! Nanoseconds per call: the median over batches that are each long enough for the clock and short
//! enough that an interruption spoils only one of them. The clock is the thread's own CPU time: what other
//! programs take of the core in between does not count.

use crate::report::median;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

const BATCH: Duration = Duration::from_millis(2);

/// How many batches a figure is made of.
#[derive(Clone, Copy, Debug)]
pub struct Batches(pub usize);

impl Batches {
    pub fn new(quick: bool) -> Batches {
        Batches(if quick { 51 } else { 501 })
    }

    /// Calls `f` in a loop; its argument counts the calls. Return values through `std::hint::black_box`.
    pub fn ns_per_call(self, mut f: impl FnMut(u64)) -> f64 {
        let mut calls = 0;
        let per_batch = calibrate(&mut f, &mut calls);
        let figures: Vec<f64> = (0..self.0)
            .map(|_| batch(&mut f, &mut calls, per_batch))
            .collect();
        median(figures)
    }

    /// Two functions in turn, batch by batch, so that a ratio between them is not one of two moments.
    pub fn ns_per_call_of_two(
        self,
        mut one: impl FnMut(u64),
        mut two: impl FnMut(u64),
    ) -> (f64, f64) {
        let (mut calls_one, mut calls_two) = (0, 0);
        let per_batch_one = calibrate(&mut one, &mut calls_one);
        let per_batch_two = calibrate(&mut two, &mut calls_two);
        let (mut figures_one, mut figures_two) = (Vec::new(), Vec::new());
        for _ in 0..self.0 {
            figures_one.push(batch(&mut one, &mut calls_one, per_batch_one));
            figures_two.push(batch(&mut two, &mut calls_two, per_batch_two));
        }
        (median(figures_one), median(figures_two))
    }
}

/// Calls that fill a batch; also the warm-up.
fn calibrate(f: &mut impl FnMut(u64), calls: &mut u64) -> u64 {
    let mut per_batch = 1;
    while batch(f, calls, per_batch) * (per_batch as f64) < BATCH.as_nanos() as f64 {
        per_batch *= 2;
    }
    per_batch
}

fn batch(f: &mut impl FnMut(u64), calls: &mut u64, per_batch: u64) -> f64 {
    let started = cpu_time();
    for _ in 0..per_batch {
        f(*calls);
        *calls += 1;
    }
    (cpu_time() - started).as_nanos() as f64 / per_batch as f64
}

fn cpu_time() -> Duration {
    // Every Linux has this clock; without it every figure would be zero, and calibration would not end.
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.expect("the thread's CPU clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_call_costs_more() {
        let spin = |n: u64| (0..n).for_each(|i| _ = std::hint::black_box(i));
        let (short, long) = Batches(5).ns_per_call_of_two(|_| spin(100), |_| spin(10_000));
        assert!(long > short * 5.0, "{short} {long}");
    }
}
