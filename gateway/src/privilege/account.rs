//! The unprivileged user the worker becomes.

use super::PrivilegeError;
use nix::unistd::{Gid, Uid, User};

/// A user that exists and is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    pub fn find(name: &str) -> Result<Account, PrivilegeError> {
        let user = User::from_name(name)
            .map_err(|e| PrivilegeError::Lookup(name.to_owned(), e))?
            .ok_or_else(|| PrivilegeError::NoSuchUser(name.to_owned()))?;
        if user.uid.is_root() || user.gid.as_raw() == 0 {
            return Err(PrivilegeError::UserIsRoot(name.to_owned()));
        }
        Ok(Account {
            name: name.to_owned(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }

    /// Whoever this process is, for when it cannot become somebody else.
    pub fn of_self() -> Account {
        Account {
            name: String::new(),
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_strangers_are_refused() {
        assert!(matches!(
            Account::find("root"),
            Err(PrivilegeError::UserIsRoot(_))
        ));
        assert!(matches!(
            Account::find("no-such-user-here"),
            Err(PrivilegeError::NoSuchUser(_))
        ));
    }
}
