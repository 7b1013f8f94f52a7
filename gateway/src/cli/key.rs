//! `gateway key new`

use crate::policy::api_key::mint;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Makes an API key and prints it once, with the entry for the key file that holds only its hash.
    New {
        /// Who will use it: the subject in logs and limits.
        #[arg(long)]
        owner: String,
        /// May stand several times.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// May stand several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<u8> {
    let Command::New {
        owner,
        roles,
        scopes,
    } = command;
    let minted = mint(owner).map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
    let lists = list("roles", roles) + &list("scopes", scopes);
    println!(
        "The key, shown this once:\n\n    {}\n\nIts entry for the key file:\n",
        minted.key
    );
    print!("{}{lists}", minted.entry_toml);
    Ok(0)
}

fn list(name: &str, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items = items.iter().cloned().map(toml::Value::String).collect();
    format!("{name} = {}\n", toml::Value::Array(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_toml_whatever_they_hold() {
        assert_eq!(list("roles", &[]), "");
        let text = list("roles", &["admin".into(), "a\"b".into()]);
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["roles"][1].as_str(), Some("a\"b"));
    }
}
