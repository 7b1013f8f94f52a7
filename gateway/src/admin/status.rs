//! `GET /status`: how the gateway is doing, for people.

use super::{Command, Control, Refused};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Path of the config, as the warden was told.
    pub config: String,
    pub uptime_secs: u64,
    /// Of the worker.
    pub pid: u32,
    pub uid: u32,
    pub cores: usize,
    pub draining: bool,
    pub connections: u64,
    pub requests: u64,
    pub bans: u64,
    pub limiter_keys: u64,
    pub routes: u64,
    pub listeners: Vec<ListenerView>,
    /// Empty when the kernel filter is off.
    pub filter: Vec<Attached>,
    pub kernel_drops: u64,
    /// Access and audit records that a full queue or disk cost.
    pub log_records_lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    pub name: String,
    pub address: String,
    pub tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
}

pub async fn get(State(control): State<Control>) -> Result<Json<Status>, Refused> {
    control
        .ask(|reply| Command::Status { reply })
        .await
        .map(Json)
}
