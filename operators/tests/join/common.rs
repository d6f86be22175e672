//! What whole jobs with joins share: their rows, DuckDB's answers (`golden/make.py`), and how a job is run and digested.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aqueduct_operators::MemorySource;
use aqueduct_runtime::testing::{assert_within_limit, eventually};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, NodeId};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;

/// Rows, those with a left row, those with a right row, sums of both numbers, and a sum over pairs.
pub(crate) type Answer = [i64; 6];

pub(crate) fn golden() -> BTreeMap<String, Answer> {
    let text = include_str!("golden/answers.csv");
    let line = |line: &str| {
        let mut parts = line.split(',');
        let name = parts.next().expect("a name").to_string();
        let numbers: Vec<i64> = parts.map(|part| part.parse().expect("a number")).collect();
        (name, Answer::try_from(numbers).expect("six numbers"))
    };
    text.lines().skip(1).map(line).collect()
}

pub(crate) fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

pub(crate) fn left() -> RecordBatch {
    let rows = 0..400i64;
    let floats = [0.0, -0.0, f64::NAN, 1.5, 2.5];
    RecordBatch::try_from_iter_with_nullable([
        ("k", numbers(rows.clone().map(|i| (i % 13 != 0).then_some(i * 7 % 61))), true),
        (
            "f",
            Arc::new(rows.clone().map(|i| (i % 11 != 0).then_some(floats[i as usize % 5])).collect::<Float64Array>()),
            true,
        ),
        ("n", numbers(rows.map(Some)), true),
    ])
    .expect("columns of one length")
}

pub(crate) fn right() -> RecordBatch {
    let rows = 0..300i64;
    let floats = [-0.0, -f64::NAN, 1.5, 7.0];
    RecordBatch::try_from_iter_with_nullable([
        ("j", numbers(rows.clone().map(|i| (i % 17 != 0).then_some(i * 11 % 83))), true),
        ("g", Arc::new(rows.clone().map(|i| Some(floats[i as usize % 4])).collect::<Float64Array>()) as ArrayRef, true),
        ("m", numbers(rows.map(Some)), true),
    ])
    .expect("columns of one length")
}

/// Keys, row numbers, and a long text that makes them take memory.
pub(crate) fn large(names: [&str; 2], rows: i64, key: impl Fn(i64) -> i64) -> RecordBatch {
    let texts = (0..rows).map(|i| Some(format!("{i:030}")));
    RecordBatch::try_from_iter_with_nullable([
        (names[0], numbers((0..rows).map(|i| Some(key(i)))), true),
        ("text", Arc::new(texts.collect::<arrow::array::StringArray>()) as ArrayRef, true),
        (names[1], numbers((0..rows).map(Some)), true),
    ])
    .expect("columns of one length")
}

pub(crate) struct Setting {
    pub(crate) workers: usize,
    pub(crate) memory_limit_bytes: usize,
    pub(crate) partitions: usize,
}

/// A source of `batch` in pieces.
pub(crate) fn source(graph: &mut Graph, name: &str, batch: &RecordBatch) -> NodeId {
    let pieces = (0..batch.num_rows())
        .step_by(1000)
        .map(|at| batch.slice(at, 1000.min(batch.num_rows() - at)))
        .collect::<Vec<_>>();
    graph.source(name, MemorySource::new(batch.schema(), pieces))
}

pub(crate) fn names(batch: &RecordBatch, columns: impl IntoIterator<Item = usize>) -> Vec<String> {
    columns.into_iter().map(|column| batch.schema().field(column).name().clone()).collect()
}

/// Runs a job, and digests columns `n` and `m`, or the mark, of the node that `build` makes.
pub(crate) fn run_job(setting: &Setting, build: impl FnOnce(&mut Graph) -> NodeId + Send + 'static) -> Answer {
    let config = ClusterConfig {
        workers: setting.workers,
        memory_limit_bytes: setting.memory_limit_bytes,
        ..ClusterConfig::default()
    };
    let (done, result) = channel();
    let job = std::thread::Builder::new().name("a test".into());
    let job = job.spawn(move || {
        let cluster = Cluster::start(config).expect("the cluster starts");
        let mut graph = Graph::new();
        let join = build(&mut graph);
        let output = graph.result("result", join.gather());
        let mut job = cluster.run(&graph).expect("it starts");
        let mut answer = Answer::default();
        for batch in job.take_result(output).expect("taken once") {
            digest(&batch.expect("it goes well"), &mut answer);
        }
        job.wait().expect("it ends well");
        eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
        assert_within_limit(cluster.memory());
        let _ = done.send(answer);
    });
    job.expect("a thread");
    result.recv_timeout(Duration::from_secs(120)).expect("an answer within two minutes")
}

fn digest(batch: &RecordBatch, answer: &mut Answer) {
    let column = |name: &str| -> Option<Vec<Option<i64>>> {
        batch.column_by_name(name).map(|column| column.as_primitive::<Int64Type>().iter().collect())
    };
    let mark = batch.column_by_name("mark").map(|mark| {
        assert_eq!((mark.data_type(), mark.null_count()), (&DataType::Boolean, 0));
        mark.as_boolean().iter().map(|mark| mark.map(i64::from)).collect::<Vec<_>>()
    });
    let nothing = || vec![None; batch.num_rows()];
    let (n, m) = (column("n"), column("m"));
    let n = n.or_else(|| mark.clone()).unwrap_or_else(nothing);
    let m = m.or(mark).unwrap_or_else(nothing);
    for (n, m) in n.into_iter().zip(m) {
        answer[0] += 1;
        answer[1] += i64::from(n.is_some());
        answer[2] += i64::from(m.is_some());
        answer[3] += n.unwrap_or(0);
        answer[4] += m.unwrap_or(0);
        answer[5] += (n.unwrap_or(-1) + 2) * 31 % 10_007 * ((m.unwrap_or(-1) + 2) * 17 % 9_973);
    }
}
