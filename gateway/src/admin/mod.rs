//! The admin API: HTTP on a unix socket that only root can open, and `/metrics` alone on a TCP address where one
//! is configured. Each resource is a file: its types, how its request becomes a [`Command`], how its answer looks.
//! One function, in `boot`, applies commands.

pub mod bans;
pub mod bounded;
pub mod client;
pub mod health;
pub mod metrics;
pub mod peer;
pub mod reload;
pub mod status;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the control loop.
pub const COMMANDS_MAX: usize = 64;

/// Where one answer goes.
pub type Reply<T> = oneshot::Sender<T>;

/// Everything that can be asked of the running gateway.
#[derive(Debug)]
pub enum Command {
    Status {
        reply: Reply<status::Status>,
    },
    Metrics {
        reply: Reply<String>,
    },
    ListBans {
        reply: Reply<Vec<bans::BanView>>,
    },
    AddBan {
        ban: bans::NewBan,
        actor: peer::Actor,
        reply: Reply<Result<bans::BanAdded, Refused>>,
    },
    RemoveBan {
        target: ipnet::IpNet,
        actor: peer::Actor,
        reply: Reply<Result<bans::BanView, Refused>>,
    },
    Reload {
        actor: peer::Actor,
        reply: Reply<reload::ReloadReport>,
    },
}

/// A request that cannot be fulfilled, and why.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub reason: String,
}

impl Refused {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Refused {
        Refused {
            status,
            reason: reason.into(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.reason });
        (self.status, axum::Json(body)).into_response()
    }
}

/// The way from a handler to the control loop.
#[derive(Clone)]
pub struct Control(pub mpsc::Sender<Command>);

impl Control {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refused> {
        let gone = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping");
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// Everything, for the unix socket.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/status", get(status::get))
        .route(
            "/bans",
            get(bans::list).post(bans::add).delete(bans::remove),
        )
        .route("/reload", axum::routing::post(reload::post))
        .route("/metrics", get(metrics::get))
        .route("/healthz", get(health::get))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(control)
}

/// What may be seen over TCP.
pub fn metrics_router(control: Control) -> Router {
    Router::new()
        .route("/metrics", get(metrics::get))
        .with_state(control)
}

#[cfg(test)]
mod tests;
