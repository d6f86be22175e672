//! One partition of twenty times the memory, for each way in which a function is computed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{Float64Type, Int64Type, UInt64Type};

use super::*;

/// Rows (k, o, v) of one partition in a mixed order: `o` is every number twice, `v` is `o`.
fn one_partition(rows: i64) -> Vec<RecordBatch> {
    let order = |i: i64| (i * 7919) % rows / 2;
    (0..rows)
        .step_by(512)
        .map(|start| {
            let each = || start..rows.min(start + 512);
            let columns = [
                ("k", Arc::new(Int64Array::from_iter_values(each().map(|_| 1))) as ArrayRef),
                ("o", Arc::new(Int64Array::from_iter_values(each().map(order)))),
                ("v", Arc::new(Float64Array::from_iter_values(each().map(|i| order(i) as f64)))),
            ];
            RecordBatch::try_from_iter(columns).expect("columns of one length")
        })
        .collect()
}

/// A window with nothing but its floor, over one partition of 20 times that; its result column as numbers.
fn tight(functions: impl Fn(&SchemaRef) -> Vec<WindowFunction>, check: impl Fn(usize, i64, &[f64], i64)) {
    let schema = one_partition(1)[0].schema();
    let made = |functions| Window::try_new(Arc::clone(&schema), vec![0], vec![ascending(1)], functions);
    let window = made(functions(&schema)).expect("a window");
    let options = Run { floating_bytes: 0, batch_bytes: 16 << 10, ..Run::default() };
    let floor = window.min_memory(options.batch_bytes);
    let rows = (20 * floor / 24) as i64 / 2 * 2;
    let outcome = run(&window, &one_partition(rows), &options).expect("it fits");
    println!("floor {floor}, {rows} rows, spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
    assert!(outcome.spilled_bytes > 0);
    assert_eq!((outcome.overruns, outcome.floor_bytes), (0, floor));
    let mut row = 0;
    for batch in &outcome.batches {
        let order = batch.column(1).as_primitive::<Int64Type>();
        let results: Vec<Vec<f64>> = batch.columns()[3..].iter().map(numbers).collect();
        for at in 0..batch.num_rows() {
            assert_eq!(order.value(at), row as i64 / 2, "row {row} is out of order");
            let values: Vec<_> = results.iter().map(|column| column[at]).collect();
            check(row, order.value(at), &values, rows);
            row += 1;
        }
    }
    assert_eq!(row as i64, rows);
}

fn numbers(column: &ArrayRef) -> Vec<f64> {
    match column.data_type() {
        DataType::Float64 => {
            let column = column.as_primitive::<Float64Type>();
            column.iter().map(|value| value.unwrap_or(-1.0)).collect()
        }
        DataType::UInt64 => column.as_primitive::<UInt64Type>().values().iter().map(|value| *value as f64).collect(),
        _ => column.as_primitive::<Int64Type>().iter().map(|value| value.map_or(-1.0, |value| value as f64)).collect(),
    }
}

fn whole() -> WindowFrame {
    rows_frame("rows_unb_unb")
}

#[test]
fn ranks_stream() {
    let functions =
        |_: &SchemaRef| ["row_number", "rank", "dense_rank"].map(|name| function(window(name), vec![], whole()));
    let named = |schema: &SchemaRef| {
        functions(schema)
            .into_iter()
            .zip(["a", "b", "c"])
            .map(|(f, name)| WindowFunction { name: name.into(), ..f })
            .collect()
    };
    tight(named, |row, order, values, _| {
        assert_eq!(values, [row as f64 + 1.0, (order * 2) as f64 + 1.0, order as f64 + 1.0]);
    });
}

#[test]
fn what_needs_the_size_of_the_partition_waits_for_it_on_disk() {
    let functions = |_: &SchemaRef| {
        vec![
            function(window("percent_rank"), vec![], whole()),
            function(window("cume_dist"), vec![], whole()),
            function(window("ntile"), vec![lit(10i64)], whole()),
        ]
    };
    tight(functions, |row, order, values, rows| {
        assert_eq!(values[0], (order * 2) as f64 / (rows - 1) as f64);
        assert_eq!(values[1], ((order + 1) * 2) as f64 / rows as f64);
        let (base, longer) = (rows / 10, rows % 10);
        let edge = longer * (base + 1);
        let tile = if (row as i64) < edge { row as i64 / (base + 1) } else { longer + (row as i64 - edge) / base };
        assert_eq!(values[2], tile as f64 + 1.0);
    });
}

#[test]
fn shifted_values_stream() {
    let functions = |schema: &SchemaRef| {
        let v = || column("v", schema);
        vec![
            function(window("lag"), vec![v(), lit(2i64)], whole()),
            function(window("lead"), vec![v(), lit(4i64)], whole()),
            function(window("first_value"), vec![v()], rows_frame("rows_unb_cur")),
        ]
    };
    tight(functions, |row, order, values, rows| {
        let lead = if row as i64 + 4 < rows { order as f64 + 2.0 } else { -1.0 };
        assert_eq!(values, [if row < 2 { -1.0 } else { order as f64 - 1.0 }, lead, 0.0]);
    });
}

#[test]
fn running_aggregates_stream() {
    let functions = |schema: &SchemaRef| {
        let v = || vec![column("v", schema)];
        vec![
            function(aggregate("max"), v(), rows_frame("rows_unb_cur")),
            function(aggregate("sum"), v(), rows_frame("range_unb_cur")),
            function(aggregate("count"), v(), rows_frame("rows_5p_5f")),
        ]
    };
    tight(functions, |row, order, values, rows| {
        let count = (rows.min(row as i64 + 6) - (row as i64 - 5).max(0)) as f64;
        assert_eq!(values, [order as f64, (order * (order + 1)) as f64, count]);
    });
}

#[test]
fn aggregates_over_the_whole_partition_take_two_passes() {
    let functions = |schema: &SchemaRef| {
        let v = || vec![column("v", schema)];
        vec![
            function(aggregate("sum"), v(), whole()),
            function(window("last_value"), v(), whole()),
            function(aggregate("stddev"), v(), rows_frame("rows_unb_cur")),
        ]
    };
    tight(functions, |_, _, values, rows| {
        let distinct = rows / 2;
        assert_eq!(values[..2], [(distinct * (distinct - 1)) as f64, distinct as f64 - 1.0]);
    });
}

#[test]
fn frames_larger_than_memory_slide() {
    let functions = |schema: &SchemaRef| {
        let v = || vec![column("v", schema)];
        let far = |name: &str| frame(name, &|count| ScalarValue::Int64(Some(count.parse().expect("a number"))));
        vec![
            function(aggregate("count"), v(), far("range_40000p_40000f")),
            function(aggregate("sum"), v(), rows_frame("rows_cur_unb")),
            function(window("first_value"), v(), rows_frame("groups_30000p_cur")),
            function(window("last_value"), v(), far("range_cur_20000f")),
        ]
    };
    tight(functions, |row, order, values, rows| {
        let last = rows / 2 - 1;
        let count = 2 * ((order + 40_000).min(last) - (order - 40_000).max(0) + 1);
        // All values from here on, each twice, but for the half of a pair that is before the row.
        let sum = (last * (last + 1) - order * (order - 1)) - if row % 2 == 1 { order } else { 0 };
        let expected = [count, sum, (order - 30_000).max(0), (order + 20_000).min(last)];
        assert_eq!(values, expected.map(|value| value as f64));
    });
}

#[test]
fn plenty_of_memory_spills_nothing() {
    let input = one_partition(100_000);
    let schema = input[0].schema();
    let functions = vec![function(aggregate("sum"), vec![column("v", &schema)], whole())];
    let window = Window::try_new(schema, vec![0], vec![ascending(1)], functions).expect("a window");
    let outcome = run(&window, &input, &Run::default()).expect("runs");
    assert_eq!((outcome.spilled_bytes, outcome.overruns), (0, 0));
}

#[test]
fn a_state_that_is_larger_than_memory_is_a_typed_error() {
    let input = one_partition(400_000);
    let schema = input[0].schema();
    let functions = vec![function(aggregate("array_agg"), vec![column("v", &schema)], whole())];
    let window = Window::try_new(schema, vec![0], vec![ascending(1)], functions).expect("a window");
    let error = run(&window, &input, &Run { floating_bytes: 0, ..Run::default() }).err().expect("it cannot fit");
    assert!(matches!(error, aqueduct_runtime::OperatorError::RowTooLarge { .. }), "{error}");
}
