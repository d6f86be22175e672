//! Spill files: batches on disk as framed, checksummed Arrow IPC, written and read by the worker's I/O threads.
//!
//! ```text
//! SpillDir    one per cluster: a locked folder, the spill limit
//!   SpillSpace    one per job and worker: counters, I/O threads, workspace for frames that wait
//!     SpillFile     one per run, partition or edge: frames at offsets
//! ```
//!
//! No step ever waits for the disk: `append` encodes and queues, `fetch` gives a ticket. Frames that wait to
//! be written are charged to the workspace account; when they are more than half of its floor, the space has a
//! backlog, and tasks wait for it between their steps. A quarter of the floor is left for frames that find no
//! room in the queue: who made them writes them. Everything is removed when dropped.

mod dir;
mod disk;
mod file;
mod frame;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::datatypes::SchemaRef;

pub use dir::SpillDir;
pub use disk::{Disk, DiskFile, FileDisk};
pub use file::{Fetch, Fetched, SpillFile, SpilledBatch};

use crate::error::{OperatorError, Result};
use crate::io::{Completion, Io, Ticket};
use crate::memory::{Account, MemoryPool, Reservation};
use crate::observe::{DiskRecorder, DiskUser, DiskWork};
use crate::sync::Mutex;

/// What tasks wait for whose spilled state is written.
pub(crate) const WRITING: &str = "writing spilled state";
/// What tasks wait for whose spilled state is read back.
pub(crate) const READING: &str = "reading spilled state";

/// Where one job spills on one worker: a folder of its own, the cluster's spill limit, counters, and the
/// worker's I/O threads, which do the writing. Clones are the same space.
#[derive(Clone, Debug)]
pub struct SpillSpace {
    inner: Arc<SpaceInner>,
    /// Who spills through this handle, and how much so far.
    holder: Arc<str>,
    own_bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct SpaceInner {
    dir: SpillDir,
    io: Io,
    spilled_bytes: AtomicU64,
    live_bytes: AtomicU64,
    floor_bytes: usize,
    job: Option<u64>,
    /// The worker's.
    pool: MemoryPool,
    /// Where what the I/O threads do is recorded on request.
    recorder: Option<DiskRecorder>,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// Bytes of frames that wait for the I/O threads.
    queued: usize,
    /// Bytes of frames that are being written by those who made them.
    direct: usize,
    /// For both of them.
    reservation: Reservation,
    /// Given out while too much is queued.
    backlog: Option<(Ticket, Completion)>,
    /// The first write that failed.
    error: Option<OperatorError>,
}

impl Queue {
    /// Bytes of frames in memory.
    fn bytes(&self) -> usize {
        self.queued + self.direct
    }

    /// Bytes to hold for these frames in a workspace of `floor_bytes`: a quarter of it is kept beside what is queued, so
    /// that a frame which finds no room has bytes of its own, whoever takes what floats.
    fn needed(queued: usize, direct: usize, floor_bytes: usize) -> usize {
        if queued + direct == 0 { 0 } else { queued + direct.max(floor_bytes / 4) }
    }
}

impl SpillSpace {
    fn new(dir: SpillDir, io: Io, workspace: Account, recorder: Option<DiskRecorder>) -> Self {
        let (holder, job) = (Arc::clone(workspace.name()), workspace.job());
        let pool = workspace.pool().clone();
        let inner = Arc::new(SpaceInner {
            dir,
            io,
            spilled_bytes: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            floor_bytes: workspace.floor(),
            job,
            pool,
            recorder,
            queue: Mutex::new(Queue {
                queued: 0,
                direct: 0,
                reservation: workspace.reservation(),
                backlog: None,
                error: None,
            }),
        });
        Self { inner, holder, own_bytes: Arc::default() }
    }

    /// The same space, with a count of its own of what `holder` spills through it: one for each instance.
    pub(crate) fn for_instance(&self, holder: Arc<str>) -> Self {
        Self { inner: Arc::clone(&self.inner), holder, own_bytes: Arc::default() }
    }

    /// Another space in the same folder, whose frames are charged to `workspace`.
    pub(crate) fn beside(&self, workspace: Account) -> Self {
        Self::new(self.inner.dir.clone(), self.inner.io.clone(), workspace, self.inner.recorder.clone())
    }

    /// The count of what is spilled through this handle and its clones.
    pub(crate) fn own_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.own_bytes)
    }

    /// A new spill file for batches of `schema`; it appears on disk with the first append and vanishes
    /// when dropped.
    pub fn create(&self, label: &str, schema: SchemaRef) -> SpillFile {
        SpillFile::new(self.clone(), self.inner.dir.file_path(label), schema)
    }

    /// Bytes written so far by this job on this worker.
    pub fn spilled_bytes(&self) -> u64 {
        self.inner.spilled_bytes.load(Relaxed)
    }

    /// Bytes of the files that exist now.
    pub fn live_bytes(&self) -> u64 {
        self.inner.live_bytes.load(Relaxed)
    }

    /// A ticket to wait for if more frames are queued for writing than the workspace has room for. The task
    /// asks after every step, so operators need not.
    pub fn backlog(&self) -> Option<Ticket> {
        let mut queue = self.inner.queue.lock();
        if queue.backlog.is_none() && queue.bytes() > self.inner.floor_bytes / 2 {
            queue.backlog = Some(Ticket::new(WRITING));
        }
        queue.backlog.as_ref().map(|(ticket, _)| ticket.clone())
    }

    /// The error of the first write that failed in any file of this space. The task asks after every step.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn check(&self) -> Result<()> {
        self.inner.queue.lock().error.as_ref().map_or(Ok(()), |error| Err(repeat(error)))
    }

    /// Blocks until everything queued so far is written or has failed. For tests and tools, never in a step.
    pub fn flush_blocking(&self) {
        loop {
            // One piece of work behind the others says that a thread has taken all before it.
            let mut pending = self.inner.io.run(WRITING, || ());
            pending.ticket().wait();
            pending.take();
            if self.inner.queue.lock().bytes() == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Bytes of frames that wait for the disk, and the bytes that are set aside for them.
    pub(crate) fn workspace(&self) -> (usize, usize) {
        (self.inner.queue.lock().bytes(), self.inner.floor_bytes)
    }

    /// The folder it is in.
    pub fn dir(&self) -> &SpillDir {
        &self.inner.dir
    }

    /// A space in a temporary folder with I/O threads of its own, for calling operators by hand.
    ///
    /// # Panics
    ///
    /// If the folder or a thread cannot be had.
    #[cfg(any(test, feature = "testing"))]
    pub fn temporary() -> Self {
        let dir = SpillDir::create(None, None, false).expect("a temporary folder");
        let (io, _) = Io::start("temporary", 2).expect("threads");
        dir.space(io, crate::memory::MemoryPool::new(usize::MAX).account("workspace"))
    }

    /// Does `io`, which writes or reads a frame of `bytes`, and records it if that is asked for.
    fn recorded<T>(&self, work: DiskWork, bytes: u64, io: impl FnOnce() -> T) -> T {
        let Some(to) = &self.inner.recorder else { return io() };
        let user = || DiskUser { job: self.inner.job, holder: Arc::clone(&self.holder), work };
        to.record(user, Some(bytes), io)
    }

    fn compression(&self) -> bool {
        self.inner.dir.0.compression
    }

    fn disk(&self) -> &dyn Disk {
        &*self.inner.dir.0.disk
    }

    fn io(&self) -> &Io {
        &self.inner.io
    }

    fn take(&self, bytes: u64) -> Result<()> {
        self.inner.dir.take(bytes)?;
        self.inner.spilled_bytes.fetch_add(bytes, Relaxed);
        self.own_bytes.fetch_add(bytes, Relaxed);
        self.inner.live_bytes.fetch_add(bytes, Relaxed);
        self.inner.pool.log().spilled(self.inner.job, &self.holder, bytes);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.inner.dir.give_back(bytes);
        self.inner.live_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Charges a frame of `bytes`. `false` if it is not to wait in the queue, which has no room for it: whoever made
    /// it writes it, out of the quarter of the workspace that is left for that.
    fn queue(&self, bytes: usize) -> bool {
        let queue = &mut *self.inner.queue.lock();
        let queues =
            queue.reservation.try_set(Queue::needed(queue.queued + bytes, queue.direct, self.inner.floor_bytes));
        if queues {
            queue.queued += bytes;
        } else {
            queue.direct += bytes;
            queue.reservation.set(Queue::needed(queue.queued, queue.direct, self.inner.floor_bytes));
        }
        queues
    }

    /// Gives back what was charged for a frame of `bytes`, which `queued` or not.
    fn unqueue(&self, bytes: usize, queued: bool) {
        let mut lock = self.inner.queue.lock();
        let queue = &mut *lock;
        *(if queued { &mut queue.queued } else { &mut queue.direct }) -= bytes;
        queue.reservation.set(Queue::needed(queue.queued, queue.direct, self.inner.floor_bytes));
        let done = if queue.bytes() <= self.inner.floor_bytes / 4 { queue.backlog.take() } else { None };
        // Waking may run code that asks for the backlog again.
        drop(lock);
        drop(done);
    }

    fn fail(&self, error: &OperatorError) {
        self.inner.queue.lock().error.get_or_insert_with(|| repeat(error));
    }
}

/// The same error once more: the system's errors cannot be cloned, and a failed write is reported to all.
fn repeat(error: &OperatorError) -> OperatorError {
    match error {
        OperatorError::Io { action, path, source } => {
            let source = match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(source.kind(), source.to_string()),
            };
            OperatorError::Io { action, path: path.clone(), source }
        }
        other => OperatorError::new(other),
    }
}
