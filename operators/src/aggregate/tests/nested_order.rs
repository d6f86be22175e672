//! First and last values in the order of structs and lists, which DataFusion's accumulators compare right within one batch.

use arrow::array::{Int64Array, ListArray, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Int64Type};
use datafusion_functions_aggregate::first_last::{first_value_udaf, last_value_udaf};

use super::*;

/// Structs and lists with nulls in many places, in small batches; no two rows are alike.
fn input(rows: i64, batch_rows: usize) -> Vec<RecordBatch> {
    let valid: NullBuffer = (0..rows).map(|i| i % 11 > 0).collect::<Vec<_>>().into();
    let a: ArrayRef = Arc::new((0..rows).map(|i| (i * 7 % 5 > 0).then_some(i * 31 % 3)).collect::<Int64Array>());
    let text = |i: i64| (i * 3 % 7 > 0).then(|| format!("a text of some length {}", i * 37 % 13));
    let b: ArrayRef = Arc::new((0..rows).map(text).collect::<StringArray>());
    let fields = [("a", &a), ("b", &b)].map(|(name, array)| Field::new(name, array.data_type().clone(), true));
    let pairs = StructArray::new(fields.to_vec().into(), vec![a, b], Some(valid));
    let list = |i: i64| (i % 13 > 0).then(|| (0..i % 4).map(move |at| ((i + at) % 3 > 0).then_some((i * at) % 4)));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>((0..rows).map(list));
    let all = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| i * i % 23))) as ArrayRef, true),
        ("id", Arc::new(Int64Array::from_iter_values(0..rows)), true),
        ("pair", Arc::new(pairs), true),
        ("list", Arc::new(lists), true),
    ])
    .expect("columns of one length");
    let starts = (0..all.num_rows()).step_by(batch_rows);
    starts.map(|from| all.slice(from, batch_rows.min(all.num_rows() - from))).collect()
}

#[test]
fn the_first_row_in_an_order_of_structs_or_lists_is_the_same_however_rows_come_in_batches() {
    let input = input(1000, 9);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let by = |name: &str| PhysicalSortExpr::new(column(name), SortOptions { descending, nulls_first });
        let orders = [vec![by("pair"), by("list"), by("id")], vec![by("list"), by("pair"), by("id")]];
        let calls = orders.iter().flat_map(|order| {
            [first_value_udaf(), last_value_udaf()].into_iter().flat_map(|function| {
                ["id", "pair"].map(|value| Call {
                    order_by: order.clone(),
                    ..Call::new(Arc::clone(&function), vec![column(value)])
                })
            })
        });
        check(&["k"], &calls.collect::<Vec<_>>(), &input, 0.0);
    }
}

/// Each group counted all structs of the batch that its own was in: 20 megabytes for 300 rows.
#[test]
fn a_group_counts_its_own_struct_and_not_all_of_its_batch() {
    let input = input(300, 300);
    let schema = input[0].schema();
    let by = |name: &str| PhysicalSortExpr::new(col(name, &schema).expect("a column"), SortOptions::default());
    let calls = ["pair", "list", "id"].map(|value| Call {
        order_by: vec![by("pair"), by("list"), by("id")],
        ..Call::new(first_value_udaf(), vec![col(value, &schema).expect("a column")])
    });
    // Each row is a group.
    let aggregate = describe(&schema, &["id"], &calls).expect("can be computed");
    let mut table = super::super::table::Table::new(&aggregate, true).expect("has its functions");
    let arguments: Vec<_> =
        aggregate.functions().iter().map(|function| function.evaluate(&input[0]).expect("columns")).collect();
    let keys = aggregate.keys(&input[0]).expect("a column");
    table.update(&keys, &arguments, 300, &mut Vec::new()).expect("takes rows");
    assert!(table.bytes() < 300 * 3 * 2048, "{} bytes", table.bytes());
    let outcome = run(&aggregate, &input, &Run { floating_bytes: 0, ..Run::default() });
    assert_eq!(outcome.overruns, 0);
    assert_same(&outcome, 1, &expected(&schema, &["id"], &calls, &input), 0.0);
}
