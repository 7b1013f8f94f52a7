//! `POST /reload`: answers when the new config serves, or with everything that is wrong with it.

use super::peer::Actor;
use super::{Command, Control, Refused};
use crate::diagnose::Diagnostic;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use serde::{Deserialize, Serialize};

/// No errors: published. Otherwise the old config stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    pub errors: Vec<Diagnostic>,
}

pub async fn post(
    State(control): State<Control>,
    ConnectInfo(actor): ConnectInfo<Actor>,
) -> Result<Json<ReloadReport>, Refused> {
    control
        .ask(|reply| Command::Reload { actor, reply })
        .await
        .map(Json)
}
