//! Log files on disk: opened private, rotated by renaming `FILE` to `FILE.1`, `FILE.1` to `FILE.2` and so on.
//! Used only by the log threads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use crate::config::observe::LogPlace;

/// Opens for appending with mode 0600; never follows a planted symbolic link.
pub fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

/// Makes the folder of `path`, mode 0700, if it is missing. For the privileged parent, which then gives it to the
/// worker's user: logs are opened and rotated by the worker.
pub fn ensure_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// `FILE` with `suffix` behind its whole name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes room at `path`: the oldest kept file goes, each other moves up by one. With `keep` 0 the live file goes.
pub fn shift(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return ignore_missing(fs::remove_file(path));
    }
    for n in (1..keep).rev() {
        let older = beside(path, &format!(".{}", n + 1));
        ignore_missing(fs::rename(beside(path, &format!(".{n}")), older))?;
    }
    ignore_missing(fs::rename(path, beside(path, ".1")))
}

/// Replaces `path` as a whole: readers see the old content or the new one, never a part.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    ignore_missing(fs::remove_file(&temporary))?;
    let mut file = open_private(&temporary)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&temporary, path)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A live log file of whole lines.
#[derive(Debug)]
pub struct LogFile {
    place: LogPlace,
    file: File,
    size: u64,
    /// The last write failed midway: the next one starts on a line of its own.
    torn: bool,
}

impl LogFile {
    pub fn open(place: LogPlace) -> io::Result<LogFile> {
        let file = open_private(&place.path)?;
        let size = file.metadata()?.len();
        Ok(LogFile {
            place,
            file,
            size,
            torn: false,
        })
    }

    /// Appends whole lines, rotating first if they would not fit.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.place.bytes_max {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            self.size += 1;
            self.torn = false;
        }
        let written = self.file.write_all(lines);
        match written {
            Ok(()) => self.size += lines.len() as u64,
            Err(_) => {
                self.torn = true;
                self.size = self.file.metadata().map_or(self.size, |m| m.len());
            }
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        shift(&self.place.path, self.place.keep)?;
        self.reopen()
    }

    /// Follows the path again, for when somebody moved the file away.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open_private(&self.place.path)?;
        self.size = self.file.metadata()?.len();
        self.torn = false;
        Ok(())
    }
}

/// Whether `path` still is the file behind `file`.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(dir: &Path, keep: u32) -> LogPlace {
        LogPlace {
            path: dir.join("a.log"),
            bytes_max: 10,
            keep,
        }
    }

    #[test]
    fn rotates_before_it_grows_beyond_the_limit_and_keeps_n() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(place(dir.path(), 2)).unwrap();
        for line in ["1234\n", "5678\n", "one\n", "two\n", "3456789012\n", "x\n"] {
            log.append(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name));
        assert_eq!(read("a.log").unwrap(), "x\n");
        assert_eq!(read("a.log.1").unwrap(), "3456789012\n"); // longer than the limit: a file of its own
        assert_eq!(read("a.log.2").unwrap(), "one\ntwo\n");
        assert!(read("a.log.3").is_err());
    }

    #[test]
    fn is_private_and_refuses_links() {
        let dir = tempfile::tempdir().unwrap();
        let p = place(dir.path(), 1);
        let deep = dir.path().join("log/gateway/a.log");
        ensure_folder(&deep).unwrap();
        ensure_folder(&deep).unwrap();
        let folder = fs::metadata(deep.parent().unwrap()).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);
        LogFile::open(p.clone()).unwrap();
        let mode = fs::metadata(&p.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::fs::symlink(&p.path, dir.path().join("link")).unwrap();
        assert!(open_private(&dir.path().join("link")).is_err());
    }

    #[test]
    fn reopen_follows_a_moved_file() {
        let dir = tempfile::tempdir().unwrap();
        let p = place(dir.path(), 1);
        let mut log = LogFile::open(p.clone()).unwrap();
        log.append(b"old\n").unwrap();
        fs::rename(&p.path, dir.path().join("moved")).unwrap();
        assert!(!is_at(&log.file, &p.path));
        log.reopen().unwrap();
        log.append(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&p.path).unwrap(), "new\n");
        assert!(is_at(&log.file, &p.path));
    }
}
