//! A file that is written beside its target and takes its name at commit.
//!
//! Until the commit the target is as it was; after an abort nothing is left. What a killed process has begun stays until the
//! next job that writes the same target: who writes a file has locked it, so one that can be locked is nobody's.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use aqueduct_runtime::sink::Receipt;
use aqueduct_runtime::{OperatorError, Result};
use parking_lot::Mutex;
use tempfile::NamedTempFile;

/// Letters that tell the temporary files of one target apart.
const RANDOM_LETTERS: usize = 6;

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
        self.sweep(&prefix);
        let file = self.locked(&prefix).map_err(|error| self.failed(error))?;
        let alive = Arc::new(());
        self.begun.lock().push((file.path().to_path_buf(), Arc::downgrade(&alive)));
        Ok(Begun { file, _alive: alive })
    }

    /// A new temporary file that no other process takes for one of a killed process.
    fn locked(&self, prefix: &str) -> std::io::Result<NamedTempFile> {
        loop {
            // As permissive as a file that is simply created: the process's mask takes away from it.
            let permissions = Permissions::from_mode(0o666);
            let mut builder = tempfile::Builder::new();
            let builder = builder.prefix(prefix).rand_bytes(RANDOM_LETTERS).permissions(permissions);
            let file = builder.tempfile_in(self.folder())?;
            match file.as_file().try_lock() {
                // Somebody who took it for a killed process's is about to remove it, or has removed it.
                Err(TryLockError::WouldBlock) => {}
                Ok(()) if file.as_file().metadata()?.nlink() == 0 => {}
                // Where there are no locks, nobody sweeps.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            }
        }
    }

    /// Removes what killed processes have begun.
    fn sweep(&self, prefix: &str) {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let letters = name.to_str().and_then(|name| name.strip_prefix(prefix));
            let ours = letters.is_some_and(|letters| {
                letters.len() == RANDOM_LETTERS && letters.bytes().all(|letter| letter.is_ascii_alphanumeric())
            });
            // Opening a pipe would wait for its other end.
            if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let path = entry.path();
            // The lock is held until the file is gone.
            let file = File::options().write(true).open(&path);
            if file.is_ok_and(|file| file.try_lock().is_ok() && std::fs::remove_file(&path).is_ok()) {
                tracing::info!(path = %path.display(), "removed what a killed process had begun to write");
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_has_begun_goes_and_what_another_job_writes_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (out, other) = (Target::new(folder.path().join("out")), Target::new(folder.path().join("out")));
        let written = out.begin(1).expect("a file");
        let names = [".out.tmp-kiLLed", ".out.tmp-notes.md", ".out2.tmp-kiLLed", ".out.tmp-folder"];
        let [killed, notes, of_another, a_folder] = names.map(|name| folder.path().join(name));
        for path in [&killed, &notes, &of_another] {
            std::fs::write(path, "half").expect("written");
        }
        std::fs::create_dir(&a_folder).expect("a folder");
        let later = other.begin(1).expect("a file");
        assert!(!killed.exists());
        for path in [&notes, &of_another, &a_folder, written.file.path(), later.file.path()] {
            assert!(path.exists(), "{}", path.display());
        }
    }
}
