//! Config errors as data: every one found is reported, each with its path, the reason and a hint.
//! Also where config files come from, so that compiling a config touches the disk only through [`FileSource`].

mod element;

pub use element::{element, what_parses};

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// One thing wrong in the config.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Diagnostic {
    /// Where, in config terms: `routes[2].policies[0]`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)?;
        if !self.hint.is_empty() {
            write!(f, "\n    hint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Collects errors and warnings while a config is compiled; knows where it stands and where files come from.
pub struct Compiler<'a> {
    path: Vec<String>,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    files: &'a dyn FileSource,
}

impl<'a> Compiler<'a> {
    pub fn new(files: &'a dyn FileSource) -> Compiler<'a> {
        Compiler {
            path: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            files,
        }
    }

    /// Runs `f` one step deeper: `at("routes", ..)`, `at("[2]", ..)` give `routes[2]`.
    pub fn at<T>(&mut self, step: impl Into<String>, f: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.into());
        let out = f(self);
        self.path.pop();
        out
    }

    pub fn error(&mut self, reason: impl Into<String>, hint: impl Into<String>) {
        let path = self.here();
        self.errors.push(Diagnostic {
            path,
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    pub fn warn(&mut self, reason: impl Into<String>, hint: impl Into<String>) {
        let path = self.here();
        self.warnings.push(Diagnostic {
            path,
            reason: reason.into(),
            hint: hint.into(),
        });
    }

    /// Reads a file the config names; a failure becomes an error at the present path.
    pub fn read(&mut self, path: &Path) -> Option<Arc<[u8]>> {
        match self.files.read(path) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                self.error(
                    format!("cannot read {}: {e}", path.display()),
                    "the path is relative to the config file's folder; check that it exists and is readable",
                );
                None
            }
        }
    }

    fn here(&self) -> String {
        let mut out = String::new();
        for step in &self.path {
            if !out.is_empty() && !step.starts_with('[') {
                out.push('.');
            }
            out.push_str(step);
        }
        if out.is_empty() {
            "(top level)".into()
        } else {
            out
        }
    }
}

/// Where a compile reads the files that a config names.
pub trait FileSource {
    fn read(&self, path: &Path) -> io::Result<Arc<[u8]>>;
}

/// The disk, relative to the config's folder; remembers what it read, for the unprivileged half.
pub struct Disk {
    base: PathBuf,
    seen: Mutex<HashMap<PathBuf, Arc<[u8]>>>,
}

impl Disk {
    pub fn new(base: impl Into<PathBuf>) -> Disk {
        Disk {
            base: base.into(),
            seen: Mutex::default(),
        }
    }

    /// Every file read so far, by the path the config gave.
    pub fn into_files(self) -> Files {
        Files(
            self.seen
                .into_inner()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }
}

/// A config file larger than this is a mistake (or an attack on the operator), not a config.
const FILE_BYTES_MAX: u64 = 256 << 20;

impl FileSource for Disk {
    fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        let full = self.base.join(path);
        let meta = std::fs::metadata(&full)?;
        if !meta.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if meta.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("larger than 256 MiB"));
        }
        let bytes: Arc<[u8]> = std::fs::read(&full)?.into();
        if let Ok(mut seen) = self.seen.lock() {
            seen.insert(path.to_owned(), bytes.clone());
        }
        Ok(bytes)
    }
}

/// Files already in memory, by the path the config gave.
#[derive(Clone, Default, Debug)]
pub struct Files(pub HashMap<PathBuf, Arc<[u8]>>);

impl FileSource for Files {
    fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.0
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The closest of `known` to `name`, for "did you mean" hints.
pub fn did_you_mean<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|k| (edit_distance(name, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(name.len()) / 3)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_the_config() {
        let files = Files::default();
        let mut c = Compiler::new(&files);
        c.at("routes", |c| {
            c.at("[2]", |c| {
                c.at("policies", |c| c.error("no such policy", ""))
            })
        });
        c.error("nothing here", "add a listener");
        assert_eq!(c.errors[0].path, "routes[2].policies");
        assert_eq!(c.errors[1].path, "(top level)");
    }

    #[test]
    fn suggests_near_names_only() {
        assert_eq!(
            did_you_mean("partner-kyes", ["partner-keys", "roles"]),
            Some("partner-keys")
        );
        assert_eq!(did_you_mean("zzz", ["partner-keys", "roles"]), None);
    }
}
