//! Reads the config and every file it names with the warden's rights, and compiles it before the worker sees it.

use super::channel::{Bundle, TO_WORKER_BYTES_MAX};
use crate::config::{Ids, Snapshot};
use crate::diagnose::{Diagnostic, Disk};
use std::path::Path;

/// A config that compiled.
pub struct Loaded {
    pub bundle: Bundle,
    pub snapshot: Snapshot,
    pub warnings: Vec<Diagnostic>,
}

/// Paths in the config are relative to its folder. `Err` holds everything wrong at once.
pub fn load(config: &Path) -> Result<Loaded, Vec<Diagnostic>> {
    let text = std::fs::read_to_string(config).map_err(|e| {
        vec![Diagnostic {
            path: config.display().to_string(),
            reason: format!("cannot read the config: {e}"),
            hint: "name it with --config FILE".into(),
        }]
    })?;
    let folder = match config.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let disk = Disk::new(folder);
    let compiled = crate::config::compile(&text, &disk, &mut Ids::default())?;
    let bundle = Bundle {
        text,
        files: disk.into_files(),
    };
    let bytes: usize = bundle.files.0.values().map(|content| content.len()).sum();
    if bytes + bundle.text.len() > TO_WORKER_BYTES_MAX / 2 {
        return Err(vec![Diagnostic {
            path: "(top level)".into(),
            reason: format!("the config and its files are {bytes} bytes, more than 512 MiB"),
            hint: "split or shorten the files it names".into(),
        }]);
    }
    Ok(Loaded {
        bundle,
        snapshot: compiled.snapshot,
        warnings: compiled.warnings,
    })
}

/// All errors as an operator reads them.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&format!("  {diagnostic}\n"));
    }
    out
}
