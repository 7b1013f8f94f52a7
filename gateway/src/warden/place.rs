//! Makes the places the worker writes to, and gives them to the worker's user.

use crate::privilege::Account;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::Path;

/// Creates `path` (mode 0600) and the folder it stands in, owned by `account` where one is given. A folder that
/// exists already keeps its owner. `Ok(false)`: the worker may not rename within that folder, so rotation fails.
pub fn prepare_file(path: &Path, account: Option<&Account>) -> io::Result<bool> {
    let rotates = match path.parent() {
        Some(folder) => prepare_folder(folder, account)?,
        None => false,
    };
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    give(&file, account)?;
    Ok(rotates)
}

/// Creates the folder, and those above it, where missing. Whether it is the worker's.
pub fn prepare_folder(folder: &Path, account: Option<&Account>) -> io::Result<bool> {
    if !folder.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
        if let Some(account) = account {
            chown(folder, Some(account.uid), Some(account.gid))?;
        }
    }
    let owner = std::fs::metadata(folder)?.uid();
    Ok(account.is_none_or(|account| owner == account.uid))
}

/// The folder may be the worker's own, so a name in it proves nothing: a file with a second name elsewhere, or
/// one that belongs to a third user, is not given away.
fn give(file: &File, account: Option<&Account>) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(io::Error::other("is not a plain file with one name"));
    }
    let Some(account) = account else {
        return Ok(());
    };
    if meta.uid() == account.uid {
        return Ok(());
    }
    if meta.uid() != 0 {
        return Err(io::Error::other(format!(
            "belongs to user {}, neither to root nor to `{}`",
            meta.uid(),
            account.name
        )));
    }
    fchown(file, Some(account.uid), Some(account.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_made_private_and_links_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/deep/access.jsonl");
        assert!(prepare_file(&path, None).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let symbolic = dir.path().join("symbolic");
        std::os::unix::fs::symlink(&path, &symbolic).unwrap();
        assert!(prepare_file(&symbolic, None).is_err());
        let hard = dir.path().join("hard");
        std::fs::hard_link(&path, &hard).unwrap();
        assert!(prepare_file(&hard, None).is_err());
    }

    #[test]
    fn a_worker_gets_its_folder_but_no_one_elses() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIP: needs root to give files away");
            return;
        }
        let account = Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
        };
        let dir = tempfile::tempdir().unwrap();
        let owned = dir.path().join("gateway/access.jsonl");
        assert!(prepare_file(&owned, Some(&account)).unwrap());
        assert_eq!(std::fs::metadata(&owned).unwrap().uid(), 65534);
        assert_eq!(
            std::fs::metadata(owned.parent().unwrap()).unwrap().uid(),
            65534
        );

        let shared = dir.path().join("access.jsonl");
        assert!(!prepare_file(&shared, Some(&account)).unwrap());
        assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), 0);

        let foreign = dir.path().join("foreign");
        std::fs::write(&foreign, "").unwrap();
        chown(&foreign, Some(12345), None).unwrap();
        assert!(prepare_file(&foreign, Some(&account)).is_err());
    }
}
