//! Aggregation of sorted rows: the same results, within a group that is larger than memory, too.

use aqueduct_runtime::batch::copied;
use arrow::array::{
    BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray, StringViewArray,
    UInt8Array,
};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field};
use datafusion_functions_aggregate::array_agg::array_agg_udaf;
use datafusion_functions_aggregate::average::avg_udaf;
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_functions_aggregate::median::median_udaf;
use datafusion_functions_aggregate::min_max::max_udaf;
use datafusion_functions_aggregate::percentile_cont::percentile_cont_udaf;
use datafusion_functions_aggregate::string_agg::string_agg_udaf;
use datafusion_functions_aggregate::sum::sum_udaf;
use datafusion_functions_aggregate::{bit_and_or_xor::bit_xor_udaf, variance::var_samp_udaf};
use datafusion_physical_expr::expressions::{binary, lit};

use super::super::SortedAggregate;
use super::*;

const SMALL: Run =
    Run { partials: 1, finals: 1, batch_bytes: 16 << 10, batch_rows: 700, floating_bytes: 0, force_spill: false };

/// Runs the sorting operator over `input` as one partition.
fn run_sorted(aggregate: &Arc<Aggregate>, input: &[RecordBatch], run: &Run) -> Outcome {
    let sorted = SortedAggregate::try_new(Arc::clone(aggregate)).expect("fits").expect("is to be sorted");
    let arguments = sorted.arguments();
    let schema = arguments.output_schema(0, &[aggregate.input_schema()]).expect("its input");
    assert_eq!(sorted.output_schema(0, &[Arc::clone(&schema)]).expect("its input"), aggregate.output_schema());
    let floor = sorted.min_memory(run.batch_bytes);
    let pool = MemoryPool::new(floor + run.floating_bytes);
    let admission = pool.admit(floor).expect("the pool has the floor");
    let spill = SpillSpace::temporary();
    let free = MemoryPool::new(1 << 30).account("arguments");
    let mut arguments = arguments.instantiate(context(run, 0, aggregate.input_schema(), free, &spill)).expect("starts");
    let memory = admission.account("sorted", floor);
    let mut operator = sorted.instantiate(context(run, 0, schema, memory, &spill)).expect("starts");
    let mut outcome = Outcome { batches: Vec::new(), spilled_bytes: 0, overruns: 0, state_rows: 0 };
    let (mut out, mut rows) = (Outbox::new(), Vec::new());
    for batch in input {
        // What is claimed counts until its last user has gone, so this test must not be one.
        let step = arguments.process(0, copied(batch), &mut out).expect("takes rows");
        drive(arguments.as_mut(), step, &mut out, &mut rows);
        for rows in rows.drain(..) {
            let step = operator.process(0, rows, &mut out).expect("takes arguments");
            drive(operator.as_mut(), step, &mut out, &mut outcome.batches);
            while run.force_spill && operator.spill(1).expect("spills") > 0 {}
        }
    }
    let mut step = operator.finish(0, &mut out).expect("ends");
    let mut steps = 0;
    loop {
        outcome.batches.extend(std::iter::from_fn(|| out.pop().map(|(_, batch)| copied(&batch))));
        match step {
            Step::NeedInput | Step::Done => break,
            Step::MoreOutput => {}
            Step::Blocked(ticket) if ticket.what() == "memory" => {
                assert!(operator.spill(1).expect("spills") > 0, "it waits for memory that nobody holds");
            }
            Step::Blocked(ticket) => ticket.wait(),
        }
        steps += 1;
        while run.force_spill && steps % 3 == 0 && operator.spill(1).expect("spills") > 0 {}
        step = operator.resume(&mut out).expect("goes on");
    }
    outcome.spilled_bytes = spill.spilled_bytes();
    outcome.overruns = pool.overruns();
    drop((operator, admission));
    assert_eq!(pool.charged(), 0, "everything was given back");
    for batch in &outcome.batches {
        assert_eq!(batch.schema(), aggregate.output_schema());
        assert!(batch.num_rows() <= run.batch_rows);
    }
    outcome
}

fn check_sorted(group: &[&str], calls: &[Call], input: &[RecordBatch]) {
    let schema = input[0].schema();
    let aggregate = describe(&schema, group, calls).expect("can be computed");
    let expected = expected(&schema, group, calls, input);
    for (floating_bytes, force_spill) in [(1 << 26, false), (1 << 26, true), (0, false), (0, true)] {
        let outcome = run_sorted(&aggregate, input, &Run { floating_bytes, force_spill, ..SMALL });
        assert_same(&outcome, group.len(), &expected, 1e-9);
        assert_eq!(outcome.overruns, 0, "{floating_bytes} floating, spilling {force_spill}");
    }
}

fn input(rows: i64) -> Vec<RecordBatch> {
    let nth = |null: i64, value: fn(i64) -> i64| {
        (0..rows).map(move |row| (row % null != 0).then(|| value(row))).collect::<Vec<_>>()
    };
    let key: ArrayRef = Arc::new(Int64Array::from(nth(31, |row| row * row % 13)));
    let floats = nth(5, |row| row * 7919 % 1009).into_iter().map(|value| value.map(|value| value as f64 / 7.0));
    let single = nth(6, |row| row * 31 % 997).into_iter().map(|value| value.map(|value| value as f32 / 3.0));
    let decimals = nth(4, |row| row * 17 % 5001 - 2000).into_iter().map(|value| value.map(i128::from));
    let texts = nth(8, |row| row % 61).into_iter().map(|value| value.map(|value| format!("a longer text {value}")));
    let texts: Vec<Option<String>> = texts.collect();
    let bytes = texts.iter().cloned().map(|text: Option<String>| text.map(String::into_bytes));
    let columns: [(&str, ArrayRef); 10] = [
        ("b", Arc::new(BooleanArray::from_iter(nth(3, |row| row % 5).into_iter().map(|value| value.map(|v| v > 2))))),
        ("x", Arc::new(BinaryArray::from_iter(bytes))),
        ("k", key),
        ("l", Arc::new(StringViewArray::from_iter_values((0..rows).map(|row| format!("g{}", row % 3))))),
        ("i", Arc::new(Int64Array::from(nth(7, |row| row * 31 % 211 - 100)))),
        ("u", Arc::new(UInt8Array::from_iter(nth(9, |row| row * 31 % 251).into_iter().map(|v| v.map(|v| v as u8))))),
        ("f", Arc::new(Float64Array::from_iter(floats))),
        ("e", Arc::new(Float32Array::from_iter(single))),
        ("n", Arc::new(Decimal128Array::from_iter(decimals).with_precision_and_scale(20, 3).expect("fits"))),
        ("t", Arc::new(StringArray::from_iter(texts))),
    ];
    let all = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
    let all = all.expect("columns of one length");
    (0..rows as usize).step_by(150).map(|start| all.slice(start, 150.min(rows as usize - start))).collect()
}

const GROUPS: [&[&str]; 3] = [&["k"], &["k", "l"], &[]];

#[test]
fn medians_are_those_of_datafusion() {
    let input = input(3000);
    let schema = input[0].schema();
    let calls: Vec<_> = ["i", "u", "f", "e", "n"]
        .into_iter()
        .flat_map(|name| {
            let call = Call::new(median_udaf(), vec![col(name, &schema).expect("a column")]);
            [Call { distinct: true, ..call.clone() }, call]
        })
        .collect();
    for group in GROUPS {
        check_sorted(group, &calls[..4], &input);
        check_sorted(group, &calls[4..], &input);
    }
}

#[test]
fn percentiles_are_those_of_datafusion() {
    let input = input(3000);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let mut calls = Vec::new();
    for name in ["f", "e"] {
        for fraction in [0.0, 0.1, 0.333, 0.5, 0.999, 1.0] {
            for descending in [false, true] {
                let options = SortOptions { descending, nulls_first: false };
                let order_by = vec![PhysicalSortExpr::new(column(name), options)];
                let arguments = vec![column(name), lit(fraction)];
                let call = Call::new(percentile_cont_udaf(), arguments);
                calls.push(Call { order_by, distinct: fraction > 0.3 && fraction < 0.4, ..call });
            }
        }
    }
    for group in GROUPS {
        check_sorted(group, &calls, &input);
    }
}

#[test]
fn distinct_aggregates_of_several_arguments_and_others_are_those_of_datafusion() {
    let input = input(3000);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let distinct = |function, name| Call { distinct: true, ..Call::new(function, vec![column(name)]) };
    let large = binary(column("i"), datafusion_expr::Operator::Gt, lit(20i64), &schema).expect("a comparison");
    let calls = [
        Call::new(sum_udaf(), vec![column("f")]),
        distinct(count_udaf(), "i"),
        distinct(count_udaf(), "t"),
        Call::new(count_udaf(), vec![lit(1i64)]),
        distinct(sum_udaf(), "i"),
        distinct(avg_udaf(), "f"),
        Call { filter: Some(Arc::clone(&large)), ..distinct(count_udaf(), "i") },
        Call { filter: Some(large), ..Call::new(max_udaf(), vec![column("t")]) },
        distinct(bit_xor_udaf(), "i"),
        Call::new(median_udaf(), vec![column("i")]),
        distinct(var_samp_udaf(), "f"),
        distinct(sum_udaf(), "n"),
        Call::new(avg_udaf(), vec![column("n")]),
        distinct(count_udaf(), "b"),
        distinct(count_udaf(), "x"),
        distinct(count_udaf(), "l"),
    ];
    for group in GROUPS {
        check_sorted(group, &calls, &input);
    }
}

#[test]
fn lists_beside_a_median_are_sorted_by_what_they_say() {
    let input = input(900);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let order_by = vec![PhysicalSortExpr::new(column("t"), SortOptions { descending: true, nulls_first: false })];
    let calls = [
        Call::new(median_udaf(), vec![column("i")]),
        Call { order_by: order_by.clone(), ..Call::new(array_agg_udaf(), vec![column("t")]) },
        Call { order_by, ..Call::new(string_agg_udaf(), vec![column("t"), lit("; ")]) },
    ];
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let expected = expected(&schema, &["k"], &calls, &input);
    let outcome = run_sorted(&aggregate, &input, &Run { floating_bytes: 1 << 24, ..SMALL });
    assert_same(&outcome, 1, &expected, 0.0);
}

#[test]
fn ordered_and_distinct_lists_are_those_of_datafusion() {
    let input = input(1200);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let by = |name: &str, descending, nulls_first| {
        PhysicalSortExpr::new(column(name), SortOptions { descending, nulls_first })
    };
    let texts = || vec![column("t"), lit("; ")];
    let large = binary(column("i"), datafusion_expr::Operator::Gt, lit(20i64), &schema).expect("a comparison");
    let lists = |name: &str| Call::new(array_agg_udaf(), vec![column(name)]);
    let calls = [
        Call { distinct: true, order_by: vec![by("i", true, true)], ..lists("i") },
        Call { distinct: true, order_by: vec![by("i", false, false)], ..lists("i") },
        Call { distinct: true, order_by: vec![by("t", true, false)], ..Call::new(string_agg_udaf(), texts()) },
        // No two rows of a key are equal in what is listed and in all that they are sorted by.
        Call { order_by: vec![by("f", false, true), by("u", true, false), by("i", false, false)], ..lists("i") },
        Call { order_by: vec![by("i", true, true)], filter: Some(large), ..lists("i") },
        Call { order_by: vec![by("t", true, false)], ..Call::new(string_agg_udaf(), texts()) },
        Call { distinct: true, ..Call::new(count_udaf(), vec![column("t")]) },
        Call::new(max_udaf(), vec![column("u")]),
    ];
    // Rows of a key stay in their order where nothing asks for another.
    let unordered = [lists("t"), Call::new(string_agg_udaf(), texts()), calls[7].clone()];
    for group in GROUPS {
        for calls in [&calls[..], &unordered] {
            let aggregate = describe(&schema, group, calls).expect("can be computed");
            let expected = expected(&schema, group, calls, &input);
            for force_spill in [false, true] {
                // Lists themselves have to fit.
                let outcome = run_sorted(&aggregate, &input, &Run { floating_bytes: 1 << 24, force_spill, ..SMALL });
                assert_same(&outcome, group.len(), &expected, 0.0);
                assert_eq!(outcome.overruns, 0, "spilling {force_spill}");
            }
        }
    }
}

#[test]
fn no_rows_and_one_row_are_groups_as_datafusion_has_them() {
    for rows in [0, 1, 2] {
        let input = if rows == 0 { vec![input(1)[0].slice(0, 0)] } else { input(rows) };
        let schema = input[0].schema();
        let column = |name: &str| col(name, &schema).expect("a column");
        let calls = [
            Call::new(median_udaf(), vec![column("i")]),
            Call::new(percentile_cont_udaf(), vec![column("f"), lit(0.3)]),
            Call { distinct: true, ..Call::new(count_udaf(), vec![column("t")]) },
            Call::new(sum_udaf(), vec![column("i")]),
        ];
        for group in GROUPS {
            check_sorted(group, &calls, &input);
        }
    }
}

#[test]
fn odd_floats_are_values_and_keys_like_others() {
    let odd = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE];
    let batch = |part: usize| {
        let value = Float64Array::from_iter((0..60).map(|row| (row % 7 != 0).then(|| odd[(row * 5 + part) % 9])));
        let key = Float64Array::from_iter((0..60).map(|row| (row % 11 != 0).then(|| odd[row % 4])));
        RecordBatch::try_from_iter_with_nullable([
            ("k", Arc::new(key) as ArrayRef, true),
            ("v", Arc::new(value) as ArrayRef, true),
        ])
        .expect("two columns")
    };
    let input: Vec<_> = (0..9).map(batch).collect();
    let schema = input[0].schema();
    let value = || col("v", &schema).expect("v");
    let calls = [
        Call::new(percentile_cont_udaf(), vec![value(), lit(0.9)]),
        Call { distinct: true, ..Call::new(count_udaf(), vec![value()]) },
        Call::new(percentile_cont_udaf(), vec![value(), lit(0.2)]),
    ];
    check_sorted(&["k"], &calls, &input);
    check_sorted(&[], &calls, &input);
}

#[test]
fn integers_whose_sum_overflows_have_a_median() {
    let values = [i64::MAX, i64::MAX - 2, i64::MAX - 5, i64::MAX];
    let input = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]);
    let input = input.expect("one column");
    let call = Call::new(median_udaf(), vec![col("v", &input.schema()).expect("v")]);
    check_sorted(&[], &[call], &[input]);
}

#[test]
fn packed_and_nested_columns_are_keys_and_distinct_values() {
    let input = input(2000).into_iter().map(|batch| {
        let packed = cast(
            batch.column_by_name("t").expect("t"),
            &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        );
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let nested = cast(batch.column_by_name("k").expect("k"), &DataType::List(item)).expect("lists of one");
        RecordBatch::try_from_iter_with_nullable([
            ("k", nested, true),
            ("p", packed.expect("a dictionary"), true),
            ("i", Arc::clone(batch.column_by_name("i").expect("i")), true),
        ])
        .expect("three columns")
    });
    let input: Vec<_> = input.collect();
    let schema = input[0].schema();
    let distinct =
        |name: &str| Call { distinct: true, ..Call::new(count_udaf(), vec![col(name, &schema).expect("a column")]) };
    let calls = [distinct("i"), distinct("k")];
    check_sorted(&["p"], &calls, &input);
    let calls = [distinct("i"), distinct("p"), Call::new(max_udaf(), vec![col("i", &schema).expect("i")])];
    check_sorted(&["k"], &calls, &input);
}

#[test]
fn one_group_of_a_million_values_needs_no_more_than_the_floor() {
    let rows = 1_000_000i64;
    let batch = |start: i64| {
        let value = |row: i64| (row * 7919 % 999_983) as f64 / 8.0;
        let range = start..rows.min(start + 8192);
        let key = Int64Array::from_iter_values(range.clone().map(|row| i64::from(row % 100_000 == 0)));
        let value = Float64Array::from_iter_values(range.map(value));
        RecordBatch::try_from_iter([("k", Arc::new(key) as ArrayRef), ("v", Arc::new(value) as ArrayRef)])
            .expect("two columns")
    };
    let input: Vec<_> = (0..rows).step_by(8192).map(batch).collect();
    let schema = input[0].schema();
    let value = || col("v", &schema).expect("v");
    let calls = [
        Call::new(median_udaf(), vec![value()]),
        Call { distinct: true, ..Call::new(count_udaf(), vec![value()]) },
        Call::new(percentile_cont_udaf(), vec![value(), lit(0.99)]),
        Call::new(avg_udaf(), vec![value()]),
    ];
    // Nearly all rows are of one key.
    for (group, input) in [(&["k"][..], &input[..30]), (&[], &input[..])] {
        let aggregate = describe(&schema, group, &calls).expect("can be computed");
        let run = Run { batch_bytes: 128 << 10, batch_rows: 8192, ..SMALL };
        let outcome = run_sorted(&aggregate, input, &run);
        let floor =
            SortedAggregate::try_new(Arc::clone(&aggregate)).expect("fits").expect("sorts").min_memory(128 << 10);
        println!("floor {floor}, spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
        assert!(floor < 6 << 20);
        assert!(outcome.spilled_bytes > 2 << 20);
        assert_eq!(outcome.overruns, 0);
        assert_same(&outcome, group.len(), &expected(&schema, group, &calls, input), 1e-9);
    }
}

#[test]
fn aggregates_of_bounded_state_are_not_sorted() {
    let input = input(10);
    let schema = input[0].schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let calls =
        [Call::new(sum_udaf(), vec![column("i")]), Call { distinct: true, ..Call::new(max_udaf(), vec![column("i")]) }];
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    assert!(SortedAggregate::try_new(aggregate).expect("fits").is_none());
}
