//! Runs of the program on crafted frames (`BPF_PROG_TEST_RUN`), for tests, `explain` and the bench.

use aya::maps::{Array, MapData};
use aya::programs::{Program, TestRun, TestRunOptions, Xdp};
use gateway_common::abi::{self, BenchState, maps};

use super::load::{take, xdp};
use super::{Filter, KernelError};

/// What the program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop,
    Pass,
    /// Another `enum xdp_action`; the program has no path to one.
    Other(u32),
}

/// The kernel takes no shorter frame here, and one page less head- and tailroom is enough for any header.
const FRAME_BYTES_MIN: usize = 14;
const FRAME_BYTES_MAX: usize = 3000;

impl Filter {
    /// Judges `frame` `repeat` times; the last answer and nanoseconds per run, as the kernel measured them.
    /// Real counters, rates and events move.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<(Action, u64), KernelError> {
        run(self.program(abi::PROGRAM)?, frame, repeat)
    }

    fn program(&self, name: &'static str) -> Result<&Xdp, KernelError> {
        match self.bpf.program(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(KernelError::Refused {
                reason: format!("the embedded object has no XDP program {name}"),
            }),
        }
    }
}

/// A filter that is attached nowhere, with the program that gives a frame many sources.
pub struct Bench {
    pub filter: Filter,
    state: Array<MapData, BenchState>,
}

impl Bench {
    /// Loads the second program too; needs the same privileges as [`Filter::load`].
    pub fn of(mut filter: Filter) -> Result<Bench, KernelError> {
        xdp(&mut filter.bpf, abi::BENCH_PROGRAM)?
            .load()
            .map_err(|e| KernelError::refused(&e))?;
        let state = take(&mut filter.bpf, maps::BENCH, Array::try_from)?;
        Ok(Bench { filter, state })
    }

    /// Like [`Filter::test_run`] on an untagged IPv4 frame, each time from one of `source_count` addresses
    /// from `first` on, drawn at random. The draw is part of the time. A count of 0 keeps the frame's source.
    pub fn rotate(
        &mut self,
        frame: &[u8],
        repeat: u32,
        first: std::net::Ipv4Addr,
        source_count: u32,
    ) -> Result<(Action, u64), KernelError> {
        let state = BenchState {
            state: 1,
            source_count,
            first: first.into(),
        };
        self.state
            .set(0, state, 0)
            .map_err(KernelError::map(maps::BENCH))?;
        run(self.filter.program(abi::BENCH_PROGRAM)?, frame, repeat)
    }
}

fn run(program: &Xdp, frame: &[u8], repeat: u32) -> Result<(Action, u64), KernelError> {
    if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
        return Err(KernelError::Frame {
            min: FRAME_BYTES_MIN,
            max: FRAME_BYTES_MAX,
        });
    }
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program
        .test_run(options)
        .map_err(|e| KernelError::refused(&e))?;
    let action = match result.return_value {
        1 => Action::Drop,
        2 => Action::Pass,
        other => Action::Other(other),
    };
    Ok((
        action,
        u64::try_from(result.duration.as_nanos()).unwrap_or(u64::MAX),
    ))
}
