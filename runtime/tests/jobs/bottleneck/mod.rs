//! The bottleneck of a real job is the node that was made to be it. Slow ones keep a core busy by the clock, so it is
//! the same on a slow machine.

mod alone;
mod network;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aqueduct_runtime::metrics::{Bottleneck, Cause, bottleneck};
use aqueduct_runtime::state::SpillingVec;
use aqueduct_runtime::testing::{CountingSink, EndlessSource, Gate, SlowOperator, StalledSource, eventually};
use aqueduct_runtime::{
    CloseStep, Graph, Job, Map, NodeId, Operator, OperatorContext, OperatorSpec, Outbox, Partitions, Port, Receipt,
    Result, ResultId, Scan, ScanContext, Sink, SinkContext, SinkSpec, SinkStep, Source, SourceContext, SourceSpec,
    SourceStep, Split, Step,
};
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::{MIB, cluster, within_a_minute};

/// What a slow one takes for a batch: what the others take is far below.
const SLOW: Duration = Duration::from_millis(4);
/// How long each job is watched.
const WINDOW: Duration = Duration::from_millis(400);

fn burn(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Small batches, so that rows are cheap and batches many.
fn endless() -> EndlessSource {
    EndlessSource::new().batch_rows(500)
}

fn slow() -> SlowOperator {
    SlowOperator::new(SLOW)
}

/// What it says of a job after a while, and of the first and the second half of that.
fn of_job(job: &Job, drive: &dyn Fn()) -> Bottleneck {
    let after = |time: Duration| {
        eventually("some time has passed", || {
            drive();
            job.metrics().elapsed >= time
        });
        job.metrics()
    };
    // The first batches may take their time.
    let first = after(WINDOW / 4);
    let last = after(first.elapsed + WINDOW);
    let (all, window) = (bottleneck(&last), bottleneck(&last.since(&first)));
    let (all, window) = (all.expect("one of all the time"), window.expect("one of the window"));
    assert_eq!(all.name, window.name, "{} / {}", all.sentence, window.sentence);
    assert!(window.sentence.contains(&format!("`{}`", window.name)), "{}", window.sentence);
    window
}

/// Two workers of one thread each run what `build` makes of an empty graph.
fn named(build: impl Fn(&mut Graph) + Send + 'static) -> Bottleneck {
    within_a_minute(move || {
        let cluster = cluster(2, 64 * MIB);
        let mut graph = Graph::new();
        build(&mut graph);
        let job = cluster.run(&graph).expect("it starts");
        of_job(&job, &|| ())
    })
}

fn sink(graph: &mut Graph, input: NodeId) {
    graph.sink("write", CountingSink::new(), input);
}

/// An endless source that keeps a core busy for each batch, as decoding does.
#[derive(Debug)]
struct BusySource(EndlessSource);

impl SourceSpec for BusySource {
    fn name(&self) -> &str {
        "busy"
    }

    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(BusyScan(self.0.scan(context)?)))
    }
}

struct BusyScan(Arc<dyn Scan>);

impl Scan for BusyScan {
    fn next_split(&self) -> Result<Option<Split>> {
        self.0.next_split()
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(BusyReader(self.0.open(context)?)))
    }
}

struct BusyReader(Box<dyn Source>);

impl Source for BusyReader {
    fn start(&mut self, split: &Split) -> Result<()> {
        self.0.start(split)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        burn(SLOW);
        self.0.read(budget_bytes, out)
    }
}

/// A sink that keeps a core busy for each batch.
#[derive(Debug)]
struct BusySink;

impl SinkSpec for BusySink {
    fn name(&self) -> &str {
        "busy"
    }

    fn open(&self, _context: SinkContext) -> Result<Box<dyn Sink>> {
        Ok(Box::new(BusySink))
    }
}

impl Sink for BusySink {
    fn write(&mut self, _batch: RecordBatch) -> Result<SinkStep> {
        burn(SLOW);
        Ok(SinkStep::Written)
    }

    fn close(&mut self) -> Result<CloseStep> {
        Ok(CloseStep::Closed(Receipt { rows: 0, payload: None }))
    }
}

/// Gives all rows but one of each batch the same key.
fn one_hot_key(batch: RecordBatch) -> Result<RecordBatch> {
    let keys = (0..batch.num_rows() as i64).map(|row| if row == 0 { row } else { 7 });
    Ok(RecordBatch::try_new(batch.schema(), vec![Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef])?)
}

/// Takes time for each row.
#[derive(Debug)]
struct PerRow;

impl OperatorSpec for PerRow {
    fn name(&self) -> &str {
        "per row"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(PerRow))
    }
}

impl Operator for PerRow {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        burn(Duration::from_micros(10) * batch.num_rows() as u32);
        out.push(batch);
        Ok(Step::NeedInput)
    }
}

/// Keeps everything it gets four times, on disk where memory is short: making it is less work.
#[derive(Debug, Clone)]
pub(crate) struct Keep;

struct Keeping(SpillingVec);

impl OperatorSpec for Keep {
    fn name(&self) -> &str {
        "keep"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let kept = SpillingVec::new(&context.memory, &context.spill, Arc::clone(&context.inputs[0]));
        Ok(Box::new(Keeping(kept)))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        SpillingVec::min_memory(batch_bytes)
    }
}

impl Operator for Keeping {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        for _ in 0..4 {
            self.0.push(batch.clone())?;
        }
        Ok(Step::NeedInput)
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        self.0.spill(bytes)
    }
}

/// Runs a graph whose result is read as `read` says.
fn read_by(build: impl Fn(&mut Graph) -> ResultId + Send + 'static, pause: Duration) -> Bottleneck {
    within_a_minute(move || {
        let cluster = cluster(2, 64 * MIB);
        let mut graph = Graph::new();
        let result = build(&mut graph);
        let mut job = cluster.run(&graph).expect("it starts");
        let stream = job.take_result(result).expect("the result");
        std::thread::scope(|scope| {
            scope.spawn(|| stream.for_each(|_| burn(pause)));
            // Dropped whatever happens, which ends the stream.
            let job = job;
            of_job(&job, &|| ())
        })
    })
}
