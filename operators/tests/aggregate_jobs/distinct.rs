//! Distinct values of one group that are many times the memory.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion_expr::Operator as Binary;
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_functions_aggregate::sum::sum_udaf;
use datafusion_physical_expr::expressions::{binary, lit};

use super::*;

/// Runs aggregates of distinct texts and numbers, together with others, and checks what they come to.
fn check(workers: usize, limit_bytes: usize, rows: u64, text_bytes: usize, keyed: bool) {
    let cluster = cluster(workers, limit_bytes);
    let source = skewed(rows, 1000, text_bytes);
    let schema = aqueduct_runtime::SourceSpec::schema(&source);
    let column = |name: &str| col(name, &schema).expect("a column");
    let small = binary(column("v"), Binary::Lt, lit((rows / 2) as i64), &schema).expect("a comparison");
    let residue = binary(column("v"), Binary::Modulo, lit(1000i64), &schema).expect("a number");
    let calls = [
        Call::distinct(count_udaf(), vec![column("t")]),
        Call::new(count_udaf(), vec![lit(1i64)]),
        Call::distinct(sum_udaf(), vec![column("v")]),
        Call { filter: Some(small), ..Call::distinct(count_udaf(), vec![column("t")]) },
        Call::distinct(count_udaf(), vec![residue]),
        Call::new(sum_udaf(), vec![column("v")]),
    ];
    let mut graph = Graph::new();
    let numbers = graph.source("rows", source);
    let keys: &[&str] = if keyed { &["k"] } else { &[] };
    let groups = aggregate(&mut graph, numbers, &schema, keys, &calls);
    let outcome = run(&cluster, graph, groups).expect("runs");
    let sum = |column: usize| -> i64 {
        outcome
            .batches
            .iter()
            .flat_map(|batch| batch.column(keys.len() + column).as_primitive::<Int64Type>().values())
            .sum()
    };
    let groups: usize = outcome.batches.iter().map(RecordBatch::num_rows).sum();
    let all = rows as i64;
    assert_eq!(groups, if keyed { 1000.min(rows / 10) as usize } else { 1 });
    // Every value comes once, so groups have no value in common.
    assert_eq!((sum(0), sum(1), sum(3)), (all, all, all / 2));
    assert_eq!((sum(2), sum(5)), (all * (all - 1) / 2, all * (all - 1) / 2));
    if !keyed {
        assert_eq!(sum(4), 1000);
    }
    assert!(outcome.spilled_bytes > rows * text_bytes as u64 / 2, "spilled {}", outcome.spilled_bytes);
}

#[test]
fn distinct_texts_of_one_group_mixed_with_others_spill() {
    within(300, || check(2, SMALL_BYTES, 200_000, 100, true));
}

#[test]
fn distinct_texts_of_all_rows_mixed_with_others_spill() {
    within(300, || check(2, SMALL_BYTES, 200_000, 100, false));
}

#[test]
fn distinct_texts_on_one_worker_spill() {
    within(300, || check(1, SMALL_BYTES, 200_000, 100, true));
}

#[test]
fn distinct_texts_of_kilobytes_spill() {
    within(300, || check(2, SMALL_BYTES, 20_000, 3000, true));
}

#[test]
fn distinct_texts_of_half_a_batch_spill() {
    within(300, || check(2, SMALL_BYTES, 2_000, 30_000, true));
}

/// As an optimiser plans a lone distinct aggregate: the distinct rows first, and then their number.
fn check_two_group_bys(workers: usize, rows: u64, text_bytes: usize) {
    let cluster = cluster(workers, SMALL_BYTES);
    let source = skewed(rows, 1000, text_bytes);
    let schema = aqueduct_runtime::SourceSpec::schema(&source);
    let mut graph = Graph::new();
    let numbers = graph.source("rows", source);
    let distinct = aggregate(&mut graph, numbers, &schema, &["k", "t"], &[]);
    let schema = Arc::new(schema.project(&[0, 2]).expect("two columns"));
    let count = Call::new(count_udaf(), vec![col("t", &schema).expect("t")]);
    let groups = aggregate(&mut graph, distinct, &schema, &["k"], &[count]);
    let outcome = run(&cluster, graph, groups).expect("runs");
    let counts = outcome.batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values());
    assert_eq!((counts.clone().count(), counts.sum::<i64>()), (1000, rows as i64));
    assert!(outcome.spilled_bytes > rows * text_bytes as u64 / 2, "spilled {}", outcome.spilled_bytes);
}

#[test]
fn distinct_rows_and_then_their_number_spill() {
    within(300, || check_two_group_bys(1, 200_000, 100));
    within(300, || check_two_group_bys(2, 300_000, 100));
}

#[test]
fn distinct_rows_of_kilobytes_and_then_their_number_spill() {
    within(300, || check_two_group_bys(2, 20_000, 3000));
}

mod heavy {
    use super::*;

    #[test]
    fn a_million_distinct_texts_nine_tenths_of_them_in_one_group_spill() {
        within(600, || check(2, SMALL_BYTES, 1_000_000, 60, true));
    }
}
