//! What spilling needs of a disk, so that a simulator can put its own in place of the real one.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Where spill files are created and removed.
pub trait Disk: Debug + Send + Sync {
    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file. Handles that are open stay usable.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// An open file, written and read at offsets by several threads.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// What the system says, such as `StorageFull`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends before, else what the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The file system of this machine. Files are readable by their owner alone.
#[derive(Debug, Clone, Copy)]
pub struct FileDisk;

impl Disk for FileDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }
}
