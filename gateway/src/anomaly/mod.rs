//! What is unusual: learned baselines and fixed thresholds over samples of each route. Pure; time is an argument.

pub mod baseline;
pub mod detector;
mod rule;

pub use baseline::{Baseline, BaselineKnobs};
pub use detector::{AlertChange, Cause, Detector, DetectorKnobs, RouteSample, Signal, Threshold};
pub use rule::Status;
