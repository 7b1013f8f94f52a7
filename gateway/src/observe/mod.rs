//! What the gateway tells about itself: access log, audit log, metrics, alerts. The data plane calls
//! [`record::CoreRecorder::record`] once per exchange; everything that touches a disk or a webhook runs in
//! threads of its own behind bounded queues, started after the worker has dropped its privileges.

pub mod access;
pub mod alerts;
pub mod audit;
pub mod file;
pub mod json;
pub mod metrics;
pub mod payload;
pub mod record;
pub mod sampler;
pub mod stamp;
pub mod writer;
