//! Whole jobs with joins, over 1, 2 and 8 partitions and in little memory, compared with DuckDB's answers
//! (`join_golden/make.py`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aqueduct_operators::{Expression, HashJoin, MemorySource, NestedLoopJoin};
use aqueduct_runtime::testing::eventually;
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, OperatorSpec, Partitions};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinSide, JoinType, NullEquality};
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};

/// Rows, those with a left row, those with a right row, sums of both numbers, and a sum over pairs.
type Answer = [i64; 6];

fn golden() -> BTreeMap<String, Answer> {
    let text = include_str!("join_golden/answers.csv");
    let line = |line: &str| {
        let mut parts = line.split(',');
        let name = parts.next().expect("a name").to_string();
        let numbers: Vec<i64> = parts.map(|part| part.parse().expect("a number")).collect();
        (name, Answer::try_from(numbers).expect("six numbers"))
    };
    text.lines().skip(1).map(line).collect()
}

fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn left() -> RecordBatch {
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

fn right() -> RecordBatch {
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
fn large(names: [&str; 2], rows: i64, key: impl Fn(i64) -> i64) -> RecordBatch {
    let texts = (0..rows).map(|i| Some(format!("{i:030}")));
    RecordBatch::try_from_iter_with_nullable([
        (names[0], numbers((0..rows).map(|i| Some(key(i)))), true),
        ("text", Arc::new(texts.collect::<arrow::array::StringArray>()) as ArrayRef, true),
        (names[1], numbers((0..rows).map(Some)), true),
    ])
    .expect("columns of one length")
}

/// How the rows get to the join.
#[derive(Clone)]
enum Ways {
    Hashed(Vec<(usize, usize)>),
    Broadcast(JoinSide),
    Gathered,
}

struct Setting {
    workers: usize,
    memory_limit_bytes: usize,
    partitions: usize,
}

/// Runs a join and digests its output columns `n` and `m`, or the mark.
fn run(spec: impl OperatorSpec, left: &RecordBatch, right: &RecordBatch, ways: &Ways, setting: &Setting) -> Answer {
    let (left, right, ways) = (left.clone(), right.clone(), ways.clone());
    let config = ClusterConfig {
        workers: setting.workers,
        memory_limit_bytes: setting.memory_limit_bytes,
        ..ClusterConfig::default()
    };
    let partitions = setting.partitions;
    let (done, result) = channel();
    let job = std::thread::Builder::new().name("a test".into());
    let job = job.spawn(move || {
        let cluster = Cluster::start(config).expect("the cluster starts");
        let mut graph = Graph::new();
        let mut source = |name, batch: &RecordBatch| {
            let pieces = (0..batch.num_rows())
                .step_by(1000)
                .map(|at| batch.slice(at, 1000.min(batch.num_rows() - at)))
                .collect::<Vec<_>>();
            graph.source(name, MemorySource::new(batch.schema(), pieces))
        };
        let (l, r) = (source("left", &left), source("right", &right));
        let names = |batch: &RecordBatch, columns: Vec<usize>| -> Vec<String> {
            columns.iter().map(|&column| batch.schema().field(column).name().clone()).collect()
        };
        let inputs = match &ways {
            Ways::Hashed(on) => [
                l.hash(names(&left, on.iter().map(|on| on.0).collect())),
                r.hash(names(&right, on.iter().map(|on| on.1).collect())),
            ],
            Ways::Broadcast(JoinSide::Left) => [l.broadcast(), r.round_robin()],
            Ways::Broadcast(_) => [l.round_robin(), r.broadcast()],
            Ways::Gathered => [l.gather(), r.gather()],
        };
        let join = graph.operator_with("join", spec, inputs);
        if !matches!(ways, Ways::Gathered) {
            graph.set_partitions(join, Partitions::Fixed(partitions));
        }
        let output = graph.result("result", join);
        let mut job = cluster.run(&graph).expect("it starts");
        let mut answer = Answer::default();
        for batch in job.take_result(output).expect("taken once") {
            digest(&batch.expect("it goes well"), &mut answer);
        }
        job.wait().expect("it ends well");
        eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
        for pool in cluster.memory() {
            assert_eq!(pool.overruns(), 0, "a claim went over the limit");
        }
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

const NOTHING: NullEquality = NullEquality::NullEqualsNothing;

fn less(left: usize, right: usize) -> Expression {
    Arc::new(BinaryExpr::new(Arc::new(Column::new("l", left)), Binary::Lt, Arc::new(Column::new("r", right))))
}

#[test]
fn hash_joins_give_duckdb_s_answers_over_any_number_of_partitions() {
    let (golden, left, right) = (golden(), left(), right());
    let equal = NullEquality::NullEqualsNull;
    let cases = [
        ("inner", JoinType::Inner, vec![(0, 0)], NOTHING, false),
        ("left", JoinType::Left, vec![(0, 0)], NOTHING, false),
        ("right", JoinType::Right, vec![(0, 0)], NOTHING, false),
        ("full", JoinType::Full, vec![(0, 0)], NOTHING, false),
        ("left semi", JoinType::LeftSemi, vec![(0, 0)], NOTHING, false),
        ("left anti", JoinType::LeftAnti, vec![(0, 0)], NOTHING, false),
        ("right semi", JoinType::RightSemi, vec![(0, 0)], NOTHING, false),
        ("right anti", JoinType::RightAnti, vec![(0, 0)], NOTHING, false),
        ("left mark", JoinType::LeftMark, vec![(0, 0)], NOTHING, false),
        ("right mark", JoinType::RightMark, vec![(0, 0)], NOTHING, false),
        ("inner nulls equal", JoinType::Inner, vec![(0, 0)], equal, false),
        ("full nulls equal", JoinType::Full, vec![(0, 0)], equal, false),
        ("inner floats", JoinType::Inner, vec![(1, 1)], NOTHING, false),
        ("full floats", JoinType::Full, vec![(1, 1)], NOTHING, false),
        ("inner two keys", JoinType::Inner, vec![(0, 0), (1, 1)], NOTHING, false),
        ("left filtered", JoinType::Left, vec![(0, 0)], NOTHING, true),
        ("full filtered", JoinType::Full, vec![(0, 0)], NOTHING, true),
        ("left semi filtered", JoinType::LeftSemi, vec![(0, 0)], NOTHING, true),
        ("left anti filtered", JoinType::LeftAnti, vec![(0, 0)], NOTHING, true),
    ];
    for (number, (name, join_type, on, nulls, filtered)) in cases.into_iter().enumerate() {
        for build in [JoinSide::Left, JoinSide::Right] {
            let join = HashJoin::try_new(left.schema(), right.schema(), on.clone(), join_type, nulls);
            let join = join.expect("fits").with_build(build);
            let join = if filtered { join.with_filter(less(2, 5)) } else { join };
            let setting = Setting { workers: 2, memory_limit_bytes: 64 << 20, partitions: [1, 2, 8][number % 3] };
            let mut ways = vec![Ways::Hashed(on.clone())];
            if HashJoin::allows_broadcast(join_type, build) {
                ways.push(Ways::Broadcast(build));
            }
            for ways in &ways {
                assert_eq!(run(join.clone(), &left, &right, ways, &setting), golden[name], "{name} {build}");
            }
        }
    }
}

#[test]
fn not_in_gives_duckdb_s_answers_with_the_other_side_broadcast_or_gathered() {
    let (golden, left, right) = (golden(), left(), right());
    let keys: BooleanArray = right.column(0).as_primitive::<Int64Type>().iter().map(|j| Some(j? > 30)).collect();
    let without_null = arrow::compute::filter_record_batch(&right, &keys).expect("filtered");
    for (name, right) in [("not in", &without_null), ("not in with null", &right)] {
        for (build, ways) in [
            (JoinSide::Right, Ways::Broadcast(JoinSide::Right)),
            (JoinSide::Right, Ways::Gathered),
            (JoinSide::Left, Ways::Gathered),
        ] {
            let join = HashJoin::try_new(left.schema(), right.schema(), vec![(0, 0)], JoinType::LeftAnti, NOTHING);
            let join = join.expect("fits").with_build(build).null_aware();
            let setting = Setting { workers: 2, memory_limit_bytes: 64 << 20, partitions: 8 };
            assert_eq!(run(join, &left, right, &ways, &setting), golden[name], "{name} {build}");
        }
    }
}

#[test]
fn nested_loops_give_duckdb_s_answers() {
    let (golden, left, right) = (golden(), left(), right());
    for (name, join_type, filter) in [("cross", JoinType::Inner, None), ("full less", JoinType::Full, Some(less(0, 3)))]
    {
        for partitions in [1, 2, 8] {
            let join = NestedLoopJoin::try_new(left.schema(), right.schema(), join_type, filter.clone());
            let ways = NestedLoopJoin::broadcast_side(join_type).map_or(Ways::Gathered, Ways::Broadcast);
            let setting = Setting { workers: 2, memory_limit_bytes: 64 << 20, partitions };
            assert_eq!(run(join.expect("fits"), &left, &right, &ways, &setting), golden[name], "{name} {partitions}");
        }
    }
}

#[test]
fn far_more_rows_than_memory_give_duckdb_s_answers() {
    let golden = golden();
    let left = large(["k", "n"], 300_000, |i| i * 7 % 250_007);
    let right = large(["j", "m"], 300_000, |i| i * 11 % 260_003);
    for (name, join_type) in [("big inner", JoinType::Inner), ("big full", JoinType::Full)] {
        for partitions in [2, 8] {
            let join = HashJoin::try_new(left.schema(), right.schema(), vec![(0, 0)], join_type, NOTHING);
            let setting = Setting { workers: 2, memory_limit_bytes: 16 << 20, partitions };
            let ways = Ways::Hashed(vec![(0, 0)]);
            assert_eq!(run(join.expect("fits"), &left, &right, &ways, &setting), golden[name], "{name} {partitions}");
        }
    }
}

#[test]
fn a_hot_key_gives_duckdb_s_answer_in_little_memory() {
    let left = large(["k", "n"], 40_000, |i| if i % 10 == 0 { i } else { 7 });
    let right = large(["j", "m"], 40_000, |i| if i % 1000 == 1 { 7 } else { i });
    for build in [JoinSide::Left, JoinSide::Right] {
        let join = HashJoin::try_new(left.schema(), right.schema(), vec![(0, 0)], JoinType::Full, NOTHING);
        let setting = Setting { workers: 2, memory_limit_bytes: 12 << 20, partitions: 2 };
        let ways = Ways::Hashed(vec![(0, 0)]);
        let answer = run(join.expect("fits").with_build(build), &left, &right, &ways, &setting);
        assert_eq!(answer, golden()["hot full"], "{build}");
    }
}

/// Its floor is small: two workers of 16 MB run a join with room to spare.
#[test]
fn the_floor_of_a_join_is_about_a_megabyte_where_batches_are_small() {
    let (left, right) = (left(), right());
    let join = HashJoin::try_new(left.schema(), right.schema(), vec![(0, 0)], JoinType::Inner, NOTHING).expect("fits");
    assert!(join.min_memory(64 << 10) < 1100 << 10, "{}", join.min_memory(64 << 10));
}
