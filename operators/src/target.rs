//! A file that is written beside its target and takes its name at commit.
//!
//! Until the commit the target is as it was; after an abort nothing is left.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use aqueduct_runtime::sink::Receipt;
use aqueduct_runtime::{OperatorError, Result};
use parking_lot::Mutex;
use tempfile::NamedTempFile;

/// The file that will be there.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// Files that were begun and neither committed nor removed.
    begun: Mutex<Vec<(PathBuf, Weak<()>)>>,
}

/// A file that was begun. Removed when dropped, unless committed.
pub(crate) struct Begun {
    file: NamedTempFile,
    /// Says that somebody holds it.
    _alive: Arc<()>,
}

impl Begun {
    /// A handle to write it by.
    pub(crate) fn handle(&self) -> std::io::Result<File> {
        self.file.as_file().try_clone()
    }
}

impl Target {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), begun: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn failed(&self, error: std::io::Error) -> OperatorError {
        OperatorError::io("writing", &self.path, error)
    }

    /// Begins the temporary file.
    pub(crate) fn begin(&self, partitions: usize) -> Result<Begun> {
        if partitions > 1 {
            return Err(OperatorError::new(format!(
                "{} is one file and cannot be written by {partitions} partitions: gather them before the sink",
                self.path.display(),
            )));
        }
        let name = self.path.file_name().filter(|_| !self.path.is_dir());
        let Some(name) = name else {
            return Err(OperatorError::new(format!("{} does not name a file", self.path.display())));
        };
        let prefix = format!(".{}.tmp-", name.to_string_lossy());
        // As permissive as a file that is simply created: the process's mask takes away from it.
        let permissions = Permissions::from_mode(0o666);
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix(&prefix).permissions(permissions).tempfile_in(self.folder());
        let file = file.map_err(|error| self.failed(error))?;
        let alive = Arc::new(());
        self.begun.lock().push((file.path().to_path_buf(), Arc::downgrade(&alive)));
        Ok(Begun { file, _alive: alive })
    }

    /// Gives what was written its name. The receipts hold a [`Begun`] each.
    pub(crate) fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        for receipt in receipts {
            let begun = receipt.payload.and_then(|payload| payload.downcast::<Begun>().ok());
            let begun = begun.ok_or_else(|| OperatorError::new("a receipt is not that of a written file"))?;
            begun.file.persist(&self.path).map_err(|failed| self.failed(failed.error))?;
        }
        self.begun.lock().retain(|(_, alive)| alive.strong_count() > 0);
        // The rename is on disk once the folder is; the file is there already, so a failure is no failed job.
        if let Err(error) = File::open(self.folder()).and_then(|folder| folder.sync_all()) {
            tracing::warn!(folder = %self.folder().display(), %error, "the folder of a written file cannot be synced");
        }
        Ok(())
    }

    /// Removes what was begun and is held by nobody.
    pub(crate) fn abort(&self) {
        // Another job may write through the same spec: only what no instance and no receipt holds is removed.
        self.begun.lock().retain(|(path, alive)| {
            let held = alive.strong_count() > 0;
            if !held {
                // It is gone already where the instance was dropped in order.
                let _ = std::fs::remove_file(path);
            }
            held
        });
    }

    /// The folder that the file is in.
    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}
