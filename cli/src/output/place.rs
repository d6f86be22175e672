//! Where bytes go: standard output, or a file that has its name once it is whole and not before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use console::Term;
use parking_lot::Mutex;

use crate::failure::Failure;
use crate::output::EncodeError;

const BUFFER_BYTES: usize = 256 * 1024;

/// A place that is being written to.
pub(crate) struct Place {
    /// What errors call it.
    name: PathBuf,
    file: Option<Unfinished>,
    shared: Arc<Mutex<Inner>>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    /// Encoders wrap errors in texts of their own; this is the first one as it was.
    error: Option<io::Error>,
}

impl Place {
    /// The file at `path`, or standard output.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let (name, file, out): (_, _, Box<dyn Write + Send>) = match path {
            None => (PathBuf::from("standard output"), None, Box::new(io::stdout())),
            Some(path) => {
                let failed = |error: io::Error| Failure::io("writing", path, &error);
                // A device or a pipe is written to as it is.
                let special = fs::metadata(path).is_ok_and(|known| !known.is_file());
                if special {
                    let opened = OpenOptions::new().write(true).open(path).map_err(failed)?;
                    (path.to_owned(), None, Box::new(opened))
                } else {
                    let (unfinished, opened) = Unfinished::create(path).map_err(failed)?;
                    (path.to_owned(), Some(unfinished), Box::new(opened))
                }
            }
        };
        let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        Ok(Self { name, file, shared: Arc::new(Mutex::new(Inner { out, error: None })) })
    }

    /// Columns of the terminal, if it is one.
    pub(crate) fn width(&self) -> Option<usize> {
        let terminal = self.file.is_none() && self.name == Path::new("standard output") && io::stdout().is_terminal();
        terminal.then(|| usize::from(Term::stdout().size().1))
    }

    /// A writer to this place, for an encoder to own.
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.shared))
    }

    /// Why an encoder failed: because the place did, or for a reason of its own.
    pub(crate) fn failure(&self, error: EncodeError) -> Failure {
        match &self.shared.lock().error {
            Some(error) => Failure::io("writing", &self.name, error),
            None => Failure::format(&self.name, error),
        }
    }

    /// Everything is written: from now on the file has its name.
    pub(crate) fn commit(self) -> Result<(), Failure> {
        let written = self.shared.lock().out.flush();
        written
            .and_then(|()| self.file.map_or(Ok(()), Unfinished::commit))
            .map_err(|error| Failure::io("writing", &self.name, &error))
    }
}

/// A writer that remembers in its [`Place`] why it failed.
pub(crate) struct Writer(Arc<Mutex<Inner>>);

impl Writer {
    fn remember<T>(&self, work: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.0.lock();
        let Inner { out, error } = &mut *inner;
        work(out.as_mut()).inspect_err(|failed| {
            error.get_or_insert_with(|| io::Error::new(failed.kind(), failed.to_string()));
        })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.remember(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.remember(|out| out.flush())
    }
}

/// A file under a name of its own, which goes when it is dropped.
struct Unfinished {
    part: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Unfinished {
    fn create(path: &Path) -> io::Result<(Self, File)> {
        let name =
            path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this is no file's name"))?;
        let part = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let part = path.with_file_name(part);
        let file = OpenOptions::new().write(true).create_new(true).open(&part)?;
        Ok((Self { part, path: path.to_owned(), done: false }, file))
    }

    fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            // Nothing more can be done about a file that does not go.
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_once_it_is_whole_and_never_if_it_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.csv");
        let names = || folder.path().read_dir().expect("a folder").count();

        let place = Place::open(Some(&path)).expect("a new file");
        place.writer().write_all(b"half").expect("there is room");
        assert!(!path.exists());
        drop(place);
        assert_eq!(names(), 0);

        let place = Place::open(Some(&path)).expect("a new file");
        place.writer().write_all(b"all").expect("there is room");
        place.commit().expect("it can be renamed");
        assert_eq!((fs::read_to_string(&path).expect("a file"), names()), ("all".into(), 1));
    }
}
