//! One rule on one route: Ok -> Pending -> Firing -> Ok, with hysteresis and a minimum interval.

use crate::clock::Now;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Firing,
    Resolved,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Firing => "firing",
            Status::Resolved => "resolved",
        }
    }
}

/// Where one rule on one route stands.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Ok,
    Pending {
        since: Now,
    },
    Firing {
        since: Now,
        /// Somebody was told.
        told: bool,
        /// Below the lower line since.
        calm: Option<Now>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Rule {
    state: State,
    last_told_ns: Option<u64>,
}

/// A signal's value against its lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) value: f64,
    pub(super) limit: f64,
    /// Below this an alert is over.
    pub(super) clear: f64,
}

impl Rule {
    /// One step. `None` as reading: nothing measured, which counts as calm.
    pub(super) fn step(
        &mut self,
        reading: Option<Reading>,
        hold: Duration,
        pause: Duration,
        now: Now,
    ) -> Option<(Status, Now)> {
        let above = reading.is_some_and(|r| r.value > r.limit);
        let calm_now = reading.is_none_or(|r| r.value <= r.clear);
        let elapsed = |since: Now| Duration::from_nanos(now.mono_ns.saturating_sub(since.mono_ns));
        if let (State::Ok, true) = (self.state, above) {
            self.state = State::Pending { since: now };
        }
        match self.state {
            State::Ok => return None,
            State::Pending { .. } if !above => self.state = State::Ok,
            State::Pending { since } if elapsed(since) >= hold => {
                self.state = State::Firing {
                    since,
                    told: false,
                    calm: None,
                };
            }
            State::Pending { .. } => {}
            State::Firing { since, told, calm } if calm_now => {
                let began = calm.unwrap_or(now);
                if elapsed(began) >= hold && calm.is_some() {
                    self.state = State::Ok;
                    return told.then_some((Status::Resolved, since));
                }
                self.state = State::Firing {
                    since,
                    told,
                    calm: Some(began),
                };
            }
            State::Firing { since, told, .. } => {
                self.state = State::Firing {
                    since,
                    told,
                    calm: None,
                }
            }
        }
        self.tell(above, pause, now)
    }

    /// Forgets where the rule stood. `Some`: since when it fired, if somebody was told and so must hear of the end.
    pub(super) fn end(&mut self) -> Option<Now> {
        match std::mem::take(&mut self.state) {
            State::Firing {
                since, told: true, ..
            } => Some(since),
            _ => None,
        }
    }

    /// Speaks of a firing once, and not sooner than `pause` after the last time.
    fn tell(&mut self, above: bool, pause: Duration, now: Now) -> Option<(Status, Now)> {
        let State::Firing {
            since,
            told: false,
            calm,
        } = self.state
        else {
            return None;
        };
        let rested = self
            .last_told_ns
            .is_none_or(|last| now.mono_ns.saturating_sub(last) >= pause.as_nanos() as u64);
        if !above || !rested {
            return None;
        }
        self.last_told_ns = Some(now.mono_ns);
        self.state = State::Firing {
            since,
            told: true,
            calm,
        };
        Some((Status::Firing, since))
    }
}
