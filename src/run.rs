//! Running a frame: the one file that meets the runtime's jobs. What is read from a job outlives no job, and a
//! job outlives none of its readers.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{fmt, future};

use aqueduct_operators::csv::CsvSink;
use aqueduct_operators::parquet::{ParquetSink, ParquetSinkOptions};
use aqueduct_operators::{Store, StoreSink};
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::metrics::Analysis;
use aqueduct_runtime::{ExecutionError, Graph, Job, JobSummary, Plan, ResultStream, SinkSpec};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion_expr::LogicalPlan;
use futures_core::Stream;
use parking_lot::Mutex;

use crate::cluster::Session;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::planner::{self, Planned, ScanTable, Settings};
use crate::progress::{self, JobProgress, ProgressFormat, Watched};
use crate::recursive;
use crate::table::{Table, with_schema};
use crate::widen::{self, Attempt};

/// The name of the sink in plans and errors.
const WRITE: &str = "write";

/// The session of `frame`, if its cluster is open.
fn session(frame: &Frame) -> Result<Arc<Session>> {
    frame.session.upgrade().ok_or(Error::Execution(ExecutionError::Closed))
}

/// The plan of `graph` on the cluster of `frame`.
pub(crate) fn plan(frame: &Frame, graph: &Graph) -> Result<Plan> {
    Ok(session(frame)?.cluster.plan(graph)?)
}

/// What the planner needs to know of the cluster of `frame`.
pub(crate) fn settings(frame: &Frame) -> Result<Settings> {
    let session = session(frame)?;
    let config = session.cluster.config();
    Ok(Settings {
        workers: config.workers,
        threads_per_worker: config.threads_per_worker,
        memory_limit_bytes: config.memory_limit_bytes,
    })
}

/// Starts a job, and says how its progress is to be shown.
fn start(frame: &Frame, graph: &Graph) -> Result<(Job, ProgressFormat)> {
    let session = session(frame)?;
    let mut graph = graph.clone();
    graph.describe("logical plan", frame.logical_plan()?.display_indent().to_string());
    let job = session.cluster.run(&graph)?;
    tracing::info!(?job, "job started");
    tracing::debug!("\n{}", job.plan());
    Ok((job, session.progress))
}

/// Waits for the end of a job.
fn finish(job: Job) -> Result<JobSummary, ExecutionError> {
    let outcome = job.wait();
    // The runtime has said what went wrong, if something did.
    if let Ok(JobSummary { elapsed, metrics }) = &outcome {
        let spilled_bytes: u64 = metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
        let (rows_read, bytes_read) = (metrics.source_rows(), metrics.source_bytes_done);
        tracing::info!(?elapsed, rows_read, bytes_read, spilled_bytes, "job finished");
    }
    outcome
}

/// All rows of `frame`, with a progress bar if `bar` and the session want one.
pub(crate) fn collect(frame: &Frame, bar: bool) -> Result<Table> {
    widen::retried(frame, |frame| collect_once(frame, bar))
}

fn collect_once(frame: &Frame, bar: bool) -> Result<Table> {
    let (FrameStream { schema, rows, job, .. }, shown) = open(frame)?;
    let monitor = job.monitor();
    let batches = progress::watch(if bar { shown } else { ProgressFormat::Hidden }, &monitor, || {
        let batches = rows.collect::<Result<Vec<RecordBatch>, ExecutionError>>();
        finish(job).and(batches)
    })?;
    Table::try_new(schema, batches)
}

/// What the operators of `frame` do; its rows are dropped.
pub(crate) fn analyze(frame: &Frame) -> Result<Analysis> {
    widen::retried(frame, |frame| {
        let (FrameStream { mut rows, job, .. }, shown) = open(frame)?;
        let monitor = job.monitor();
        progress::watch(shown, &monitor, || {
            let read = rows.try_for_each(|batch| batch.map(drop));
            finish(job).and(read)
        })?;
        Ok(monitor.analysis())
    })
}

/// All rows of `frame`; never blocks the thread.
pub(crate) async fn collect_async(frame: &Frame) -> Result<Table> {
    let mut attempt = Attempt::new(frame);
    loop {
        // Jobs of recursive queries are waited for on a thread of their own.
        let frame = match recursive::is_in(attempt.frame())? {
            true => settled_elsewhere(attempt.frame()).await,
            false => Ok(attempt.frame().clone()),
        };
        let rows = match frame {
            Ok(frame) => collect_once_async(&frame).await,
            Err(error) => Err(error),
        };
        match rows {
            Err(error) => attempt.widen_for(error)?,
            answer => return answer,
        }
    }
}

/// The frame with its recursive queries computed, on a thread that blocks in place of this one. Nothing begins there any
/// more once the future is dropped.
async fn settled_elsewhere(frame: &Frame) -> Result<Frame> {
    let (ticket, completion) = Ticket::new("a recursive query");
    let wanted = Arc::new(Mutex::new(None));
    let (place, frame) = (Arc::downgrade(&wanted), frame.clone());
    let work = move || {
        let settled = recursive::settled_while(&frame, &|| place.strong_count() > 0);
        if let Some(place) = place.upgrade() {
            *place.lock() = Some(settled);
        }
        drop(completion);
    };
    let thread = std::thread::Builder::new().name("aq-recursive".into()).spawn(work);
    thread.map_err(|error| ExecutionError::Resource(format!("cannot start a thread: {error}")))?;
    let done =
        |context: &mut Context<'_>| if ticket.register(context.waker()) { Poll::Pending } else { Poll::Ready(()) };
    future::poll_fn(done).await;
    wanted.lock().take().unwrap_or(Err(Error::Execution(ExecutionError::Cancelled)))
}

async fn collect_once_async(frame: &Frame) -> Result<Table> {
    let (mut rows, _) = open(frame)?;
    let mut batches = Vec::new();
    while let Some(batch) = future::poll_fn(|context| Pin::new(&mut rows).poll_next(context)).await {
        batches.push(batch?);
    }
    Table::try_new(rows.schema, batches)
}

/// The rows of `frame` as they come.
pub(crate) fn stream(frame: &Frame) -> Result<FrameStream> {
    let (rows, _) = open(frame)?;
    Ok(FrameStream { attempt: Some(Attempt::new(frame)), ..rows })
}

fn open(frame: &Frame) -> Result<(FrameStream, ProgressFormat)> {
    let frame = &recursive::settled(frame)?;
    let Planned { graph, result, schema, .. } = frame.planned()?;
    let (mut job, shown) = start(frame, &graph)?;
    let rows = job.take_result(result).expect("a result of the graph that was run, not taken before");
    let watched = Arc::new(Mutex::new(job.monitor()));
    Ok((FrameStream { schema, rows, job, watched, attempt: None, delivered: false }, shown))
}

/// Writes the rows of `frame` to `path` as CSV; how many there were.
pub(crate) fn write_csv(frame: &Frame, path: &Path) -> Result<u64> {
    write(frame, |_| CsvSink::new(path))
}

/// Writes the rows of `frame` to `path` as Parquet; how many there were.
pub(crate) fn write_parquet(frame: &Frame, path: &Path, options: &ParquetSinkOptions) -> Result<u64> {
    write(frame, |schema| ParquetSink::new(path, options.clone()).with_schema(schema))
}

/// Runs `frame` into the sink that `sink` makes for rows of its schema.
fn write<S: SinkSpec>(frame: &Frame, sink: impl Fn(&SchemaRef) -> S) -> Result<u64> {
    // A file of a job that failed has never been there.
    widen::retried(frame, |frame| {
        let frame = &recursive::settled(frame)?;
        let plan = frame.optimized()?;
        write_once(frame, &plan, sink(plan.schema().inner()))
    })
}

/// Runs `frame`, and keeps its rows on disk until nobody holds them; of `schema`, if it is given.
pub(crate) fn store(frame: &Frame, name: &str, schema: Option<&SchemaRef>) -> Result<Arc<Store>> {
    widen::retried(frame, |frame| {
        let frame = &recursive::settled(frame)?;
        let plan = frame.optimized()?;
        let schema = SchemaRef::clone(schema.unwrap_or(plan.schema().inner()));
        let spaces = session(frame)?.cluster.kept_spaces();
        if spaces.is_empty() {
            return Err(Error::Execution(ExecutionError::Closed));
        }
        let sink = StoreSink::try_new(schema, spaces)?;
        run_to_end(frame, &planner::to_sinks(&plan, settings(frame)?, name, sink.clone())?)?;
        let stored = sink.take().ok_or(Error::Execution(ExecutionError::Closed))?;
        Ok(session(frame)?.keep(stored))
    })
}

/// The rows of one store and, behind them, those of another; where they are many small files, some are made one.
pub(crate) fn together(frame: &Frame, name: &str, rows: &Store, more: &Store) -> Result<Arc<Store>> {
    let all = rows.with(more)?;
    let Some((head, tail)) = all.split_for_merging() else { return Ok(session(frame)?.keep(all)) };
    let session = session(frame)?;
    let tail = session.table(name, ScanTable::stored(session.keep(tail)))?;
    let merged = store(&tail, name, Some(all.schema()))?;
    Ok(session.keep(head.with(&merged)?))
}

/// Runs `frame`, and a frame over its rows, which are kept on disk.
pub(crate) fn cache(frame: &Frame) -> Result<Frame> {
    let stored = store(frame, "cache", None)?;
    session(frame)?.table("cached", ScanTable::stored(stored))
}

fn write_once(frame: &Frame, plan: &LogicalPlan, sink: impl SinkSpec) -> Result<u64> {
    run_to_end(frame, &planner::to_sink(plan, settings(frame)?, WRITE, sink)?)
}

/// Runs a graph that ends in one sink; the number of rows that it took.
fn run_to_end(frame: &Frame, graph: &Graph) -> Result<u64> {
    let (job, shown) = start(frame, graph)?;
    let monitor = job.monitor();
    let summary = progress::watch(shown, &monitor, || finish(job))?;
    // The sink is the last node that was declared.
    Ok(summary.metrics.nodes.last().map_or(0, |sink| sink.rows_in))
}

/// The number of partitions that compute the rows of `frame`.
pub(crate) fn partitions(frame: &Frame) -> Result<usize> {
    let Planned { graph, rows, .. } = recursive::outlined(frame)?.planned()?;
    Ok(plan(frame, &graph)?.partitions(rows).unwrap_or(0))
}

/// The rows of a running job, batch by batch, in one partition.
///
/// An iterator, which blocks the thread until there is a batch, and a [`Stream`], which does not. After an
/// error there are no more batches. Dropping it ends the job, which counts as cancelled if there were batches left, or
/// could have been: that there are none is known once this has ended, and mostly before.
#[must_use = "a stream that is dropped ends its job"]
pub struct FrameStream {
    schema: SchemaRef,
    rows: ResultStream,
    job: Job,
    /// Shows the job, whichever it is by now.
    watched: Watched,
    /// The frame and how it was changed; `None` if whoever reads this runs it again on their own.
    attempt: Option<Attempt>,
    /// Whether the caller has had a batch.
    delivered: bool,
}

impl FrameStream {
    /// The schema of every batch. Where columns may widen ([`OnMismatch::Widen`](crate::OnMismatch::Widen)), it is
    /// settled once there is a batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The running job: its metrics, and how to cancel it. Another one after columns were widened.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Shows how far the job is, on standard error, until what is returned is dropped; `None` if there is to be a bar
    /// and standard error is not a terminal.
    pub fn show_progress(&self, format: impl Into<ProgressFormat>) -> Option<JobProgress> {
        JobProgress::start(format.into(), Arc::clone(&self.watched))
    }

    fn checked(&self, batch: Result<RecordBatch, ExecutionError>) -> Result<RecordBatch> {
        with_schema(batch?, &self.schema)
    }

    /// What the caller gets for `batch`; `None` if a new job has begun instead.
    fn settled(&mut self, batch: Result<RecordBatch, ExecutionError>) -> Option<Result<RecordBatch>> {
        match self.checked(batch) {
            Ok(batch) => {
                self.delivered = true;
                Some(Ok(batch))
            }
            Err(error) => self.run_again(error).err().map(Err),
        }
    }

    /// Runs the frame with the wider column that `error` asks for.
    fn run_again(&mut self, error: Error) -> Result<()> {
        let Some(attempt) = &mut self.attempt else { return Err(error) };
        if self.delivered {
            return Err(attempt.explained(error));
        }
        attempt.widen_for(error)?;
        let (FrameStream { schema, rows, job, .. }, _) = match open(attempt.frame()) {
            Ok(opened) => opened,
            Err(error) => return Err(attempt.explained(error)),
        };
        *self.watched.lock() = job.monitor();
        (self.schema, self.rows, self.job) = (schema, rows, job);
        Ok(())
    }
}

impl Iterator for FrameStream {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(batch) = self.rows.next() else {
                // All of it was read: it ends by itself, and not because whoever read it drops this.
                self.job.monitor().wait();
                return None;
            };
            if let Some(batch) = self.settled(batch) {
                return Some(batch);
            }
        }
    }
}

impl Stream for FrameStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(batch) = ready!(Pin::new(&mut self.rows).poll_next(context)) else {
                return Poll::Ready(None);
            };
            if let Some(batch) = self.settled(batch) {
                return Poll::Ready(Some(batch));
            }
        }
    }
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}
