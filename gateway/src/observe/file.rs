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
    make_room(path, keep)?;
    ignore_missing(fs::rename(path, beside(path, ".1")))
}

/// Frees `FILE.1`, by which the live file will go. May be called again, and stopped midway: nothing moves beyond the
/// first free place.
pub fn make_room(path: &Path, keep: u32) -> io::Result<()> {
    let place = |n: u32| beside(path, &format!(".{n}"));
    let is_free = |n: &u32| fs::symlink_metadata(place(*n)).is_err();
    let free = match (1..=keep).find(is_free) {
        Some(free) => free,
        None if keep == 0 => return Ok(()),
        None => {
            ignore_missing(fs::remove_file(place(keep)))?;
            keep
        }
    };
    for n in (1..free).rev() {
        ignore_missing(fs::rename(place(n), place(n + 1)))?;
    }
    Ok(())
}

/// At which size a log is to be rotated: its limit, and after a failure some growth later, each time more. A log that
/// cannot be rotated goes on beyond its limit, for the records are worth more than the limit.
#[derive(Debug)]
pub struct Rotation {
    bytes_max: u64,
    due_bytes: u64,
    /// 0 while it works.
    pause_bytes: u64,
}

impl Rotation {
    pub fn at(bytes_max: u64) -> Rotation {
        Rotation {
            bytes_max,
            due_bytes: bytes_max,
            pause_bytes: 0,
        }
    }

    pub fn is_due(&self, size: u64) -> bool {
        size > self.due_bytes
    }

    pub fn done(&mut self) {
        *self = Rotation::at(self.bytes_max);
    }

    /// Says so once, not at each attempt.
    pub fn failed(&mut self, size: u64, path: &Path, error: &io::Error) {
        if self.pause_bytes == 0 {
            tracing::warn!(
                log = %path.display(), %error,
                "log.rotate: the log grows beyond its size until its folder lets it be renamed"
            );
        }
        let first = (self.bytes_max / 16).max(1);
        self.pause_bytes = (self.pause_bytes * 2).clamp(first, self.bytes_max.max(first));
        self.due_bytes = size.saturating_add(self.pause_bytes);
    }
}

/// Replaces `path` as a whole: readers see the old content or the new one, never a part, and so does a restart after
/// the machine has crashed.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    ignore_missing(fs::remove_file(&temporary))?;
    let mut file = open_private(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
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
    rotation: Rotation,
    /// The last write failed midway: the next one starts on a line of its own.
    torn: bool,
}

impl LogFile {
    pub fn open(place: LogPlace) -> io::Result<LogFile> {
        let file = open_private(&place.path)?;
        let size = file.metadata()?.len();
        Ok(LogFile {
            rotation: Rotation::at(place.bytes_max),
            place,
            file,
            size,
            torn: false,
        })
    }

    /// Appends whole lines, rotating first if they would not fit.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let size = self.size + lines.len() as u64;
        if self.size > 0 && self.rotation.is_due(size) {
            match self.rotate() {
                Ok(()) => self.rotation.done(),
                Err(e) => self.rotation.failed(size, &self.place.path, &e),
            }
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
        // Not so when only the opening failed last time.
        if is_at(&self.file, &self.place.path) {
            shift(&self.place.path, self.place.keep)?;
        }
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
    fn a_log_that_cannot_be_rotated_goes_on_and_rotates_later() {
        let dir = tempfile::tempdir().unwrap();
        let p = place(dir.path(), 1);
        let mut log = LogFile::open(p.clone()).unwrap();
        // A folder stands where the old log should go.
        let blocked = beside(&p.path, ".1");
        fs::create_dir(&blocked).unwrap();
        let mut all = String::new();
        for n in 100..120 {
            log.append(format!("{n}\n").as_bytes()).unwrap();
            all += &format!("{n}\n");
        }
        assert_eq!(fs::read_to_string(&p.path).unwrap(), all);
        fs::remove_dir(&blocked).unwrap();
        let mut lines = 0;
        while !blocked.exists() {
            log.append(b"late\n").unwrap();
            lines += 1;
            assert!(lines < 10, "it is not tried again");
        }
        assert!(fs::read_to_string(&blocked).unwrap().starts_with(&all));
        assert_eq!(fs::read_to_string(&p.path).unwrap(), "late\n");
        // And the limit holds again.
        log.append(b"123456\n").unwrap();
        assert_eq!(fs::read_to_string(&p.path).unwrap(), "123456\n");
    }

    #[test]
    fn attempts_to_rotate_grow_rarer() {
        let mut rotation = Rotation::at(1600);
        let error = io::Error::other("no");
        let mut tried = Vec::new();
        for size in (0..10_000).step_by(50) {
            if rotation.is_due(size) {
                tried.push(size);
                rotation.failed(size, Path::new("a.log"), &error);
            }
        }
        assert_eq!(
            tried,
            [1650, 1800, 2050, 2500, 3350, 5000, 6650, 8300, 9950]
        );
    }

    #[test]
    fn room_is_made_up_to_the_first_free_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let at = |n: u32| beside(&path, &format!(".{n}"));
        for n in [1, 2, 4] {
            fs::write(at(n), n.to_string()).unwrap();
        }
        make_room(&path, 4).unwrap();
        make_room(&path, 4).unwrap();
        let read = |n: u32| fs::read_to_string(at(n)).unwrap_or_default();
        assert_eq!([read(1), read(2), read(3), read(4)], ["", "1", "2", "4"]);
        fs::write(at(1), "0").unwrap();
        make_room(&path, 4).unwrap();
        assert_eq!([read(1), read(2), read(3), read(4)], ["", "0", "1", "2"]);
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
