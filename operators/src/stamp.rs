//! What tells one state of a file from another: by it readers know that they still read the file that was opened.
//!
//! The system tells times of change in steps of some milliseconds at worst: a change within the step in which the file
//! was opened goes unseen if it leaves the size as it is.

use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Bytes at either end by which a file that was appended to is told from one that was written anew.
const END_BYTES: u64 = 4096;

/// A state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    device: u64,
    inode: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    pub(crate) fn of(about: &Metadata) -> Self {
        Self {
            size: about.len(),
            device: about.dev(),
            inode: about.ino(),
            seconds: about.mtime(),
            nanos: about.mtime_nsec(),
        }
    }
}

/// A state of a file that may be appended to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning {
    stamp: Stamp,
    /// Of its first and last bytes.
    ends: u64,
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// What was there is there.
    Kept,
    /// It is not as long any more.
    Shrunk { size: u64 },
    /// It is another one, or was written to otherwise than at its end.
    Changed,
}

impl Beginning {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let stamp = Stamp::of(&file.metadata()?);
        Ok(Self { stamp, ends: ends(file, stamp.size)? })
    }

    pub(crate) fn size(&self) -> u64 {
        self.stamp.size
    }

    /// What became of it by now, where `file` is a handle of it.
    pub(crate) fn since(&self, file: &File) -> io::Result<Since> {
        let now = Stamp::of(&file.metadata()?);
        if now == self.stamp {
            return Ok(Since::Kept);
        }
        if (now.device, now.inode) == (self.stamp.device, self.stamp.inode) {
            if now.size < self.stamp.size {
                return Ok(Since::Shrunk { size: now.size });
            }
            if now.size > self.stamp.size && ends(file, self.stamp.size)? == self.ends {
                return Ok(Since::Kept);
            }
        }
        Ok(Since::Changed)
    }
}

/// A hash of the first and the last bytes of what is `size` long; of nothing where the file cannot be read at any place.
fn ends(file: &File, size: u64) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut buffer = [0; END_BYTES as usize];
    let length = size.min(END_BYTES);
    for offset in [0, size - length] {
        let part = &mut buffer[..length as usize];
        match file.read_exact_at(part, offset) {
            Ok(()) => hasher.write(part),
            // A pipe, or one that has just become shorter.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotSeekable | io::ErrorKind::UnexpectedEof) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_a_file_that_is_appended_to_keeps_its_beginning() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let long = |fill: &str| fill.repeat(10_000);
        let beginning = || {
            std::fs::write(&path, long("a")).expect("written");
            // Long ago, so that any change shows.
            let times = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            File::options().write(true).open(&path).and_then(|file| file.set_times(times)).expect("set");
            Beginning::of(&File::open(&path).expect("there")).expect("read")
        };
        let since = |before: &Beginning| before.since(&File::open(&path).expect("there")).expect("read");

        let before = beginning();
        assert_eq!(since(&before), Since::Kept);
        let mut file = File::options().append(true).open(&path).expect("there");
        file.write_all(b"more").expect("written");
        assert_eq!(since(&before), Since::Kept);

        let before = beginning();
        std::fs::write(&path, long("b")).expect("written");
        assert_eq!(since(&before), Since::Changed);
        std::fs::write(&path, long("bb")).expect("written");
        assert_eq!(since(&before), Since::Changed);
        std::fs::write(&path, "a").expect("written");
        assert_eq!(since(&before), Since::Shrunk { size: 1 });

        let before = beginning();
        std::fs::rename(&path, folder.path().join("old")).expect("renamed");
        std::fs::write(&path, long("a")).expect("written");
        assert_eq!(since(&before), Since::Changed);
    }
}
