//! One spill file: batches appended in order, read in any order, by whichever I/O thread is free.
//!
//! A frame can be read from the moment that it was appended: it stays in memory until it is on disk, and
//! whoever fetches it meanwhile gets it from there. Writes go to offsets that were given out by `append`, so
//! their order does not matter. Once a write has failed the file is broken and says so at every call.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::disk::DiskFile;
use super::{SpillSpace, frame, repeat};
use crate::batch::batch_bytes;
use crate::error::{OperatorError, Result, panic_message};
use crate::failpoint::{self, Point};
use crate::io::{Pending, Ticket};
use crate::observe::DiskWork;
use crate::planted::{Bug, is_planted};
use crate::sync::Mutex;

/// Batches on disk, written in order, read in any order. Removed from the disk when dropped.
#[derive(Debug)]
pub struct SpillFile {
    inner: Arc<FileInner>,
    bytes: u64,
}

#[derive(Debug)]
struct FileInner {
    space: SpillSpace,
    schema: SchemaRef,
    path: PathBuf,
    handle: Mutex<Handle>,
    state: Mutex<FileState>,
}

#[derive(Debug)]
enum Handle {
    /// The first write creates the file.
    Absent,
    Open(Arc<dyn DiskFile>),
    /// The [`SpillFile`] was dropped.
    Removed,
}

#[derive(Debug, Default)]
struct FileState {
    /// Frames that are not on disk yet, by offset.
    queued: HashMap<u64, Arc<QueuedFrame>>,
    /// The first write that failed.
    error: Option<OperatorError>,
}

/// A frame in memory, charged to the workspace until it is dropped.
#[derive(Debug)]
struct QueuedFrame {
    bytes: Buffer,
    charged_bytes: usize,
    /// Whether it waits for an I/O thread.
    queued: bool,
    space: SpillSpace,
}

impl Drop for QueuedFrame {
    fn drop(&mut self) {
        self.bytes = Buffer::default();
        self.space.unqueue(self.charged_bytes, self.queued);
    }
}

/// Where one batch is in its [`SpillFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpilledBatch {
    /// Offset of its frame in the file.
    pub offset: u64,
    /// Bytes of its frame on disk.
    pub length: u64,
    /// Rows in it.
    pub rows: usize,
    /// Bytes that its rows need in memory (`batch_bytes`).
    pub memory_bytes: usize,
}

impl SpillFile {
    pub(super) fn new(space: SpillSpace, path: PathBuf, schema: SchemaRef) -> Self {
        let handle = Mutex::new(Handle::Absent);
        Self { inner: Arc::new(FileInner { space, schema, path, handle, state: Mutex::default() }), bytes: 0 }
    }

    /// Encodes `batch` now and hands the frame to an I/O thread, or writes it where too many wait for one already.
    /// A failed write is reported by this call, the next one on this file, or the task.
    ///
    /// # Errors
    ///
    /// [`OperatorError::SpillLimit`] if the folder is full; then nothing was appended. What went wrong with
    /// an earlier write. [`OperatorError::Arrow`] if the batch does not fit the file's schema.
    pub fn append(&mut self, batch: &RecordBatch) -> Result<SpilledBatch> {
        self.check()?;
        let inner = &self.inner;
        check_columns(batch, &inner.schema)?;
        let bytes = frame::encode(batch, &inner.schema, inner.space.compression())?;
        let (length, charged_bytes) = (bytes.len() as u64, bytes.capacity());
        inner.space.take(length)?;
        let queued = inner.space.queue(charged_bytes);
        let frame = QueuedFrame { bytes: Buffer::from_vec(bytes), charged_bytes, queued, space: inner.space.clone() };
        let frame = Arc::new(frame);
        let offset = self.bytes;
        self.bytes += length;
        if queued {
            inner.state.lock().queued.insert(offset, frame);
            let file = Arc::clone(inner);
            inner.space.io().submit(move || file.write(offset));
        } else {
            inner.write_frame(&frame, offset)?;
        }
        Ok(SpilledBatch { offset, length, rows: batch.num_rows(), memory_bytes: batch_bytes(batch) })
    }

    /// Starts to read one batch back. Not accounted: reserve [`SpillFile::fetch_bytes`] first.
    pub fn fetch(&self, batch: SpilledBatch) -> Fetch {
        let file = Arc::clone(&self.inner);
        let pending = self.inner.space.io().run(super::READING, move || file.read(batch));
        Fetch { pending, path: self.inner.path.clone() }
    }

    /// Bytes that reading `batch` needs at its peak: the frame and the batch.
    pub fn fetch_bytes(&self, batch: SpilledBatch) -> usize {
        let stream = frame::frame_bytes(batch.memory_bytes, &self.inner.schema);
        let compressed = if self.inner.space.compression() { stream } else { 0 };
        batch.memory_bytes + compressed + batch.length as usize
    }

    /// Reads one batch back and blocks until it is there. For tests and tools, never in a step.
    ///
    /// # Errors
    ///
    /// As for [`Fetch::poll`].
    pub fn fetch_blocking(&self, batch: SpilledBatch) -> Result<RecordBatch> {
        let mut fetch = self.fetch(batch);
        loop {
            match fetch.poll()? {
                Fetched::Ready(batch) => return Ok(batch),
                Fetched::Blocked(ticket) => ticket.wait(),
            }
        }
    }

    /// The error of the first write that failed.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn check(&self) -> Result<()> {
        self.inner.state.lock().error.as_ref().map_or(Ok(()), |error| Err(repeat(error)))
    }

    /// The same file as one of `space`, in the same folder: it stays when the job that wrote it is over. All of it must
    /// be on disk, see [`SpillSpace::flush_blocking`].
    ///
    /// # Errors
    ///
    /// What went wrong with a write, or that there are still some to come; the file is gone then.
    pub fn moved_to(mut self, space: &SpillSpace) -> Result<SpillFile> {
        self.check()?;
        let inner = &self.inner;
        if !inner.state.lock().queued.is_empty() {
            return Err(OperatorError::new("a spill file was moved before all of it was written"));
        }
        let handle = std::mem::replace(&mut *inner.handle.lock(), Handle::Removed);
        // The folder counts its bytes once, whichever space they are in.
        let bytes = std::mem::take(&mut self.bytes);
        inner.space.inner.live_bytes.fetch_sub(bytes, Relaxed);
        space.inner.live_bytes.fetch_add(bytes, Relaxed);
        let moved = FileInner {
            space: space.clone(),
            schema: Arc::clone(&inner.schema),
            path: inner.path.clone(),
            handle: Mutex::new(handle),
            state: Mutex::default(),
        };
        Ok(SpillFile { inner: Arc::new(moved), bytes })
    }

    /// Bytes in the file, those included that are still to be written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Schema of the batches in it.
    pub fn schema(&self) -> &SchemaRef {
        &self.inner.schema
    }

    /// The file; it exists once the first frame is written.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        let inner = &self.inner;
        let handle = std::mem::replace(&mut *inner.handle.lock(), Handle::Removed);
        inner.state.lock().queued.clear();
        inner.space.give_back(self.bytes);
        if let Handle::Open(file) = handle {
            if let Err(error) = inner.space.disk().remove(&inner.path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %inner.path.display(), %error, "a spill file could not be removed");
            }
            // The name is gone; giving a large file's blocks back takes long, and happens at its last handle.
            inner.space.io().submit(move || drop(file));
        }
    }
}

impl FileInner {
    /// Writes the frame at `offset`, on an I/O thread.
    fn write(&self, offset: u64) {
        let frame = {
            let state = self.state.lock();
            match (&state.error, state.queued.get(&offset)) {
                (None, Some(frame)) => Some(Arc::clone(frame)),
                _ => None,
            }
        };
        let failed = match frame {
            // Else the frame would be waited for that nobody writes.
            Some(frame) => catch_unwind(AssertUnwindSafe(|| self.write_frame(&frame, offset)))
                .unwrap_or_else(|panic| Err(self.write_panicked(&*panic)))
                .err(),
            None => None,
        };
        let mut state = self.state.lock();
        let frame = state.queued.remove(&offset);
        if let Some(error) = failed {
            self.space.fail(&error);
            state.error.get_or_insert(error);
        }
        // Its drop takes the space's lock.
        drop(state);
        drop(frame);
    }

    fn write_frame(&self, frame: &QueuedFrame, offset: u64) -> Result<()> {
        let file = {
            let mut handle = self.handle.lock();
            match &*handle {
                Handle::Open(file) => Arc::clone(file),
                Handle::Removed => return Ok(()),
                Handle::Absent => {
                    let created = self.create().map_err(|error| OperatorError::io("creating", &self.path, error));
                    let file = created?;
                    *handle = Handle::Open(Arc::clone(&file));
                    file
                }
            }
        };
        let (bytes, space) = (frame.bytes.len(), &self.space);
        let _span =
            tracing::trace_span!("spill", job = space.inner.job, holder = &*space.holder, offset, bytes).entered();
        let written = space.recorded(DiskWork::Spill, bytes as u64, || {
            failpoint::check(Point::SpillWrite)?;
            file.write_at(&frame.bytes, offset)
        });
        written.map_err(|error| OperatorError::io("writing", &self.path, error))
    }

    fn create(&self) -> io::Result<Arc<dyn DiskFile>> {
        failpoint::check(Point::SpillCreate)?;
        match self.space.disk().create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.space.dir().restore()? => {
                self.space.disk().create(&self.path)
            }
            created => created,
        }
    }

    /// Reads and decodes one batch, on an I/O thread.
    fn read(&self, batch: SpilledBatch) -> Result<RecordBatch> {
        let (offset, bytes) = (batch.offset, batch.length);
        let space = &self.space;
        let _span =
            tracing::trace_span!("read", job = space.inner.job, holder = &*space.holder, offset, bytes).entered();
        space.recorded(DiskWork::Read, bytes, || self.read_decoded(batch))
    }

    fn read_decoded(&self, batch: SpilledBatch) -> Result<RecordBatch> {
        let queued = {
            let state = self.state.lock();
            if let Some(error) = &state.error {
                return Err(repeat(error));
            }
            state.queued.get(&batch.offset).map(Arc::clone)
        };
        let decoded = match queued {
            Some(frame) => frame::decode(frame.bytes.clone(), &self.schema, batch.rows),
            None => frame::decode(self.read_frame(batch)?, &self.schema, batch.rows),
        };
        decoded.map_err(|reason| self.damaged(batch, reason))
    }

    fn read_frame(&self, batch: SpilledBatch) -> Result<Buffer> {
        let file = match &*self.handle.lock() {
            Handle::Open(file) => Arc::clone(file),
            Handle::Absent | Handle::Removed => return Err(self.damaged(batch, "it is not there".into())),
        };
        let length = usize::try_from(batch.length).map_err(OperatorError::other)?;
        let mut bytes = MutableBuffer::from_len_zeroed(length);
        let end = if is_planted(Bug::ShortRead) { length.saturating_sub(8) } else { length };
        let bytes_read = failpoint::check(Point::SpillRead)
            .and_then(|()| file.read_at(&mut bytes.as_slice_mut()[..end], batch.offset));
        match bytes_read {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(batch, "the file ends before the batch does".into()))
            }
            Err(error) => Err(OperatorError::io("reading", &self.path, error)),
        }
    }

    fn write_panicked(&self, panic: &(dyn Any + Send)) -> OperatorError {
        let (path, message) = (self.path.display(), panic_message(panic));
        OperatorError::new(format!("writing {path}: an I/O thread panicked: {message}"))
    }

    fn damaged(&self, batch: SpilledBatch, reason: String) -> OperatorError {
        let reason = format!("batch of {} rows at byte {}: {reason}", batch.rows, batch.offset);
        OperatorError::SpillDamaged { path: self.path.clone(), reason }
    }
}

/// Names and nullability may differ, types may not: a frame is decoded with the file's schema.
fn check_columns(batch: &RecordBatch, schema: &SchemaRef) -> Result<()> {
    if Arc::ptr_eq(&batch.schema(), schema) {
        return Ok(());
    }
    let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<DataType>>();
    if batch.schema() != *schema && types(&batch.schema()) == types(schema) {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?;
    } else if batch.schema() != *schema {
        return Err(OperatorError::new(format!(
            "a batch of {:?} does not go into a spill file of {:?}",
            types(&batch.schema()),
            types(schema)
        )));
    }
    Ok(())
}

/// A batch on its way back from disk.
#[derive(Debug)]
pub struct Fetch {
    pending: Pending<Result<RecordBatch>>,
    path: PathBuf,
}

/// What a [`Fetch`] has.
#[derive(Debug)]
pub enum Fetched {
    /// The batch.
    Ready(RecordBatch),
    /// It is being read: return `Step::Blocked` with this ticket and poll again.
    Blocked(Ticket),
}

impl Fetch {
    /// The batch, or what to wait for. Not to be called again after [`Fetched::Ready`].
    ///
    /// # Errors
    ///
    /// [`OperatorError::SpillDamaged`] if the file does not hold what was written; [`OperatorError::Io`] if
    /// it cannot be read.
    pub fn poll(&mut self) -> Result<Fetched> {
        if !self.pending.ticket().is_done() {
            return Ok(Fetched::Blocked(self.pending.ticket().clone()));
        }
        match self.pending.take() {
            Some(read) => read.map(Fetched::Ready),
            None => Err(OperatorError::new(format!("reading {}: {}", self.path.display(), self.pending.panicked()))),
        }
    }
}
