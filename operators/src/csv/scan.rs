//! One pass over the files: hands out splits in order, and keeps what its instances share.
//!
//! Splits are cut as they are asked for, file by file. A compressed file is one split.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Outbox, Result, Scan, Source, SourceContext, SourceStep, Split};
use parking_lot::Mutex;

use super::batch::{Broken, Layout, read_record};
use super::confirm::Confirmations;
use super::error::CsvError;
use super::files::{Compression, File};
use super::plain::{Plain, describe, walk};
use super::stream::Stream;

/// The smallest split of a file that is read in full.
const MIN_SPLIT_BYTES: usize = 256 * 1024;

/// The largest split: what is parsed should not have left the caches since it was read.
const MAX_SPLIT_BYTES: usize = 1024 * 1024;

/// The first split where little is to be read, such as for `head`.
const SMALL_SPLIT_BYTES: usize = 64 * 1024;

/// Bytes of a split.
pub(crate) fn split_bytes(batch_bytes: usize) -> usize {
    (2 * batch_bytes).clamp(MIN_SPLIT_BYTES, MAX_SPLIT_BYTES)
}

/// What the instances of one scan share.
pub(crate) struct Shared {
    pub(crate) files: Arc<Vec<File>>,
    pub(crate) layout: Arc<Layout>,
    /// The first file's header, if files have one.
    pub(crate) header: Option<Arc<Vec<String>>>,
    pub(crate) split_bytes: usize,
    /// Bytes behind a split that are read with it.
    pub(crate) tail_bytes: usize,
    pub(crate) confirmations: Confirmations,
    /// The file that was opened last: consecutive reads through one handle are read ahead by the system.
    open: Mutex<Option<(usize, Arc<std::fs::File>)>>,
}

impl Shared {
    pub(crate) fn new(
        files: Arc<Vec<File>>,
        layout: Arc<Layout>,
        header: Option<Arc<Vec<String>>>,
        split_bytes: usize,
        tail_bytes: usize,
    ) -> Self {
        let (confirmations, open) = (Confirmations::default(), Mutex::default());
        Self { files, layout, header, split_bytes, tail_bytes, confirmations, open }
    }

    fn handle(&self, file: usize) -> Result<Arc<std::fs::File>> {
        let mut open = self.open.lock();
        if let Some((_, handle)) = open.as_ref().filter(|(index, _)| *index == file) {
            return Ok(Arc::clone(handle));
        }
        let path = &self.files[file].path;
        let handle = std::fs::File::open(path).map_err(|error| OperatorError::io("reading", path, error))?;
        let handle = Arc::new(handle);
        *open = Some((file, Arc::clone(&handle)));
        Ok(handle)
    }

    /// Fills `buffer` from `offset` of a plain file.
    pub(crate) fn read_at(&self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let handle = self.handle(file)?;
        let path = &self.files[file].path;
        handle.read_exact_at(buffer, offset).map_err(|error| {
            if error.kind() != std::io::ErrorKind::UnexpectedEof {
                return OperatorError::io("reading", path, error);
            }
            let at = handle.metadata().map_or(offset, |metadata| metadata.len());
            CsvError::Shrunk { file: path.clone(), at, expected: self.files[file].size }.into()
        })?;
        self.files[file].check(&handle)
    }

    /// Finds the first record start at or behind `bound` in a file, from a record start before it.
    pub(crate) fn walk(&self, file: usize, from: u64, bound: u64) -> Result<u64> {
        walk(self, file, from, bound)
    }
}

/// Compares the header that begins at `from` with the first file's. Gives where the first record behind it
/// begins, `None` if it is not complete; or what is broken, or the error.
pub(crate) fn check_header(
    shared: &Shared,
    file: usize,
    bytes: &[u8],
    from: usize,
    limit: usize,
    eof: bool,
) -> Result<Option<usize>, std::result::Result<Broken, OperatorError>> {
    let Some((found, next)) = read_record(shared.layout.dialect, bytes, from, limit, eof).map_err(Ok)? else {
        return Ok(None);
    };
    let expected = shared.header.as_deref().map(Vec::as_slice).unwrap_or_default();
    if found.is_empty() || found == expected {
        return Ok(Some(next));
    }
    let error = CsvError::Header {
        file: shared.files[file].path.clone(),
        first: shared.files[0].path.clone(),
        expected: expected.to_vec(),
        found,
    };
    Err(Err(error.into()))
}

/// The bytes of one split, as they travel in [`Split::payload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitRange {
    pub(crate) index: u64,
    pub(crate) file: usize,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// No split of the file follows.
    pub(crate) last: bool,
}

impl SplitRange {
    fn encode(self) -> Vec<u8> {
        let words = [self.file as u64, self.begin, self.end, u64::from(self.last)];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn decode(split: &Split) -> Result<Self> {
        let foreign = || OperatorError::new(format!("`{}` is not a split of this CSV source", split.description));
        let words: [[u8; 8]; 4] = split.payload.as_chunks().0.try_into().map_err(|_| foreign())?;
        let [file, begin, end, last] = words.map(u64::from_le_bytes);
        let file = usize::try_from(file).map_err(|_| foreign())?;
        Ok(Self { index: split.index, file, begin, end, last: last != 0 })
    }
}

/// Where the next split begins.
#[derive(Debug, Default)]
struct Cursor {
    index: u64,
    file: usize,
    offset: u64,
}

/// One job's pass over the files of a source.
pub(crate) struct CsvScan {
    shared: Arc<Shared>,
    cursor: Mutex<Cursor>,
    /// Splits begin small and double, once for all of so many readers.
    small: Option<usize>,
}

impl CsvScan {
    pub(crate) fn new(shared: Shared, small: Option<usize>) -> Self {
        Self { shared: Arc::new(shared), cursor: Mutex::default(), small }
    }

    /// What the instances share.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn length(&self, index: u64) -> u64 {
        let full = self.shared.split_bytes as u64;
        let Some(readers) = self.small else { return full };
        let round = u32::try_from(index / readers.max(1) as u64).unwrap_or(32).min(32);
        (SMALL_SPLIT_BYTES as u64).checked_shl(round).unwrap_or(full).min(full)
    }
}

impl Scan for CsvScan {
    fn next_split(&self) -> Result<Option<Split>> {
        let mut cursor = self.cursor.lock();
        let (file, size) = loop {
            let Some(file) = self.shared.files.get(cursor.file) else { return Ok(None) };
            if cursor.offset < file.size {
                break (file, file.size);
            }
            cursor.file += 1;
            cursor.offset = 0;
        };
        let begin = cursor.offset;
        let end = match file.compression {
            Compression::None => size.min(begin + self.length(cursor.index)),
            _ => size,
        };
        let range = SplitRange { index: cursor.index, file: cursor.file, begin, end, last: end == size };
        cursor.index += 1;
        cursor.offset = end;
        Ok(Some(Split {
            index: range.index,
            description: describe(&file.path, begin, end),
            bytes: end - begin,
            payload: range.encode(),
        }))
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(Instance { shared: Arc::clone(&self.shared), context, plain: None, stream: None, streams: false }))
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.shared.files.iter().map(|file| file.size).sum())
    }
}

/// One partition: a reader for each kind of file it has met.
struct Instance {
    shared: Arc<Shared>,
    context: SourceContext,
    plain: Option<Plain>,
    stream: Option<Stream>,
    /// The current split is a compressed file.
    streams: bool,
}

impl Source for Instance {
    fn start(&mut self, split: &Split) -> Result<()> {
        let range = SplitRange::decode(split)?;
        let file = self.shared.files.get(range.file);
        let file = file.ok_or_else(|| OperatorError::new(format!("`{}` is of another source", split.description)))?;
        self.streams = file.compression != Compression::None;
        // Only one of the two has its buffers at a time.
        if self.streams {
            self.plain = None;
            let stream = match self.stream.take() {
                Some(stream) => stream,
                None => Stream::open(Arc::clone(&self.shared), self.context.clone())?,
            };
            self.stream.insert(stream).start(split)
        } else {
            self.stream = None;
            let plain = match self.plain.take() {
                Some(plain) => plain,
                None => Plain::open(Arc::clone(&self.shared), self.context.clone())?,
            };
            self.plain.insert(plain).start(split)
        }
    }

    fn step_bytes(&self, budget_bytes: usize) -> usize {
        match (&self.plain, &self.stream) {
            (Some(plain), _) if !self.streams => plain.step_bytes(budget_bytes),
            (_, Some(stream)) if self.streams => stream.step_bytes(budget_bytes),
            _ => 2 * budget_bytes,
        }
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        match (&mut self.plain, &mut self.stream) {
            (Some(plain), _) if !self.streams => plain.read(budget_bytes, out),
            (_, Some(stream)) if self.streams => stream.read(budget_bytes, out),
            _ => Ok(SourceStep::Done),
        }
    }
}
