//! The folder of one cluster's spill files: held by a file lock for the life of the process, removed when
//! dropped, and swept by the next start if the process was killed.
//!
//! A folder is only ever removed by who holds the lock on the file in it. A folder without that file is one
//! between two steps of its creation; it is removed only if empty, and its creator then takes another name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::SpillSpace;
use super::disk::{Disk, FileDisk};
use crate::error::{ExecutionError, OperatorError, Result};
use crate::io::Io;
use crate::memory::Account;
use crate::observe::DiskRecorder;

const PREFIX: &str = "aqueduct-spill-";
const LOCK_FILE: &str = "lock";

/// The spill folder of a cluster. Clones are the same folder; it is removed with the last of them and of
/// the spill files in it.
#[derive(Clone, Debug)]
pub struct SpillDir(pub(super) Arc<DirInner>);

#[derive(Debug)]
pub(super) struct DirInner {
    pub(super) path: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) compression: bool,
    limit_bytes: Option<u64>,
    used_bytes: AtomicU64,
    files: AtomicU64,
    /// Holds the lock until the folder is gone. `None` if the folder is nowhere but on a disk of its own.
    lock: Option<Mutex<File>>,
}

impl SpillDir {
    /// Makes a folder in `parent` (the system's folder for temporary files if `None`), after removing those
    /// that killed processes left there. All spill files together take at most `limit_bytes`.
    ///
    /// # Errors
    ///
    /// [`ExecutionError::Resource`] if the folder cannot be made or locked.
    pub fn create(
        parent: Option<&Path>,
        limit_bytes: Option<u64>,
        compression: bool,
    ) -> Result<SpillDir, ExecutionError> {
        Self::create_on(Arc::new(FileDisk), parent, limit_bytes, compression)
    }

    /// As [`SpillDir::create`], with the files on `disk`; the folder and its lock are the system's.
    ///
    /// # Errors
    ///
    /// As for [`SpillDir::create`].
    pub fn create_on(
        disk: Arc<dyn Disk>,
        parent: Option<&Path>,
        limit_bytes: Option<u64>,
        compression: bool,
    ) -> Result<SpillDir, ExecutionError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let failed = |error: io::Error| {
            ExecutionError::Resource(format!("cannot make a spill folder in {}: {error}", parent.display()))
        };
        fs::create_dir_all(&parent).map_err(failed)?;
        let (path, lock) = make_folder(&parent).map_err(failed)?;
        let inner = DirInner {
            path,
            disk,
            compression,
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            lock: Some(Mutex::new(lock)),
        };
        sweep(&parent, &inner.path);
        if on_tmpfs(&inner.path) {
            tracing::warn!(
                folder = %inner.path.display(),
                "spill files would be kept in memory: the spill folder is on tmpfs; set `spill_dir` to a folder on a disk"
            );
        }
        Ok(Self(Arc::new(inner)))
    }

    /// A folder that is on `disk` alone: the system knows nothing of it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn nowhere(disk: Arc<dyn Disk>, limit_bytes: Option<u64>, compression: bool) -> SpillDir {
        let (path, used_bytes, files) = (PathBuf::from("spill"), AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(DirInner { path, disk, compression, limit_bytes, used_bytes, files, lock: None }))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Bytes of all spill files in it, those included that are still to be written.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Relaxed)
    }

    /// The space of one job on one worker: files are written and read on the threads of `io`, and frames
    /// that wait for that are charged to `workspace`.
    pub fn space(&self, io: Io, workspace: Account) -> SpillSpace {
        SpillSpace::new(self.clone(), io, workspace, None)
    }

    /// As [`SpillDir::space`], and what the threads do is recorded on request.
    pub(crate) fn recorded_space(&self, io: Io, workspace: Account, recorder: Option<DiskRecorder>) -> SpillSpace {
        SpillSpace::new(self.clone(), io, workspace, recorder)
    }

    /// A path for a new file. Letters, digits and dashes of `label` are kept for whoever looks into the folder.
    pub(super) fn file_path(&self, label: &str) -> PathBuf {
        let label: String = label.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.0.path.join(format!("{}-{label}.arrows", self.0.files.fetch_add(1, Relaxed)))
    }

    /// Makes the folder anew after somebody has removed it, such as a cleaner of temporary files. `false` if it is there.
    ///
    /// # Errors
    ///
    /// What the system says; also if something of another user stands in its place.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let DirInner { path, lock: Some(lock), .. } = &*self.0 else { return Ok(false) };
        let lock_path = path.join(LOCK_FILE);
        let mut lock = lock.lock();
        if is_at(&lock, &lock_path) {
            return Ok(false);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(path)?;
                if !found.is_dir() || found.uid() != lock.metadata()?.uid() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        // Whoever sweeps between the two steps removes an empty folder: that is this call's error.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(lock_path)?;
        made.try_lock()?;
        *lock = made;
        tracing::warn!(folder = %path.display(), "the spill folder was removed by somebody and is made anew");
        Ok(true)
    }

    /// Counts `bytes` as used.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        let limit_bytes = self.0.limit_bytes.unwrap_or(u64::MAX);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
        match self.0.used_bytes.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used_bytes) => Err(OperatorError::SpillLimit { needed_bytes: bytes, used_bytes, limit_bytes }),
        }
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.0.used_bytes.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for DirInner {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = remove_folder(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.path.display(), %error, "the spill folder could not be removed");
        }
    }
}

/// Makes and locks a folder with a name that nobody has.
fn make_folder(parent: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let path = parent.join(format!("{PREFIX}{:016x}", RandomState::new().hash_one(std::process::id())));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        let lock_path = path.join(LOCK_FILE);
        let lock = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock_path) {
            Ok(lock) => lock,
            // Swept before it had its lock file: another name.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                let _ = fs::remove_dir(&path);
                return Err(error);
            }
        };
        match lock.try_lock() {
            Ok(()) if is_at(&lock, &lock_path) => return Ok((path, lock)),
            // A sweeper was faster: the folder is its own now.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                let _ = remove_folder(&path);
                return Err(error);
            }
        }
    }
}

/// Removes the folders beside `own` whose processes are gone. What cannot be removed is left.
fn sweep(parent: &Path, own: &Path) {
    let Ok(user) = fs::metadata(own).map(|own| own.uid()) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && path != own
            && fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == user);
        if !ours {
            continue;
        }
        let lock_path = path.join(LOCK_FILE);
        // Neither a link nor a pipe that someone left there may lead or hold us anywhere.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        match OpenOptions::new().read(true).custom_flags(flags).open(&lock_path) {
            Ok(lock) => {
                let is_file = lock.metadata().is_ok_and(|found| found.is_file());
                if is_file && lock.try_lock().is_ok() && is_at(&lock, &lock_path) {
                    match remove_folder(&path) {
                        Ok(()) => tracing::info!(folder = %path.display(), "removed a spill folder left behind"),
                        Err(error) => {
                            tracing::warn!(folder = %path.display(), %error, "cannot remove a spill folder left behind")
                        }
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let _ = fs::remove_dir(&path);
            }
            Err(_) => {}
        }
    }
}

/// Whether `file` is what `path` names now.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

/// Removes a folder whose lock is held, the lock file last, so that a removal cut short is swept later.
fn remove_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(path.join(LOCK_FILE))?;
    fs::remove_dir(path)
}

#[cfg(target_os = "linux")]
fn on_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn on_tmpfs(_path: &Path) -> bool {
    false
}
