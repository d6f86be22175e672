//! Joins whose streamed side goes through the filter that the held side makes: it changes no answer.

use aqueduct_runtime::memory::Account;
use aqueduct_runtime::{Operator, OperatorContext};
use arrow::array::UInt32Array;
use arrow::compute::{filter_record_batch, take_record_batch};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use proptest::prelude::*;

use super::oracle::lines;
use super::random::{KINDS, batch, values};
use super::*;
use crate::expression::evaluate_mask;
use crate::join::keys::KeyEncoder;
use crate::join::{AwaitFilters, RuntimeFilter};

/// Calls `operator` until it wants input; whether it wants none any more.
fn settle(operator: &mut dyn Operator, mut step: Step, out: &mut Outbox, batches: &mut Vec<RecordBatch>) -> bool {
    loop {
        while let Some((_, batch)) = out.pop() {
            hand_out(&batch);
            batches.push(batch);
        }
        match step {
            Step::NeedInput => return false,
            Step::Done => return true,
            Step::MoreOutput => {}
            Step::Blocked(ticket) => ticket.wait(),
        }
        step = operator.resume(out).expect("resumes");
    }
}

/// The rows of `batch` that each of so many partitions gets.
fn spread(batch: &RecordBatch, keys: usize, partitions: usize) -> Vec<RecordBatch> {
    let columns: Vec<usize> = (0..keys).collect();
    let encoder = KeyEncoder::new(&batch.schema(), &columns, true).expect("keys");
    let encoded = encoder.encode(&batch.columns()[..keys], batch.num_rows()).expect("encodes");
    let mut hashes = Vec::new();
    encoded.hash(&mut hashes);
    (0..partitions)
        .map(|partition| {
            let own =
                (0..batch.num_rows() as u32).filter(|row| hashes[*row as usize] as usize % partitions == partition);
            take_record_batch(batch, &UInt32Array::from_iter_values(own)).expect("taken")
        })
        .collect()
}

fn columns(batch: &RecordBatch, keys: usize) -> Vec<Expression> {
    let schema = batch.schema();
    (0..keys).map(|key| Arc::new(Column::new(schema.field(key).name(), key)) as Expression).collect()
}

struct Case {
    partitions: usize,
    rows: usize,
    /// Of the streamed rows, this share comes before the held side is known, and is looked at then.
    early: bool,
    broadcast: bool,
}

/// All partitions of a join, and how many rows of the streamed side have passed the filter.
fn run_filtered(
    join: HashJoin,
    left: &RecordBatch,
    right: &RecordBatch,
    keys: usize,
    case: &Case,
) -> (Vec<RecordBatch>, usize) {
    let filter = RuntimeFilter::new();
    let build = if join.detail().ends_with("left") { 0 } else { 1 };
    let join = join.with_runtime_filter(filter.clone(), (0..keys).collect(), case.broadcast);
    let inputs = [left, right];
    let predicate = filter.expression(columns(inputs[1 - build], keys));
    let pool = MemoryPool::new(1 << 30);
    let context = |partition| -> OperatorContext {
        context().pool(&pool).partition(partition, case.partitions).operator(&[left.schema(), right.schema()])
    };
    let mut instances: Vec<Box<dyn Operator>> =
        (0..case.partitions).map(|partition| join.instantiate(context(partition)).expect("made")).collect();
    let (mut out, mut batches, mut passed) = (Outbox::new(), Vec::new(), 0);
    let mut filtered = |batch: &RecordBatch| {
        let mask = evaluate_mask(predicate.as_ref(), batch).expect("evaluates");
        let batch = filter_record_batch(batch, &mask).expect("as long");
        passed += batch.num_rows();
        batch
    };
    let probes = spread(inputs[1 - build], keys, case.partitions);
    let mut early: Vec<Vec<RecordBatch>> = vec![Vec::new(); case.partitions];
    let mut done = vec![false; case.partitions];
    let held = match case.broadcast {
        true => vec![inputs[build].clone(); case.partitions],
        false => spread(inputs[build], keys, case.partitions),
    };
    for (partition, held) in held.iter().enumerate() {
        for piece in pieces(held, case.rows) {
            let step = instances[partition].process(build, piece, &mut out).expect("builds");
            settle(instances[partition].as_mut(), step, &mut out, &mut batches);
        }
        if case.early {
            assert_eq!(filter.is_known(), partition > 0 && case.broadcast);
            early[partition] = pieces(&probes[partition], case.rows).iter().take(2).map(&mut filtered).collect();
        }
        let step = instances[partition].finish(build, &mut out).expect("seals");
        done[partition] = settle(instances[partition].as_mut(), step, &mut out, &mut batches);
    }
    assert!(filter.is_known());
    for (partition, probe) in probes.iter().enumerate().filter(|(partition, _)| !done[*partition]) {
        let read = early[partition].len();
        let late: Vec<_> = pieces(probe, case.rows).iter().skip(read).map(&mut filtered).collect();
        for piece in early[partition].drain(..).chain(late).filter(|piece| piece.num_rows() > 0) {
            let step = instances[partition].process(1 - build, piece, &mut out).expect("probes");
            settle(instances[partition].as_mut(), step, &mut out, &mut batches);
        }
        let step = instances[partition].finish(1 - build, &mut out).expect("ends");
        settle(instances[partition].as_mut(), step, &mut out, &mut batches);
    }
    drop(instances);
    assert!(!filter.is_known(), "what a join knew is gone with it");
    (batches, passed)
}

fn filter_types() -> Vec<(JoinType, JoinSide)> {
    let sides = [JoinSide::Left, JoinSide::Right];
    let all = ALL_TYPES.into_iter().flat_map(|how| sides.map(|side| (how, side)));
    all.filter(|(how, side)| HashJoin::allows_runtime_filter(*how, *side)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_filter_changes_no_answer(
        (left, right) in (1u8..20, 1u8..20).prop_flat_map(|(a, b)| (values(70, a), values(70, b))),
        kind in 0..KINDS, which in 0..100usize, nulls_equal in any::<bool>(), early in any::<bool>(),
        broadcast in any::<bool>(), partitions in 1..4usize, rows in 1..40usize,
    ) {
        let (left, right) = (batch(kind, &left, ["k", "n"]), batch(kind, &right, ["j", "m"]));
        let keys = left.num_columns() - 2;
        let types = filter_types();
        let (how, build) = types[which % types.len()];
        let nulls = if nulls_equal { NullEquality::NullEqualsNull } else { NullEquality::NullEqualsNothing };
        let join = || hash_join(&left, &right, keys, how, build, nulls);
        let broadcast = broadcast && HashJoin::allows_broadcast(how, build);
        let case = Case { partitions, rows, early, broadcast };
        let (found, _) = run_filtered(join(), &left, &right, keys, &case);
        let plain = run(&join(), &pieces(&left, rows), &pieces(&right, rows), Run::default()).expect("runs");
        prop_assert_eq!(lines(&found), lines(&plain.batches), "{} {}", how, build);
    }
}

#[test]
fn rows_whose_key_is_not_held_do_not_pass() {
    let left = left_table((0..1000).map(|n| Some(n * 100)).collect());
    let right = right_table((0..100_000).map(|n| if n % 10 == 9 { None } else { Some(n) }).collect());
    for (how, build, pairs) in [(JoinType::Inner, JoinSide::Left, 1000), (JoinType::LeftAnti, JoinSide::Left, 0)] {
        for (broadcast, partitions) in [(false, 1), (false, 3), (true, 1), (true, 3)] {
            let case = Case { partitions, rows: 1000, early: false, broadcast: broadcast && how == JoinType::Inner };
            let join = hash_join(&left, &right, 1, how, build, NullEquality::NullEqualsNothing);
            let (found, passed) = run_filtered(join, &left, &right, 1, &case);
            let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, pairs);
            assert!((1000..3000).contains(&passed), "{passed} rows have passed");
        }
    }
}

#[test]
fn nothing_passes_where_nothing_is_held() {
    let (left, right) = (left_table(vec![]), right_table((0..100).map(Some).collect()));
    let case = Case { partitions: 2, rows: 10, early: false, broadcast: false };
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let (found, passed) = run_filtered(join, &left, &right, 1, &case);
    assert_eq!((found.len(), passed), (0, 0));
}

#[test]
fn what_lets_nearly_everything_pass_is_not_asked_any_more() {
    let left = left_table((0..90_000).map(Some).collect());
    let right = right_table((0..100_000).rev().map(Some).collect());
    let case = Case { partitions: 1, rows: 1000, early: false, broadcast: false };
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    // The first ten thousand find nothing; after 80,000 rows seven of eight have passed.
    let (found, passed) = run_filtered(join, &left, &right, 1, &case);
    assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 90_000);
    assert!((90_000..91_000).contains(&passed), "{passed}");
    let right = right_table((0..100_000).map(Some).collect());
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let (_, passed) = run_filtered(join, &left, &right, 1, &case);
    assert_eq!(passed, 100_000, "the last rows find nothing, and nobody looks");
}

/// The keys are the first to go where memory is short; how far they reach is still known.
#[test]
fn a_join_that_is_short_of_memory_forgets_its_keys_and_not_its_bounds() {
    let left = left_table((0..2000).map(|n| Some(1000 + 3 * n)).collect());
    let right = right_table((0..10_000).map(Some).collect());
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let filter = RuntimeFilter::new();
    let join = join.with_runtime_filter(filter.clone(), vec![0], false);
    let floor = join.min_memory(64 << 10);
    let passed = |memory: &dyn Fn(&mut dyn Operator, &Account)| -> usize {
        let pool = MemoryPool::new(64 << 20);
        let filter = RuntimeFilter::new();
        let join = join.clone().with_runtime_filter(filter.clone(), vec![0], false);
        let context = context().pool(&pool).floor(floor).operator(&[left.schema(), right.schema()]);
        let account = context.memory.clone();
        let mut operator = join.instantiate(context).expect("made");
        let mut out = Outbox::new();
        operator.process(0, left.clone(), &mut out).expect("builds");
        let step = operator.finish(0, &mut out).expect("seals");
        settle(operator.as_mut(), step, &mut out, &mut Vec::new());
        let before = account.held();
        memory(operator.as_mut(), &account);
        assert!(account.held() <= before);
        let mask = evaluate_mask(filter.expression(columns(&right, 1)).as_ref(), &right).expect("evaluates");
        mask.true_count()
    };
    let all = passed(&|_, _| {});
    assert!((2000..2200).contains(&all), "{all}");
    let bounds_only = passed(&|operator, account| {
        // Beyond its floor, so that it is asked.
        let mut more = account.reservation();
        more.set(floor);
        assert!(operator.spill(1).expect("spills") > 0);
    });
    assert_eq!(bounds_only, 1000 + 3 * 1999 + 1 - 1000);
}

#[test]
fn a_filter_serves_one_job() {
    let (left, right) = (left_table(vec![Some(1)]), right_table(vec![Some(1), Some(2)]));
    let filter = RuntimeFilter::new();
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing)
        .with_runtime_filter(filter.clone(), vec![0], false);
    let make = || join.instantiate(context().operator(&[left.schema(), right.schema()])).expect("made");
    let mut out = Outbox::new();
    let mut first = make();
    first.process(0, left.clone(), &mut out).expect("builds");
    first.finish(0, &mut out).expect("seals");
    assert!(filter.is_known());
    let mut second = make();
    assert!(!filter.is_known(), "the rows of the second job may be others");
    second.finish(0, &mut out).expect("seals");
    assert!(!filter.is_known());
    drop((first, second));
    let mut third = make();
    third.finish(0, &mut out).expect("seals");
    assert!(!filter.is_known());
    let predicate: Expression = filter.expression(columns(&right, 1));
    assert_eq!(predicate.to_string(), "j@0 held by the join");
    assert_eq!(
        evaluate_mask(PhysicalExpr::snapshot(predicate.as_ref()).expect("known").expect("some").as_ref(), &right)
            .expect("evaluates")
            .true_count(),
        2
    );
}

/// Whether the first batch of rows that await `filter` has gone on.
fn goes_on(awaiting: &mut dyn Operator, step: Step) -> bool {
    let mut out = Outbox::new();
    match step {
        Step::Blocked(ticket) if !ticket.is_done() => return false,
        _ => awaiting.resume(&mut out).expect("resumes"),
    };
    out.pop().is_some()
}

#[test]
fn rows_that_await_a_filter_go_on_once_every_partition_has_told_or_one_never_will() {
    let (left, right) = (left_table(vec![Some(1)]), right_table(vec![Some(1), Some(2)]));
    for all_tell in [true, false] {
        let filter = RuntimeFilter::new();
        let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing)
            .with_runtime_filter(filter.clone(), vec![0], false);
        let mut out = Outbox::new();
        let awaiting = AwaitFilters::new(vec![filter.clone()]);
        let mut awaiting = awaiting.instantiate(context().operator(&[right.schema()])).expect("made");
        let step = awaiting.process(0, right.clone(), &mut out).expect("waits");
        assert!(out.is_empty() && !goes_on(awaiting.as_mut(), step));
        let mut joins: Vec<_> = (0..2)
            .map(|partition| {
                let context = context().partition(partition, 2).operator(&[left.schema(), right.schema()]);
                join.instantiate(context).expect("made")
            })
            .collect();
        joins[0].process(0, left.clone(), &mut out).expect("builds");
        joins[0].finish(0, &mut out).expect("seals");
        let step = awaiting.resume(&mut out).expect("waits");
        assert!(!goes_on(awaiting.as_mut(), step), "the other partition may hold more");
        if all_tell {
            joins[1].finish(0, &mut out).expect("seals");
        } else {
            joins.truncate(1);
        }
        assert_eq!(filter.is_known(), all_tell);
        assert!(goes_on(awaiting.as_mut(), Step::NeedInput));
        // From now on it is in nobody's way.
        awaiting.process(0, right.clone(), &mut out).expect("passes");
        assert!(out.pop().is_some());
    }
}

#[test]
fn a_join_that_needs_rows_without_a_match_tells_nobody() {
    let (left, right) = (left_table(vec![Some(1)]), right_table(vec![Some(1)]));
    let join = hash_join(&left, &right, 1, JoinType::Right, JoinSide::Left, NullEquality::NullEqualsNothing)
        .with_runtime_filter(RuntimeFilter::new(), vec![0], false);
    assert!(join.schema().expect_err("right rows stay").to_string().contains("match nothing"));
    let allowed = filter_types();
    assert!(
        allowed.contains(&(JoinType::Left, JoinSide::Left)) && !allowed.contains(&(JoinType::Left, JoinSide::Right))
    );
    assert!(allowed.iter().all(|(how, _)| *how != JoinType::Full));
    assert_eq!(allowed.len(), 12);
}
