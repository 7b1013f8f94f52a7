//! The rights of this process as the kernel states them in `/proc/thread-self/status`.

use super::{Account, PrivilegeError};
use std::io;

/// One thread's credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rights {
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub no_new_privs: bool,
}

impl Rights {
    pub fn of_self() -> io::Result<Rights> {
        std::fs::read_to_string("/proc/thread-self/status").map(|text| Rights::parse(&text))
    }

    fn parse(text: &str) -> Rights {
        let mut rights = Rights::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key {
                "Uid" => rights.uids = four(value),
                "Gid" => rights.gids = four(value),
                "Groups" => rights.groups = numbers(value).collect(),
                "CapInh" => rights.inheritable = hex(value),
                "CapPrm" => rights.permitted = hex(value),
                "CapEff" => rights.effective = hex(value),
                "CapBnd" => rights.bounding = hex(value),
                "CapAmb" => rights.ambient = hex(value),
                "NoNewPrivs" => rights.no_new_privs = value == "1",
                _ => {}
            }
        }
        rights
    }

    /// Refuses whatever should be gone. `account`: the user that root was to become; `None` when the process
    /// was not root, so that its user, groups and bounding set stay as they were.
    pub fn verify(&self, account: Option<&Account>) -> Result<(), PrivilegeError> {
        let mut remains = Vec::new();
        let sets = [
            ("inheritable", self.inheritable),
            ("permitted", self.permitted),
            ("effective", self.effective),
            ("ambient", self.ambient),
        ];
        for (name, set) in sets {
            if set != 0 {
                remains.push(format!("{name} capabilities {set:x}"));
            }
        }
        if !self.no_new_privs {
            remains.push("no_new_privs is off".to_owned());
        }
        if let Some(account) = account {
            if self.bounding != 0 {
                remains.push(format!("bounding capabilities {:x}", self.bounding));
            }
            if self.uids != [account.uid; 4] {
                remains.push(format!("uids {:?}", self.uids));
            }
            if self.gids != [account.gid; 4] {
                remains.push(format!("gids {:?}", self.gids));
            }
            if !self.groups.is_empty() {
                remains.push(format!("groups {:?}", self.groups));
            }
        }
        if remains.is_empty() {
            Ok(())
        } else {
            Err(PrivilegeError::Remains(remains.join(", ")))
        }
    }
}

fn numbers(value: &str) -> impl Iterator<Item = u32> + '_ {
    value.split_whitespace().filter_map(|n| n.parse().ok())
}

/// A missing number reads as root, so that a change of format cannot pass for a drop.
fn four(value: &str) -> [u32; 4] {
    let mut out = [0; 4];
    for (slot, n) in out.iter_mut().zip(numbers(value)) {
        *slot = n;
    }
    out
}

/// What does not parse reads as "all of them", for the same reason.
fn hex(value: &str) -> u64 {
    u64::from_str_radix(value, 16).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: &str = "Name:\tgateway\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\n";

    #[test]
    fn each_right_that_remains_is_named() {
        let account = Account {
            name: "gw".into(),
            uid: 7,
            gid: 8,
        };
        assert!(Rights::parse(DROPPED).verify(Some(&account)).is_ok());
        let table = [
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7", "uids"),
            ("Gid:\t8\t8\t8\t8", "Gid:\t0\t8\t8\t8", "gids"),
            ("Groups:\t ", "Groups:\t4 27 ", "groups [4, 27]"),
            (
                "CapEff:\t0000000000000000",
                "CapEff:\t0000000000000400",
                "effective capabilities 400",
            ),
            ("CapBnd:\t0000000000000000", "CapBnd:\t1", "bounding"),
            ("CapAmb:\t0000000000000000", "CapAmb:\tzz", "ambient"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privs"),
        ];
        for (from, to, named) in table {
            let text = DROPPED.replace(from, to);
            let error = Rights::parse(&text).verify(Some(&account)).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
