//! `gateway status`

use crate::admin::{client::Client, status::Status};
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> anyhow::Result<u8> {
    let status: Status = Client::new(socket).get("/status")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", table(&status));
    }
    Ok(0)
}

fn table(status: &Status) -> String {
    let mut rows = vec![
        ("version", status.version.clone()),
        ("config", status.config.clone()),
        ("up", seconds(status.uptime_secs)),
        ("worker", format!("pid {}, uid {}", status.pid, status.uid)),
        ("cores", status.cores.to_string()),
        (
            "state",
            if status.draining {
                "draining"
            } else {
                "serving"
            }
            .to_owned(),
        ),
        ("connections", status.connections.to_string()),
        ("requests", status.requests.to_string()),
        ("bans", status.bans.to_string()),
        ("limiter keys", status.limiter_keys.to_string()),
        ("routes", status.routes.to_string()),
    ];
    for listener in &status.listeners {
        let scheme = if listener.tls { "https" } else { "http" };
        rows.push((
            "listener",
            format!("{} {scheme}://{}", listener.name, listener.address),
        ));
    }
    if status.filter.is_empty() {
        rows.push(("kernel filter", "off".to_owned()));
    }
    for attached in &status.filter {
        rows.push((
            "kernel filter",
            format!("{} on {}", attached.mode, attached.interface),
        ));
    }
    rows.push(("kernel drops", status.kernel_drops.to_string()));
    rows.push(("log records lost", status.log_records_lost.to_string()));
    rows.iter()
        .map(|(name, value)| format!("{name:<17} {value}\n"))
        .collect()
}

/// `1d 2h 3m 4s`, without leading zero parts.
pub(super) fn seconds(total: u64) -> String {
    let parts = [
        (total / 86_400, "d"),
        (total / 3_600 % 24, "h"),
        (total / 60 % 60, "m"),
        (total % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().map(|(n, unit)| format!("{n}{unit}"));
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_naturally() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_599, "59m 59s"),
            (86_400, "1d 0h 0m 0s"),
            (93_784, "1d 2h 3m 4s"),
        ];
        for (total, text) in table {
            assert_eq!(seconds(total), text);
        }
    }
}
