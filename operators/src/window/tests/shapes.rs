//! Inputs of odd shapes: none, one row, millions of partitions, keys that only look different, nothing to sort by.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringViewArray};
use arrow::datatypes::{Int64Type, UInt64Type};

use super::*;

fn rows(keys: impl IntoIterator<Item = i64>, values: impl IntoIterator<Item = i64>) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("k", Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef),
        ("v", Arc::new(Int64Array::from_iter_values(values))),
    ])
    .expect("two columns")
}

fn all(schema: &SchemaRef) -> Vec<WindowFunction> {
    let v = || vec![column("v", schema)];
    let whole = || rows_frame("rows_unb_unb");
    let mut functions: Vec<_> = ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist"]
        .map(|name| function(window(name), vec![], whole()))
        .into();
    functions.push(function(window("ntile"), vec![lit(3i64)], whole()));
    for name in ["lag", "lead", "first_value", "last_value"] {
        functions.push(function(window(name), v(), whole()));
    }
    for frame in ["rows_unb_unb", "rows_unb_cur", "range_unb_cur", "rows_2p_2f", "groups_1p_1f", "range_cur_unb"] {
        functions.push(function(aggregate("sum"), v(), rows_frame(frame)));
    }
    functions
}

#[test]
fn no_rows_have_no_windows() {
    let schema = rows([], []).schema();
    for (partition, order) in [(vec![0], vec![ascending(1)]), (vec![], vec![ascending(1)]), (vec![], vec![])] {
        let window = Window::try_new(Arc::clone(&schema), partition, order, all(&schema)).expect("a window");
        for input in [vec![], vec![rows([], [])]] {
            assert_eq!(run(&window, &input, &Run::default()).expect("runs").batches.len(), 0);
        }
    }
}

#[test]
fn one_row_is_a_window_of_its_own() {
    let schema = rows([], []).schema();
    for (partition, order) in [(vec![0], vec![ascending(1)]), (vec![], vec![ascending(1)]), (vec![], vec![])] {
        let window = Window::try_new(Arc::clone(&schema), partition, order, all(&schema)).expect("a window");
        let found = run(&window, &[rows([5], [7])], &Run::default()).expect("runs").rows(&window);
        assert_eq!(found.num_rows(), 1);
        assert!(found.columns()[2..5].iter().all(|column| column.as_primitive::<UInt64Type>().value(0) == 1));
        for sum in &found.columns()[12..] {
            assert_eq!(sum.as_primitive::<Int64Type>().value(0), 7);
        }
    }
}

#[test]
fn very_many_partitions_of_a_few_rows() {
    let rows_of = 3;
    let partitions = 70_000;
    let input: Vec<_> = (0..partitions * rows_of)
        .step_by(8192)
        .map(|start| {
            let each = || start..(partitions * rows_of).min(start + 8192);
            rows(each().map(|i| (i * 7919) % partitions), each())
        })
        .collect();
    let schema = input[0].schema();
    let window = Window::try_new(Arc::clone(&schema), vec![0], vec![ascending(1)], all(&schema)).expect("a window");
    let started = std::time::Instant::now();
    let found = run(&window, &input, &Run::default()).expect("runs").rows(&window);
    println!("{:?}", started.elapsed());
    assert_eq!(found.num_rows() as i64, partitions * rows_of);
    let keys = found.column(0).as_primitive::<Int64Type>().values();
    let values = found.column(1).as_primitive::<Int64Type>().values();
    let number = found.column(2).as_primitive::<UInt64Type>().values();
    let whole = found.column(12).as_primitive::<Int64Type>().values();
    let running = found.column(13).as_primitive::<Int64Type>().values();
    for first in (0..keys.len()).step_by(3) {
        assert!(keys[first] == keys[first + 2] && number[first..first + 3] == [1, 2, 3]);
        let sum: i64 = values[first..first + 3].iter().sum();
        assert!(whole[first..first + 3].iter().all(|value| *value == sum));
        assert_eq!(running[first + 2], sum);
        for column in &found.columns()[14..16] {
            assert_eq!(column.as_primitive::<Int64Type>().value(first + 2), sum);
        }
    }
}

#[test]
fn zero_is_one_key_and_so_is_every_nan() {
    let keys = Float64Array::from(vec![0.0, f64::NAN, -0.0, -f64::NAN, 0.0, f64::from_bits(0x7ff8_0000_0000_0001)]);
    let batch = RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef)]).expect("a column");
    let schema = batch.schema();
    let count = function(aggregate("count"), vec![lit(1i64)], rows_frame("rows_unb_unb"));
    let peers = function(aggregate("count"), vec![lit(1i64)], rows_frame("groups_cur_cur"));
    for (partition, order, function) in [(vec![0], vec![], count), (vec![], vec![ascending(0)], peers)] {
        let window = Window::try_new(Arc::clone(&schema), partition, order, vec![function]).expect("a window");
        let found = run(&window, std::slice::from_ref(&batch), &Run::default()).expect("runs").rows(&window);
        assert_eq!(found.column(1).as_primitive::<Int64Type>().values(), &[3; 6]);
        assert_eq!(found.schema().fields().len(), 2);
    }
}

#[test]
fn without_keys_rows_are_taken_as_they_come() {
    let input: Vec<_> = (0..20).map(|i| rows([i, i], [i, 100 + i])).collect();
    let schema = input[0].schema();
    let functions = vec![
        function(window("row_number"), vec![], rows_frame("rows_unb_unb")),
        function(aggregate("sum"), vec![column("k", &schema)], rows_frame("rows_1p_cur")),
        function(aggregate("count"), vec![lit(1i64)], rows_frame("range_unb_cur")),
    ];
    let window = Window::try_new(schema, vec![], vec![], functions).expect("a window");
    let found = run(&window, &input, &Run::default()).expect("runs").rows(&window);
    let values: Vec<i64> = (0..20).flat_map(|i| [i, 100 + i]).collect();
    assert_eq!(found.column(1).as_primitive::<Int64Type>().values(), &values[..]);
    assert_eq!(found.column(2).as_primitive::<UInt64Type>().value(39), 40);
    assert_eq!(found.column(3).as_primitive::<Int64Type>().values()[..4], [0, 0, 1, 2]);
    assert!(found.column(4).as_primitive::<Int64Type>().values().iter().all(|count| *count == 40));
}

#[test]
fn long_texts_go_through_the_disk() {
    let text = |i: i64| format!("{i:07}").repeat(1 + (i % 40) as usize);
    let input: Vec<_> = (0..200)
        .map(|batch| {
            let each = || batch * 100..batch * 100 + 100;
            RecordBatch::try_from_iter([
                ("k", Arc::new(StringViewArray::from_iter_values(each().map(|i| text(i % 7)))) as ArrayRef),
                ("v", Arc::new(StringViewArray::from_iter_values(each().map(text)))),
            ])
            .expect("two columns")
        })
        .collect();
    let schema = input[0].schema();
    let v = || vec![column("v", &schema)];
    let functions = vec![
        function(window("lag"), v(), rows_frame("rows_unb_unb")),
        function(aggregate("max"), v(), rows_frame("rows_unb_unb")),
        function(aggregate("min"), v(), rows_frame("rows_3p_cur")),
    ];
    let window = Window::try_new(Arc::clone(&schema), vec![0], vec![ascending(1)], functions).expect("a window");
    let outcome = run(&window, &input, &Run { floating_bytes: 0, ..Run::default() }).expect("runs");
    println!("floor {}, spilled {}, overruns {}", outcome.floor_bytes, outcome.spilled_bytes, outcome.overruns);
    assert!(outcome.spilled_bytes > 0);
    assert_eq!(outcome.overruns, 0);
    let found = outcome.rows(&window);
    let texts = |column: usize| found.column(column).as_string_view();
    for row in 1..found.num_rows() {
        if texts(0).value(row) == texts(0).value(row - 1) {
            assert_eq!(texts(2).value(row), texts(1).value(row - 1));
            assert_eq!(texts(3).value(row), texts(3).value(row - 1));
        }
        assert!(texts(4).value(row) <= texts(1).value(row));
    }
}

#[test]
fn what_makes_no_sense_is_refused_when_it_is_planned() {
    let schema = rows([], []).schema();
    let v = || vec![column("v", &schema)];
    let made = |order: Vec<SortColumn>, function: WindowFunction| {
        Window::try_new(Arc::clone(&schema), vec![], order, vec![function]).err().map(|error| error.to_string())
    };
    let sum = |frame: WindowFrame| function(aggregate("sum"), v(), frame);
    let signed = |name: &str| frame(name, &|count| ScalarValue::Int64(Some(-count.parse::<i64>().expect("a number"))));
    assert!(made(vec![], sum(rows_frame("range_1p_cur"))).is_some_and(|error| error.contains("order column")));
    assert!(made(vec![ascending(0)], sum(signed("range_1p_cur"))).is_some_and(|error| error.contains("negative")));
    assert!(made(vec![ascending(9)], sum(rows_frame("rows_1p_cur"))).is_some_and(|error| error.contains("column 9")));
    let tiles = function(window("ntile"), vec![lit(0i64)], rows_frame("rows_unb_unb"));
    assert!(made(vec![], tiles).is_some_and(|error| error.contains("positive")));
    let filtered =
        WindowFunction { filter: Some(lit(true)), ..function(window("rank"), vec![], rows_frame("rows_unb_unb")) };
    assert!(made(vec![], filtered).is_some_and(|error| error.contains("FILTER")));
}

#[test]
fn a_window_expression_is_lowered_with_its_window() {
    use datafusion_common::DFSchema;
    use datafusion_expr::execution_props::ExecutionProps;
    use datafusion_expr::{Expr, ExprFunctionExt, col as logical, expr::WindowFunction as Logical, lit as constant};

    let schema = rows([], []).schema();
    let input = DFSchema::try_from(schema.as_ref().clone()).expect("a schema");
    let sum = Expr::from(Logical::new(aggregate("sum"), vec![logical("v") + constant(1i64)]));
    let sum = sum
        .partition_by(vec![logical("k"), constant(5i64)])
        .order_by(vec![constant(1u64).sort(true, false), logical("v").sort(false, true)])
        .filter(logical("v").gt(constant(3i64)))
        .window_frame(rows_frame("rows_2p_cur"))
        .build()
        .expect("a window expression");
    let props = ExecutionProps::new();
    let lowered = WindowFunction::lower(&sum.alias("total"), &input, &schema, &props).expect("it is one");
    assert_eq!((lowered.partition_by.len(), lowered.order_by.len()), (1, 1));
    assert_eq!(lowered.order_by[0].options, SortOptions { descending: true, nulls_first: true });
    assert_eq!(lowered.function.name, "total");
    let order = vec![SortColumn { column: 1, options: lowered.order_by[0].options }];
    let window = Window::try_new(Arc::clone(&schema), vec![0], order, vec![lowered.function]).expect("a window");
    let found = run(&window, &[rows([1; 5], [1, 2, 9, 4, 5])], &Run::default()).expect("runs").rows(&window);
    let sums: Vec<_> = found.column(2).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(sums, [10, 16, 21, 11, 5].map(Some));
    assert!(WindowFunction::lower(&logical("v"), &input, &schema, &props).is_err());
}
