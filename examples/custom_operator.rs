//! An operator of one's own, with state: sessions of users, cut where a user paused for half an hour.
//!
//! Run it with `cargo run --release --example custom_operator`, with `-- 20000000` for more events. Events come in no
//! order, so the operator sorts them by user and time; the sorter keeps to the memory limit by spilling, and the
//! operator says no more about it than one line. It prints a few sessions, how many there are, and how much went to
//! disk under a limit that is far below the state.

use std::error::Error;
use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use aqueduct::arrow::compute::sum;
use aqueduct::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use aqueduct::operators::Generator;
use aqueduct::prelude::*;
use aqueduct::runtime::state::{ExternalSorter, Next, SortColumn};
use aqueduct::runtime::{
    Operator, OperatorContext, OperatorSpec, Outbox, Port, Result as StepResult, SourceSpec, Step,
};

#[global_allocator]
static ALLOCATOR: aqueduct::runtime::allocator::CountingAllocator =
    aqueduct::runtime::allocator::CountingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let events = match std::env::args().nth(1) {
        Some(number) => number.replace('_', "").parse().map_err(|_| format!("a number of events, not `{number}`"))?,
        None => 3_000_000,
    };
    let cluster = LocalCluster::builder().workers(2).memory_limit("16MB").start()?;

    let mut graph = Graph::new();
    let source = graph.source("events", clicks(events));
    let sessions = graph.operator("sessions", Sessions { gap_seconds: 1800 }, source.hash(["user"]));
    let result = graph.result("result", sessions);
    println!("{}", cluster.plan(&graph)?);

    let mut job = cluster.run(&graph)?;
    let (mut count, mut total) = (0, 0);
    for batch in job.take_result(result).into_iter().flatten() {
        let batch = batch?;
        if count == 0 {
            println!("The first sessions, with their start and end in seconds:");
            println!("{}", Table::try_new(batch.schema(), vec![batch.slice(0, batch.num_rows().min(5))])?);
        }
        count += batch.num_rows();
        total += sum(batch.column(3).as_primitive::<Int64Type>()).unwrap_or(0);
    }
    let metrics = job.wait()?.metrics;
    let spilled: u64 = metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
    println!("{total} events make {count} sessions");
    println!("{:.1} MB of events went to disk and came back", spilled as f64 / 1e6);
    for (index, worker) in metrics.workers.iter().enumerate() {
        let (peak, limit) = (worker.peak_bytes as f64 / 1e6, worker.limit_bytes as f64 / 1e6);
        println!("worker {index} held {peak:.1} MB at the most; its limit is {limit:.1} MB");
    }
    Ok(())
}

/// Turns events (`user`, `second`) into sessions (`user`, `start`, `end`, `events`). Its input is hashed by user, so
/// that one partition sees all events of a user.
#[derive(Debug)]
struct Sessions {
    gap_seconds: i64,
}

impl OperatorSpec for Sessions {
    fn name(&self) -> &str {
        "sessions"
    }

    fn output_schema(&self, _output: usize, _inputs: &[SchemaRef]) -> StepResult<SchemaRef> {
        let fields = ["user", "start", "end", "events"].map(|name| Field::new(name, DataType::Int64, false));
        Ok(Arc::new(Schema::new(fields.to_vec())))
    }

    fn instantiate(&self, context: OperatorContext) -> StepResult<Box<dyn Operator>> {
        let by = [0, 1].map(|column| SortColumn { column, options: Default::default() });
        Ok(Box::new(Sessionizer {
            gap_seconds: self.gap_seconds,
            schema: self.output_schema(0, &context.inputs)?,
            events: context.sorter(SchemaRef::clone(&context.inputs[0]), &by)?,
            open: None,
        }))
    }

    /// What the sorter needs when all its rows are on disk, and two batches of sessions.
    fn min_memory(&self, batch_bytes: usize) -> usize {
        ExternalSorter::min_memory(batch_bytes) + 4 * batch_bytes
    }

    fn detail(&self) -> String {
        format!("a pause of {} s ends one", self.gap_seconds)
    }
}

/// One partition of [`Sessions`].
struct Sessionizer {
    gap_seconds: i64,
    schema: SchemaRef,
    events: ExternalSorter,
    /// The session that the next event may belong to.
    open: Option<Session>,
}

#[derive(Clone, Copy)]
struct Session {
    user: i64,
    start: i64,
    end: i64,
    events: i64,
}

impl Operator for Sessionizer {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> StepResult<Step> {
        self.events.push(batch)?;
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> StepResult<Step> {
        self.resume(out)
    }

    /// Called again and again once all events are in: one batch of them in order, each time.
    fn resume(&mut self, out: &mut Outbox) -> StepResult<Step> {
        match self.events.next()? {
            Next::Batch(batch) => {
                let ended = self.cut(&batch);
                out.push(self.batch_of(&ended)?);
                Ok(Step::MoreOutput)
            }
            Next::Blocked(disk) => Ok(Step::Blocked(disk)),
            Next::End => {
                let last: Vec<Session> = self.open.take().into_iter().collect();
                out.push(self.batch_of(&last)?);
                Ok(Step::NeedInput)
            }
        }
    }

    /// The one line about spilling.
    fn spill(&mut self, bytes: usize) -> StepResult<usize> {
        self.events.spill(bytes)
    }
}

impl Sessionizer {
    /// The sessions that end within these events.
    fn cut(&mut self, events: &RecordBatch) -> Vec<Session> {
        let users = events.column(0).as_primitive::<Int64Type>().values();
        let seconds = events.column(1).as_primitive::<Int64Type>().values();
        let mut ended = Vec::new();
        for (&user, &second) in users.iter().zip(seconds) {
            match &mut self.open {
                Some(open) if open.user == user && second - open.end <= self.gap_seconds => {
                    open.end = second;
                    open.events += 1;
                }
                open => ended.extend(open.replace(Session { user, start: second, end: second, events: 1 })),
            }
        }
        ended
    }

    fn batch_of(&self, sessions: &[Session]) -> StepResult<RecordBatch> {
        let column = |value: fn(&Session) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(sessions.iter().map(value)))
        };
        let columns = vec![column(|s| s.user), column(|s| s.start), column(|s| s.end), column(|s| s.events)];
        Ok(RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)?)
    }
}

/// Clicks of 50,000 users over a month, in no order: in visits of five clicks each. Two visits may be one
/// session, and one visit with long pauses several.
fn clicks(rows: u64) -> impl SourceSpec {
    let fields = ["user", "second"].map(|name| Field::new(name, DataType::Int64, false));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let batch_schema = Arc::clone(&schema);
    let visits = rows.div_ceil(5).max(1);
    Generator::new(schema, Some(rows), move |offset, rows| {
        // Mixes the bits of a number, so that the same row is the same click in every run.
        let mixed = |number: u64| (number ^ (number >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
        let rows = offset..offset + rows as u64;
        let users = Int64Array::from_iter_values(rows.clone().map(|row| (mixed(row % visits) % 50_000) as i64));
        let seconds = Int64Array::from_iter_values(rows.map(|row| {
            let begin = mixed(mixed(row % visits)) % 2_592_000;
            (begin + row / visits * (mixed(row) % 700)) as i64
        }));
        Ok(RecordBatch::try_new(Arc::clone(&batch_schema), vec![Arc::new(users), Arc::new(seconds)])?)
    })
}
