//! Every aggregate of DataFusion's library, over one pass and over two with spilling between.

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, StringViewArray,
};
use arrow::compute::SortOptions;
use datafusion_functions_aggregate::all_default_aggregate_functions;
use datafusion_functions_aggregate::{array_agg, average, count, first_last, median, min_max, string_agg, sum};
use datafusion_physical_expr::expressions::lit;

use super::arguments::arguments;
use super::*;

fn input() -> Vec<RecordBatch> {
    let rows = 4000i64;
    let all = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| i * i % 37))) as ArrayRef, true),
        ("i", Arc::new(Int64Array::from_iter((0..rows).map(|i| (i % 7 != 0).then_some(i * 31 % 1009)))), true),
        (
            "f",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| (i % 5 != 0).then_some((i * 37 % 997) as f64 / 3.0)))),
            true,
        ),
        (
            "g",
            Arc::new(Float64Array::from_iter((0..rows).map(|i| (i % 9 != 0).then_some((i * 41 % 983) as f64 / 5.0)))),
            true,
        ),
        ("b", Arc::new(BooleanArray::from_iter((0..rows).map(|i| (i % 6 != 0).then_some(i % 37 != 4)))), true),
        (
            "s",
            Arc::new(StringArray::from_iter((0..rows).map(|i| (i % 8 != 0).then(|| format!("text {}", i % 61))))),
            true,
        ),
        (
            "t",
            Arc::new(StringViewArray::from_iter(
                (0..rows).map(|i| (i % 8 != 0).then(|| format!("a longer text {}", i % 61))),
            )),
            true,
        ),
        (
            "d",
            Arc::new(Date32Array::from_iter((0..rows).map(|i| (i % 4 != 0).then_some((i * 13 % 5000) as i32)))),
            true,
        ),
        (
            "n",
            Arc::new(
                Decimal128Array::from_iter((0..rows).map(|i| (i % 4 != 0).then_some(i as i128 * 17 % 5001)))
                    .with_precision_and_scale(20, 3)
                    .expect("fits"),
            ),
            true,
        ),
        ("w", Arc::new(Float64Array::from_iter_values((0..rows).map(|i| 1.0 + (i % 3) as f64))), true),
        ("o", Arc::new(Int64Array::from_iter_values((0..rows).map(|i| i * 7919 % 4001))), true),
    ])
    .expect("columns of one length");
    (0..8).map(|part| all.slice(part * 500, 500)).collect()
}

/// One partition of each half keeps the order of rows, which some functions depend on.
fn check_in_order(call: Call, tolerance: f64) {
    let input = input();
    let schema = input[0].schema();
    let name = format!("{} distinct {} of {:?}", call.function.name(), call.distinct, call.arguments);
    let calls = [call];
    for group in [&["k"][..], &[]] {
        let aggregate = describe(&schema, group, &calls).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = expected(&schema, group, &calls, &input);
        for force_spill in [false, true] {
            let options = Run { partials: 1, finals: 1, force_spill, ..Run::default() };
            let outcome = run(&aggregate, &input, &options);
            println!("{name} by {group:?}, spilled {}", outcome.spilled_bytes);
            assert_same(&outcome, group.len(), &expected, tolerance);
        }
    }
}

#[test]
fn every_aggregate_of_the_library_survives_being_split_and_spilled() {
    let schema = input()[0].schema();
    let mut seen = 0;
    for function in all_default_aggregate_functions() {
        let name = function.name().to_string();
        let call = Call::new(function, arguments(&name, &schema));
        if name == "grouping" {
            let error = describe(&schema, &["k"], &[call]).expect_err("is the planner's");
            assert!(error.to_string().contains("grouping"), "{error}");
            continue;
        }
        check_in_order(call, if name.starts_with("approx") { 0.2 } else { 1e-9 });
        seen += 1;
    }
    assert!(seen >= 38, "{seen}");
}

#[test]
fn distinct_aggregates_survive_being_split_and_spilled() {
    let schema = input()[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    for (function, arguments) in [
        (count::count_udaf(), vec![column("i")]),
        (count::count_udaf(), vec![column("s")]),
        (count::count_udaf(), vec![column("t")]),
        (count::count_udaf(), vec![column("f")]),
        (count::count_udaf(), vec![column("d")]),
        (count::count_udaf(), vec![column("n")]),
        (sum::sum_udaf(), vec![column("i")]),
        (sum::sum_udaf(), vec![column("f")]),
        (average::avg_udaf(), vec![column("f")]),
        (median::median_udaf(), vec![column("f")]),
        (min_max::max_udaf(), vec![column("f")]),
    ] {
        check_in_order(Call { distinct: true, ..Call::new(function, arguments) }, 1e-9);
    }
}

#[test]
fn aggregates_of_other_types_survive_being_split_and_spilled() {
    let schema = input()[0].schema();
    for name in ["i", "s", "t", "d", "n", "b"] {
        for function in [
            min_max::min_udaf(),
            min_max::max_udaf(),
            count::count_udaf(),
            first_last::first_value_udaf(),
            first_last::last_value_udaf(),
            array_agg::array_agg_udaf(),
        ] {
            check_in_order(Call::new(function, vec![col(name, &schema).expect("a column")]), 0.0);
        }
    }
    for function in [sum::sum_udaf(), average::avg_udaf()] {
        check_in_order(Call::new(function, vec![col("n", &schema).expect("a column")]), 0.0);
    }
}

#[test]
fn aggregates_with_an_order_sort_by_it_or_are_refused_by_name() {
    let schema = input()[0].schema();
    let order = |descending| {
        let options = SortOptions { descending, nulls_first: false };
        vec![PhysicalSortExpr::new(col("o", &schema).expect("o"), options)]
    };
    let column = |name: &str| col(name, &schema).expect("a column");
    for descending in [false, true] {
        for (function, arguments) in [
            (array_agg::array_agg_udaf(), vec![column("i")]),
            (array_agg::array_agg_udaf(), vec![column("t")]),
            (first_last::first_value_udaf(), vec![column("i")]),
            (first_last::last_value_udaf(), vec![column("f")]),
            (first_last::first_value_udaf(), vec![column("t")]),
            (string_agg::string_agg_udaf(), vec![column("s"), lit(",")]),
        ] {
            check_in_order(Call { order_by: order(descending), ..Call::new(function, arguments) }, 0.0);
        }
    }
    let nth = datafusion_functions_aggregate::nth_value::nth_value_udaf();
    let call = |place| Call { order_by: order(false), ..Call::new(Arc::clone(&nth), vec![column("i"), place]) };
    let error = describe(&schema, &["k"], &[call(column("o"))]).expect_err("not a number").to_string();
    assert!(error.contains("nth_value"), "{error}");
    // Sorted rows will do, and no others.
    let nth = describe(&schema, &["k"], &[call(lit(2i64))]).expect("a number");
    assert!(super::super::SortedAggregate::try_new(Arc::clone(&nth)).expect("sorts").is_some());
    let error = PartialAggregate::new(nth).output_schema(0, &[schema]).expect_err("hashes").to_string();
    assert!(error.contains("nth_value"), "{error}");
}

#[test]
fn percentiles_within_a_group_count_from_the_end_that_is_asked_for() {
    let schema = input()[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let options = SortOptions { descending: true, nulls_first: false };
    let order = vec![PhysicalSortExpr::new(column("f"), options)];
    let function = datafusion_functions_aggregate::percentile_cont::percentile_cont_udaf();
    let call = Call { order_by: order, ..Call::new(function, vec![column("f"), lit(0.25)]) };
    check_in_order(call, 1e-9);
}
