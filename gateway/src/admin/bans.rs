//! `GET`, `POST` and `DELETE /bans`.

use super::peer::Actor;
use super::{Command, Control, Refused};
use crate::config::filter::canonical;
use crate::units::Prefix;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A typing error must not ban for a century.
const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);
const REASON_BYTES_MAX: usize = 256;

/// One ban in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    pub target: String,
    /// `manual`, or the kind of strike that led to it.
    pub origin: String,
    /// The note or rule.
    pub reason: String,
    pub since_unix: u64,
    pub remaining_secs: u64,
}

/// Answer to `POST`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanAdded {
    #[serde(flatten)]
    pub ban: BanView,
    /// The kernel filter drops its packets, too.
    pub kernel: bool,
    /// If it does not: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Body of `POST`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBan {
    pub target: String,
    pub ttl_secs: u64,
    #[serde(default)]
    pub reason: String,
}

/// Body of `DELETE`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveBan {
    pub target: String,
}

/// A ban as asked for, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBan {
    pub target: IpNet,
    pub ttl: Duration,
    pub reason: String,
}

impl AddBan {
    fn parse(self) -> Result<NewBan, Refused> {
        let ttl = Duration::from_secs(self.ttl_secs);
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(bad("the time to live must be between a second and a year"));
        }
        if self.reason.len() > REASON_BYTES_MAX || self.reason.chars().any(char::is_control) {
            return Err(bad("the reason must be one line of at most 256 bytes"));
        }
        Ok(NewBan {
            target: target(&self.target)?,
            ttl,
            reason: self.reason,
        })
    }
}

fn target(text: &str) -> Result<IpNet, Refused> {
    let Prefix(net) = text
        .parse()
        .map_err(|()| bad("the target is neither an address nor a prefix"))?;
    // First, or `::ffff:0:0/96` would pass for a small part of IPv6.
    let net = canonical(net);
    if net.prefix_len() == 0 {
        return Err(bad("that would be everybody"));
    }
    Ok(net)
}

fn bad(reason: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, reason)
}

pub async fn list(State(control): State<Control>) -> Result<Json<Vec<BanView>>, Refused> {
    control
        .ask(|reply| Command::ListBans { reply })
        .await
        .map(Json)
}

pub async fn add(
    State(control): State<Control>,
    ConnectInfo(actor): ConnectInfo<Actor>,
    Json(request): Json<AddBan>,
) -> Result<Json<BanAdded>, Refused> {
    let ban = request.parse()?;
    let command = |reply| Command::AddBan { ban, actor, reply };
    control.ask(command).await?.map(Json)
}

pub async fn remove(
    State(control): State<Control>,
    ConnectInfo(actor): ConnectInfo<Actor>,
    Json(request): Json<RemoveBan>,
) -> Result<Json<BanView>, Refused> {
    let target = target(&request.target)?;
    let command = |reply| Command::RemoveBan {
        target,
        actor,
        reply,
    };
    control.ask(command).await?.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed_or_refused() {
        let ask = |target: &str, ttl_secs, reason: &str| {
            AddBan {
                target: target.into(),
                ttl_secs,
                reason: reason.into(),
            }
            .parse()
        };
        let year = TTL_MAX.as_secs();
        assert_eq!(
            ask("10.1.2.3/8", year, "x").unwrap().target.to_string(),
            "10.0.0.0/8"
        );
        for (target, ttl, reason) in [
            ("10.0.0.1", 0, ""),
            ("10.0.0.1", year + 1, ""),
            ("nobody", 1, ""),
            ("0.0.0.0/0", 1, ""),
            ("::/0", 1, ""),
            ("::ffff:0:0/96", 1, ""),
            ("::ffff:1.2.3.4/96", 1, ""),
            ("10.0.0.1", 1, "two\nlines"),
        ] {
            let refused = ask(target, ttl, reason).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{target}");
        }
        assert_eq!(
            ask("::ffff:10.1.2.3/104", 1, "")
                .unwrap()
                .target
                .to_string(),
            "10.0.0.0/8"
        );
        assert!(ask("10.0.0.1", 1, &"x".repeat(256)).is_ok());
        assert!(ask("10.0.0.1", 1, &"x".repeat(257)).is_err());
    }
}
