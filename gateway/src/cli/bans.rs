//! `gateway bans list|add|remove`

use super::status::seconds;
use crate::admin::bans::{AddBan, BanAdded, BanView, RemoveBan};
use crate::admin::client::Client;
use crate::units::{Prefix, Span};
use std::path::Path;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Shows who is banned, by which rule, and for how long still.
    List {
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bans an address or prefix, in the kernel too where the filter is on.
    Add {
        /// Such as 192.0.2.7, 198.51.100.0/24 or 2001:db8::/32.
        #[arg(value_parser = prefix)]
        target: Prefix,
        /// How long; every ban ends.
        #[arg(long, default_value = "10m", value_parser = span)]
        ttl: Span,
        /// Why, for the list and the audit log.
        #[arg(long, default_value = "by hand")]
        reason: String,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ends a ban.
    Remove {
        /// As `bans list` shows it.
        #[arg(value_parser = prefix)]
        target: Prefix,
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse()
        .map_err(|()| "expected an address or prefix such as 192.0.2.7 or 10.0.0.0/8".to_owned())
}

fn span(text: &str) -> Result<Span, String> {
    text.parse()
        .map_err(|()| "expected a time such as 30s, 10m or 2h".to_owned())
}

pub(super) fn run(command: &Command, socket: &Path) -> anyhow::Result<u8> {
    let client = Client::new(socket);
    match command {
        Command::List { json } => {
            let bans: Vec<BanView> = client.get("/bans")?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&bans)?);
            } else {
                print!("{}", table(&bans));
            }
        }
        Command::Add {
            target,
            ttl,
            reason,
            json,
        } => {
            let request = AddBan {
                target: target.0.to_string(),
                ttl_secs: ttl.0.as_secs(),
                reason: reason.clone(),
            };
            let added: BanAdded = client.post("/bans", &request)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&added)?);
            } else {
                println!("{}", sentence(&added));
            }
        }
        Command::Remove { target, json } => {
            let request = RemoveBan {
                target: target.0.to_string(),
            };
            let ban: BanView = client.delete("/bans", &request)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&ban)?);
            } else {
                println!("{} is no longer banned", ban.target);
            }
        }
    }
    Ok(0)
}

fn sentence(added: &BanAdded) -> String {
    let BanAdded { ban, kernel, why } = added;
    let time = seconds(ban.remaining_secs);
    let scope = match (kernel, why) {
        (true, _) => ", in the kernel too".to_owned(),
        (false, None) => ", in user space only".to_owned(),
        (false, Some(why)) => format!(", in user space only: {why}"),
    };
    format!("{} is banned for {time}{scope}", ban.target)
}

fn table(bans: &[BanView]) -> String {
    if bans.is_empty() {
        return "no bans\n".to_owned();
    }
    let mut out = format!(
        "{:<40} {:>14}  {:<20} REASON\n",
        "TARGET", "REMAINING", "BY"
    );
    for ban in bans {
        let remaining = seconds(ban.remaining_secs);
        out.push_str(&format!(
            "{:<40} {remaining:>14}  {:<20} {}\n",
            ban.target, ban.origin, ban.reason
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_a_ban_reaches() {
        let added = |kernel, why: Option<&str>| {
            sentence(&BanAdded {
                ban: BanView {
                    target: "192.0.2.1/32".into(),
                    origin: "manual".into(),
                    reason: String::new(),
                    since_unix: 0,
                    remaining_secs: 5,
                },
                kernel,
                why: why.map(str::to_owned),
            })
        };
        assert!(added(true, None).ends_with("in the kernel too"));
        assert!(added(false, Some("it is full")).ends_with("in user space only: it is full"));
    }
}
