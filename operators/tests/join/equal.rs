//! Joins by equal keys, and by any condition.

use aqueduct_operators::{Expression, HashJoin, NestedLoopJoin};
use aqueduct_runtime::{OperatorSpec, Partitions};
use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinSide, JoinType, NullEquality};
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use std::sync::Arc;

use crate::common::{Answer, Setting, golden, large, left, names, right, run_job, source};

/// How the rows get to the join.
#[derive(Clone)]
enum Ways {
    Hashed(Vec<(usize, usize)>),
    Broadcast(JoinSide),
    Gathered,
}

/// Runs a join and digests its output.
fn run(spec: impl OperatorSpec, left: &RecordBatch, right: &RecordBatch, ways: &Ways, setting: &Setting) -> Answer {
    let (left, right, ways, partitions) = (left.clone(), right.clone(), ways.clone(), setting.partitions);
    run_job(setting, move |graph| {
        let (l, r) = (source(graph, "left", &left), source(graph, "right", &right));
        let inputs = match &ways {
            Ways::Hashed(on) => {
                [l.hash(names(&left, on.iter().map(|on| on.0))), r.hash(names(&right, on.iter().map(|on| on.1)))]
            }
            Ways::Broadcast(JoinSide::Left) => [l.broadcast(), r.round_robin()],
            Ways::Broadcast(_) => [l.round_robin(), r.broadcast()],
            Ways::Gathered => [l.gather(), r.gather()],
        };
        let join = graph.operator_with("join", spec, inputs);
        if !matches!(ways, Ways::Gathered) {
            graph.set_partitions(join, Partitions::Fixed(partitions));
        }
        join
    })
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
