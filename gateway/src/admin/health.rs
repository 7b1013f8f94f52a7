//! `GET /healthz`: 200 while the control loop answers and the gateway takes requests, 503 while it drains.

use super::{Command, Control, Refused};
use axum::extract::State;
use axum::http::StatusCode;

pub async fn get(State(control): State<Control>) -> Result<&'static str, Refused> {
    let status = control.ask(|reply| Command::Status { reply }).await?;
    if status.draining {
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "draining"));
    }
    Ok("ok\n")
}
