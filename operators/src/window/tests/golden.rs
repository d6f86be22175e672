//! Every function over every kind of frame, with ties, nulls, NaN and both directions: DuckDB's answers, which
//! `operators/tests/golden/window/make.py` makes.

use std::collections::BTreeMap;
use std::fs::File;

use arrow::array::{Array, ArrayRef, AsArray, Scalar, StringArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{cast as cast_array, nullif, sort_to_indices, take};
use arrow::datatypes::{Field, Float64Type, Int64Type, IntervalMonthDayNano, Schema, TimeUnit};

use super::*;

fn read(name: &str) -> RecordBatch {
    let path = format!("{}/tests/golden/window/{name}.csv", env!("CARGO_MANIFEST_DIR"));
    let header = std::fs::read_to_string(&path).expect("the golden file");
    let header = header.lines().next().expect("a header").to_string();
    let fields: Vec<_> = header.split(',').map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let reader = arrow_csv::ReaderBuilder::new(Arc::clone(&schema)).with_header(true).with_batch_size(1000);
    let batch = reader.build(File::open(path).expect("opens")).expect("reads").next().expect("rows").expect("rows");
    let null = Scalar::new(StringArray::from(vec!["NULL"]));
    let columns = batch.columns().iter().map(|column| {
        // An empty text is read as null.
        let text: StringArray = column.as_string::<i32>().iter().map(|value| Some(value.unwrap_or(""))).collect();
        nullif(&text, &eq(&text, &null).expect("compares")).expect("nulls")
    });
    RecordBatch::try_new(schema, columns.collect()).expect("one length")
}

fn typed(text: &RecordBatch) -> RecordBatch {
    let types = [
        ("id", DataType::Int64),
        ("p", DataType::Utf8),
        ("o", DataType::Int64),
        ("u", DataType::Int64),
        ("v", DataType::Int64),
        ("f", DataType::Float64),
        ("of", DataType::Float64),
        ("od", DataType::Decimal128(10, 2)),
        ("oda", DataType::Date32),
        ("ots", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("s", DataType::Utf8),
    ];
    let columns = types.iter().map(|(name, data_type)| {
        let column = text.column_by_name(name).expect("a column");
        let column = cast_array(column, data_type).expect("casts");
        assert_eq!(column.null_count(), text.column_by_name(name).expect("a column").null_count(), "{name}");
        (*name, column)
    });
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("one length")
}

fn offset(order: &str) -> Box<dyn Fn(&str) -> ScalarValue> {
    let order = order.rsplit_once('_').map_or(order, |(column, _)| column).to_string();
    Box::new(move |text: &str| {
        let digits = text.trim_end_matches(char::is_alphabetic);
        let count: i64 = digits.parse().expect("a number");
        let interval = |months, days, minutes: i64| {
            let nanoseconds = minutes * 60_000_000_000;
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds }))
        };
        match order.as_str() {
            "of" => ScalarValue::Float64(Some(count as f64)),
            "od" => ScalarValue::Decimal128(Some(i128::from(count) * 100), 10, 2),
            _ => match &text[digits.len()..] {
                "d" => interval(0, count as i32, 0),
                "m" => interval(count as i32, 0, 0),
                "h" => interval(0, 0, count * 60),
                "min" => interval(0, 0, count),
                _ => ScalarValue::Int64(Some(count)),
            },
        }
    })
}

fn case(name: &str, schema: &SchemaRef) -> WindowFunction {
    let parts: Vec<_> = name.split("__").collect();
    let [function_name, frame_name, order] = parts[..] else { panic!("{name} is no case") };
    let is_range = frame_name.starts_with("range");
    let frame_name = match frame_name {
        "range_10d_5d" => "range_10dp_5df",
        "range_1m_cur" => "range_1mp_cur",
        "range_2h_1h" => "range_2hp_1hf",
        "range_30min_cur" => "range_30minp_cur",
        other => other,
    };
    let frame = if is_range { frame(frame_name, &*offset(order)) } else { rows_frame(frame_name) };
    let of = |name: &str| column(name, schema);
    let float = |name: &str| cast(of(name), schema, DataType::Float64).expect("casts");
    let above = |number: i64| binary(of("v"), Op::Gt, lit(number), schema).expect("compares");
    let agg = |name: &str, argument: Expression| function(aggregate(name), vec![argument], frame.clone());
    let win = |name: &str, arguments: Vec<Expression>| function(window(name), arguments, frame.clone());
    let ignoring = |function: WindowFunction| WindowFunction { ignore_nulls: true, ..function };
    let made = match function_name {
        "count_all" => agg("count", lit(1i64)),
        "stddev_v" => agg("stddev", float("v")),
        "distinct_v" => WindowFunction { distinct: true, ..agg("count", of("v")) },
        "filter_v" => WindowFunction { filter: Some(above(5)), ..agg("sum", of("v")) },
        "median_v" => agg("median", float("v")),
        "bitxor_v" => agg("bit_xor", of("v")),
        "booland_v" => agg("bool_and", above(0)),
        "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" => win(function_name, vec![]),
        "ntile_4" => win("ntile", vec![lit(4i64)]),
        "lag_1" => win("lag", vec![of("v")]),
        "lag_3" => win("lag", vec![of("s"), lit(3i64)]),
        "lead_2" => win("lead", vec![of("v"), lit(2i64), lit(-1i64)]),
        "lead_m1" => win("lead", vec![of("v"), lit(-1i64)]),
        "lag_0" => win("lag", vec![of("v"), lit(0i64)]),
        "lag_ign" => ignoring(win("lag", vec![of("v"), lit(2i64), lit(-7i64)])),
        "lead_ign" => ignoring(win("lead", vec![of("s"), lit(1i64)])),
        "first_v" => win("first_value", vec![of("v")]),
        "last_s" => win("last_value", vec![of("s")]),
        "nth_v" => win("nth_value", vec![of("v"), lit(3i64)]),
        "first_ign" => ignoring(win("first_value", vec![of("v")])),
        "last_ign" => ignoring(win("last_value", vec![of("s")])),
        "nth_ign" => ignoring(win("nth_value", vec![of("v"), lit(2i64)])),
        other => {
            let (name, argument) = other.split_once('_').expect("an aggregate and its argument");
            agg(name, of(argument))
        }
    };
    WindowFunction { name: name.to_string(), ..made }
}

fn order(name: &str, schema: &SchemaRef) -> Vec<SortColumn> {
    if name == "none" {
        return Vec::new();
    }
    let (column, direction) = name.rsplit_once('_').expect("a column and a direction");
    let options = match direction {
        "asc" => SortOptions { descending: false, nulls_first: false },
        "desc" => SortOptions { descending: true, nulls_first: true },
        "ascnf" => SortOptions { descending: false, nulls_first: true },
        _ => SortOptions { descending: true, nulls_first: false },
    };
    let index = |name: &str| schema.index_of(name).expect("a column");
    match column {
        "oid" => vec![SortColumn { column: index("o"), options }, ascending(index("id"))],
        one => vec![SortColumn { column: index(one), options }],
    }
}

fn differs(found: &ArrayRef, row: usize, expected: Option<&str>) -> bool {
    if found.is_null(row) || expected.is_none() {
        return found.is_valid(row) || expected.is_some();
    }
    let expected = expected.unwrap_or_default();
    if *found.data_type() == DataType::Float64 {
        let found = found.as_primitive::<Float64Type>().value(row);
        let expected: f64 = expected.parse().expect("a number");
        let same = found == expected || (found.is_nan() && expected.is_nan());
        // Of a NaN no comparison is true.
        let near = (found - expected).abs() <= 1e-9 * expected.abs().max(1.0);
        return !same && !near;
    }
    let text = cast_array(&found.slice(row, 1), &DataType::Utf8).expect("prints");
    text.as_string::<i32>().value(0) != expected
}

fn compare(options: &Run, piece_rows: usize) {
    let rows = typed(&read("rows"));
    let answers = read("answers");
    let schema = rows.schema();
    let ids = rows.column(0).as_primitive::<Int64Type>();
    assert!(ids.values().iter().zip(0..).all(|(id, row)| *id == row));
    let input: Vec<_> = (0..rows.num_rows())
        .step_by(piece_rows)
        .map(|start| rows.slice(start, piece_rows.min(rows.num_rows() - start)))
        .collect();
    let mut by_order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for field in answers.schema().fields().iter().skip(1) {
        let order = field.name().rsplit("__").next().expect("an order").to_string();
        by_order.entry(order).or_default().push(field.name().clone());
    }
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (by, names) in by_order {
        let functions = names.iter().map(|name| case(name, &schema)).collect();
        let partition = vec![schema.index_of("p").expect("p")];
        let window = Window::try_new(Arc::clone(&schema), partition, order(&by, &schema), functions).expect(&by);
        let outcome = run(&window, &input, options).expect(&by);
        assert_eq!(outcome.overruns, 0, "{by}");
        let found = outcome.rows(&window);
        assert_eq!(found.num_rows(), rows.num_rows());
        let by_id = sort_to_indices(found.column(0), None, None).expect("sorts");
        for name in names {
            let column = take(found.column_by_name(&name).expect("a result"), &by_id, None).expect("takes");
            let expected = answers.column_by_name(&name).expect("an answer").as_string::<i32>();
            let rows: Vec<_> = (0..column.len())
                .filter(|row| differs(&column, *row, expected.is_valid(*row).then(|| expected.value(*row))))
                .collect();
            compared += 1;
            if let Some(first) = rows.first() {
                let value = cast_array(&column.slice(*first, 1), &DataType::Utf8).expect("prints");
                let expected = expected.is_valid(*first).then(|| expected.value(*first));
                let value = value.as_string::<i32>();
                let value = value.is_valid(0).then(|| value.value(0));
                wrong.push(format!("{name}: {} rows, row {first}: {value:?} for {expected:?}", rows.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 700);
}

#[test]
fn every_function_over_every_frame_is_as_duckdb_has_it() {
    compare(&Run::default(), 1000);
}

#[test]
fn batches_of_a_few_rows_make_no_difference() {
    compare(&Run { batch_bytes: 64, batch_rows: 5, ..Run::default() }, 3);
}

#[test]
fn what_is_spilled_at_every_turn_makes_no_difference() {
    compare(&Run { batch_rows: 9, force_spill: true, ..Run::default() }, 20);
}
