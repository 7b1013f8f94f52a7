//! `GET /metrics`: the Prometheus text format, version 0.0.4.

use super::{Command, Control, Refused};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

pub async fn get(State(control): State<Control>) -> Result<impl IntoResponse, Refused> {
    let text = control.ask(|reply| Command::Metrics { reply }).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
