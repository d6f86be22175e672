//! Keys and inputs of every shape.

use arrow::array::{
    DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion_expr::Operator as Binary;
use datafusion_functions_aggregate::average::avg_udaf;
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion_functions_aggregate::sum::sum_udaf;
use datafusion_physical_expr::expressions::{binary, lit};

use super::*;

fn input(rows: i64, distinct: i64) -> Vec<RecordBatch> {
    let key = |i: i64| i * 7919 % distinct;
    let all = RecordBatch::try_from_iter_with_nullable([
        (
            "i",
            Arc::new(Int64Array::from_iter((0..rows).map(|i| (key(i) % 5 != 1).then_some(key(i))))) as ArrayRef,
            true,
        ),
        (
            "f",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| match key(i) % 6 {
                0 => None,
                1 => Some(f64::NAN),
                2 => Some(if i % 2 == 0 { 0.0 } else { -0.0 }),
                3 => Some(-f64::NAN),
                _ => Some(key(i) as f64 / 8.0),
            }))),
            true,
        ),
        ("s", Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("cat_{}", key(i))))), true),
        (
            "t",
            Arc::new(StringViewArray::from_iter((0..rows).map(|i| match key(i) % 4 {
                0 => None,
                1 => Some(format!("a text that is longer than a view holds, number {}", key(i))),
                2 => Some("x".repeat(key(i) as usize % 40)),
                _ => Some(key(i).to_string()),
            }))),
            true,
        ),
        (
            "d",
            Arc::new(DictionaryArray::<Int32Type>::new(
                Int32Array::from_iter((0..rows).map(|i| (i % 9 != 0).then_some((key(i) % 3) as i32))),
                Arc::new(StringArray::from(vec!["red", "green", "blue"])),
            )),
            true,
        ),
        ("m", Arc::new(TimestampMillisecondArray::from_iter_values((0..rows).map(key)).with_timezone("UTC")), true),
        (
            "v",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| (i % 11 != 0).then_some((i % 1000) as f64 / 4.0)))),
            true,
        ),
    ])
    .expect("columns of one length");
    let mut batches = Vec::new();
    let mut start = 0;
    while start < all.num_rows() {
        let length = (all.num_rows() - start).min(700 + start % 500);
        batches.push(all.slice(start, length));
        start += length;
    }
    if batches.is_empty() {
        batches.push(all);
    }
    batches
}

fn calls(schema: &SchemaRef) -> Vec<Call> {
    let value = || vec![col("v", schema).expect("v")];
    let mut filtered = Call::new(sum_udaf(), value());
    let v = col("v", schema).expect("v");
    filtered.filter = Some(binary(v, Binary::Gt, lit(100.0), schema).expect("a comparison"));
    vec![
        Call::new(avg_udaf(), value()),
        Call::new(count_udaf(), vec![lit(1i64)]),
        Call::new(count_udaf(), value()),
        Call::new(min_udaf(), value()),
        Call::new(max_udaf(), vec![col("t", schema).expect("t")]),
        filtered,
    ]
}

fn check_keys(keys: &[&str], rows: i64, distinct: i64) {
    let input = input(rows, distinct);
    check(keys, &calls(&input[0].schema()), &input, 1e-12);
}

#[test]
fn one_key_of_any_type_groups_as_sql_says() {
    for key in ["i", "f", "s", "t", "d", "m"] {
        check_keys(&[key], 3000, 100);
    }
}

#[test]
fn many_groups_of_any_type_come_out_once() {
    for key in ["i", "f", "s", "t", "m"] {
        check_keys(&[key], 20_000, 9_973);
    }
}

#[test]
fn several_keys_group_together() {
    check_keys(&["i", "t"], 3000, 50);
    check_keys(&["f", "d"], 3000, 50);
    check_keys(&["s", "t", "f", "d", "m"], 5000, 2000);
}

#[test]
fn an_empty_input_has_no_groups_and_one_row_without_keys() {
    check_keys(&["s"], 0, 1);
    check_keys(&[], 0, 1);
}

#[test]
fn one_row_is_one_group() {
    check_keys(&["t"], 1, 1);
    check_keys(&[], 1, 1);
}

#[test]
fn without_keys_everything_is_one_group() {
    check_keys(&[], 5000, 100);
}

#[test]
fn a_key_with_nine_of_ten_rows_is_one_group_among_others() {
    let rows = 20_000;
    let key = Int64Array::from_iter_values((0..rows).map(|i| if i % 10 == 0 { i } else { -1 }));
    let value = Float64Array::from_iter_values((0..rows).map(|i| i as f64));
    let all = RecordBatch::try_from_iter([("k", Arc::new(key) as ArrayRef), ("v", Arc::new(value) as ArrayRef)]);
    let all = all.expect("two columns");
    let schema = all.schema();
    let batches: Vec<_> = (0..20).map(|part| all.slice(part * 1000, 1000)).collect();
    let v = || vec![col("v", &schema).expect("v")];
    check(&["k"], &[Call::new(avg_udaf(), v()), Call::new(count_udaf(), v())], &batches, 1e-12);
}

#[test]
fn keys_alone_are_the_distinct_rows() {
    let input = input(3000, 500);
    check(&["t", "i"], &[], &input, 0.0);
}

#[test]
fn keys_that_hardly_repeat_are_passed_by_the_first_half() {
    let rows = 300_000;
    let key = Int64Array::from_iter_values((0..rows).map(|i| i % (rows - 10)));
    let value = Float64Array::from_iter_values((0..rows).map(|i| i as f64));
    let all = RecordBatch::try_from_iter([("k", Arc::new(key) as ArrayRef), ("v", Arc::new(value) as ArrayRef)]);
    let all = all.expect("two columns");
    let schema = all.schema();
    let batches: Vec<_> = (0..30).map(|part| all.slice(part * 10_000, 10_000)).collect();
    let calls = [Call::new(avg_udaf(), vec![col("v", &schema).expect("v")])];
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let run_options = Run { partials: 1, batch_rows: 8192, ..Run::default() };
    let outcome = run(&aggregate, &batches, &run_options);
    assert_eq!(outcome.state_rows, rows as usize, "the second occurrences came too late for the table");
    let groups: usize = outcome.batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(groups, rows as usize - 10);
    let total: f64 =
        outcome.batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Float64Type>().values().to_vec()).sum();
    // Ten keys have the mean of two values that are rows - 10 apart.
    let once: f64 = (0..rows - 10).map(|i| i as f64).sum();
    assert!((total - (once + 10.0 * (rows - 10) as f64 / 2.0)).abs() < 1.0, "{total}");
}

#[test]
fn keys_whose_rows_lie_together_are_one_state_each_however_many_keys_there_are() {
    let rows = 1_000_000;
    let key = Int64Array::from_iter_values((0..rows).map(|i| i / 4));
    let all = RecordBatch::try_from_iter([("k", Arc::new(key) as ArrayRef)]).expect("a column");
    let schema = all.schema();
    let batches: Vec<_> = (0..100).map(|part| all.slice(part * 10_000, 10_000)).collect();
    let calls = [Call::new(max_udaf(), vec![col("k", &schema).expect("k")])];
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let outcome = run(&aggregate, &batches, &Run { partials: 1, batch_rows: 8192, ..Run::default() });
    // One key more for each table that was full in the middle of its rows.
    assert!((250_000..250_010).contains(&outcome.state_rows), "{}", outcome.state_rows);
}

#[test]
fn names_of_keys_are_told_apart_between_the_halves() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let k = col("k", &schema).expect("k");
    let aggregate =
        Aggregate::try_new(Arc::clone(&schema), vec![(Arc::clone(&k), "x".into()), (k, "x".into())], vec![]);
    let aggregate = aggregate.expect("two keys");
    assert_eq!(aggregate.group_column_names(), ["x", "x#1"]);
    assert_eq!(aggregate.output_schema().field(1).name(), "x");
    assert!(Aggregate::try_new(schema, vec![], vec![]).is_err());
}
