//! Makes the places the worker writes to, and gives them to the worker's user. What lies in a folder of the
//! worker's is the worker's to arrange, so nothing here trusts a name: folders are walked by descriptor, links that
//! the worker could have made are refused, and rights are changed on what is open.

use crate::privilege::Account;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path};

/// The folders that the service manager made for this unit's logs, as root and for root.
const LOGS_DIRECTORY: &str = "LOGS_DIRECTORY";

/// Creates `path` (mode 0600) and the folder it stands in, owned by `account` where one is given. A folder that
/// exists already keeps its owner. `Ok(false)`: the worker may not rename within that folder, so rotation fails.
pub fn prepare_file(path: &Path, account: Option<&Account>) -> io::Result<bool> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let (folder, rotates) = open_folder(path.parent().unwrap_or(Path::new("")), account)?;
    // Without O_NONBLOCK a planted FIFO would be waited for; with it, opening one fails.
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_CLOEXEC;
    let file = match openat(&folder, name, flags, Mode::from_bits_truncate(0o600)) {
        Ok(file) => File::from(file),
        Err(Errno::ELOOP | Errno::ENXIO) => return Err(not_plain()),
        Err(error) => return Err(error.into()),
    };
    give(&file, account)?;
    Ok(rotates)
}

/// Creates the folder, and those above it, where missing. Whether it is the worker's.
pub fn prepare_folder(folder: &Path, account: Option<&Account>) -> io::Result<bool> {
    open_folder(folder, account).map(|(_, owned)| owned)
}

/// The folder, opened as a place only, and whether it is the worker's.
fn open_folder(folder: &Path, account: Option<&Account>) -> io::Result<(OwnedFd, bool)> {
    let (opened, created) = walk(folder)?;
    let Some(account) = account else {
        return Ok((opened, true));
    };
    let stat = fstat(&opened)?;
    if created || (stat.st_uid == 0 && is_handed_over(folder)) {
        // Ownership is changed through a descriptor that is open in earnest, of the very same folder.
        let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let earnest = openat(&opened, ".", open, Mode::empty())?;
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        fchown(&earnest, Some(uid), Some(gid))?;
        return Ok((opened, true));
    }
    Ok((opened, stat.st_uid == account.uid))
}

fn is_handed_over(folder: &Path) -> bool {
    let given = std::env::var_os(LOGS_DIRECTORY).unwrap_or_default();
    std::env::split_paths(&given).any(|given| given.is_absolute() && given == folder)
}

/// Opens folder by folder, and makes what is missing. Whether the last one was made.
fn walk(folder: &Path) -> io::Result<(OwnedFd, bool)> {
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let start = if folder.is_absolute() { "/" } else { "." };
    let mut at = nix::fcntl::open(start, place, Mode::empty())?;
    let mut created = false;
    let mut names = folder.components().peekable();
    while let Some(component) = names.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => OsStr::new(".."),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        created = false;
        let closed = place | OFlag::O_NOFOLLOW;
        at = match openat(&at, name, closed, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::ENOENT) => {
                created = true;
                make(&at, name, names.peek().is_none())?
            }
            Err(Errno::ELOOP | Errno::ENOTDIR) if is_administrators_link(&at, name)? => {
                openat(&at, name, place, Mode::empty())?
            }
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                let reason = format!(
                    "{} in {} is no folder, or a link that root did not make: name the real folder",
                    name.display(),
                    folder.display()
                );
                return Err(io::Error::other(reason));
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok((at, created))
}

/// The last folder is private; those above it must let the worker pass, whatever the umask.
fn make(at: &OwnedFd, name: &OsStr, last: bool) -> io::Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(if last { 0o750 } else { 0o755 });
    mkdirat(at, name, mode)?;
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(at, name, open, Mode::empty())?;
    fchmod(&made, mode)?;
    Ok(made)
}

/// A symbolic link made by root, or by the user this process is, in a folder where nobody else can swap it.
fn is_administrators_link(at: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let ours = |uid: u32| uid == 0 || uid == Uid::effective().as_raw();
    let link = fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let is_link = SFlag::from_bits_truncate(link.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFLNK;
    Ok(is_link && ours(link.st_uid) && ours(fstat(at)?.st_uid))
}

/// The folder may be the worker's own, so a name in it proves nothing: a file with a second name elsewhere, or
/// one that belongs to a third user, is not given away.
fn give(file: &File, account: Option<&Account>) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(not_plain());
    }
    if let Some(account) = account
        && meta.uid() != 0
        && meta.uid() != account.uid
    {
        return Err(io::Error::other(format!(
            "belongs to user {}, neither to root nor to `{}`",
            meta.uid(),
            account.name
        )));
    }
    let me = Uid::effective();
    if meta.permissions().mode() & 0o7777 != 0o600 && (me.is_root() || meta.uid() == me.as_raw()) {
        fchmod(file.as_fd(), Mode::from_bits_truncate(0o600))?;
    }
    match account {
        Some(account) if meta.uid() != account.uid => {
            let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
            Ok(fchown(file.as_fd(), Some(uid), Some(gid))?)
        }
        _ => Ok(()),
    }
}

fn not_plain() -> io::Error {
    io::Error::other("is not a plain file with one name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;
    use std::os::unix::fs::{chown, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_made_private_and_links_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/deep/access.jsonl");
        assert!(prepare_file(&path, None).unwrap());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&dir.path().join("log")), 0o755);
        assert_eq!(mode(&dir.path().join("log/deep")), 0o750);

        let symbolic = dir.path().join("symbolic");
        symlink(&path, &symbolic).unwrap();
        assert!(prepare_file(&symbolic, None).is_err());
        let hard = dir.path().join("hard");
        std::fs::hard_link(&path, &hard).unwrap();
        assert!(prepare_file(&hard, None).is_err());
        std::fs::remove_file(&hard).unwrap();

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        prepare_file(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600, "an old file is tightened");
    }

    #[test]
    fn a_planted_fifo_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("access.jsonl");
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(prepare_file(&fifo, None).is_err());
        // With a reader it can be opened, and is refused for what it is.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let _reader = nix::fcntl::open(&fifo, flags, Mode::empty()).unwrap();
        assert!(prepare_file(&fifo, None).is_err());
    }

    fn nobody() -> Option<Account> {
        if !Uid::effective().is_root() {
            eprintln!("SKIP: needs root to give files away");
            return None;
        }
        Some(Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
        })
    }

    fn owner(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn a_worker_gets_its_folder_but_no_one_elses() {
        let Some(account) = nobody() else { return };
        let dir = tempfile::tempdir().unwrap();
        let owned = dir.path().join("gateway/access.jsonl");
        assert!(prepare_file(&owned, Some(&account)).unwrap());
        assert_eq!(owner(&owned), 65534);
        assert_eq!(owner(owned.parent().unwrap()), 65534);

        let shared = dir.path().join("access.jsonl");
        assert!(!prepare_file(&shared, Some(&account)).unwrap());
        assert_eq!(owner(dir.path()), 0);

        let foreign = dir.path().join("foreign");
        std::fs::write(&foreign, "").unwrap();
        chown(&foreign, Some(12345), None).unwrap();
        assert!(prepare_file(&foreign, Some(&account)).is_err());
    }

    #[test]
    fn links_to_folders_are_followed_only_where_the_worker_could_not_make_them() {
        let Some(account) = nobody() else { return };
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        symlink(&real, dir.path().join("by-root")).unwrap();
        prepare_file(&dir.path().join("by-root/a"), Some(&account)).unwrap();
        assert_eq!(owner(&real), 0, "what exists keeps its owner");

        symlink(&real, dir.path().join("by-worker")).unwrap();
        std::os::unix::fs::lchown(dir.path().join("by-worker"), Some(65534), None).unwrap();
        assert!(prepare_file(&dir.path().join("by-worker/b"), Some(&account)).is_err());

        let workers = dir.path().join("workers");
        prepare_folder(&workers, Some(&account)).unwrap();
        symlink(&real, workers.join("link")).unwrap();
        assert!(prepare_file(&workers.join("link/c"), Some(&account)).is_err());
        assert!(prepare_file(&workers.join("link/new/d"), Some(&account)).is_err());
        let made: Vec<_> = std::fs::read_dir(&real).unwrap().flatten().collect();
        assert_eq!(made.len(), 1, "{made:?}");
    }
}
