//! Sort and merge called by hand, compared with arrow's `lexsort_to_indices` over the whole input at once, with the
//! place of each row as the last key.

mod memory;
mod oracle;

use std::sync::Arc;

use aqueduct_runtime::testing::{Context, context, drive};
use aqueduct_runtime::{Operator, OperatorSpec, Outbox, Step};
use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int8Array, Int64Array, StringArray, StringViewArray, TimestampMicrosecondArray,
    UInt16Array,
};
use arrow::compute::{SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::{Merge, Sort, SortColumn};

/// A step of a small generator of numbers that look random.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) ^ (*state << 7 >> 40)
}

/// Batches of one column of each kind that has an order, and the place of the row, the last column. `variety` is the
/// number of different values.
fn rows(seed: u64, batches: &[usize], variety: u64) -> Vec<RecordBatch> {
    let mut state = seed;
    let mut place = 0;
    batches
        .iter()
        .map(|&count| {
            let mut column = |nulls: u64| -> Vec<Option<u64>> {
                (0..count)
                    .map(|_| {
                        (nulls == 0 || !random(&mut state).is_multiple_of(nulls)).then(|| random(&mut state) % variety)
                    })
                    .collect()
            };
            let float = |value: u64| match value % 9 {
                0 => f64::NAN,
                1 => -f64::NAN,
                2 => -0.0,
                3 => 0.0,
                4 => f64::INFINITY,
                5 => f64::NEG_INFINITY,
                _ => value as f64 / 7.0 - 3.0,
            };
            let text = |value: u64| match value % 7 {
                0 => String::new(),
                1 => "same first bytes of a long text, number ".to_string() + &value.to_string(),
                2 => "\u{0}".repeat(value as usize % 4),
                _ => format!("{:x}", value.wrapping_mul(0x9e37_79b9)),
            };
            let signed = |value: u64| (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64) >> (value % 60);
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("long", Arc::new(Int64Array::from_iter(column(9).into_iter().map(|v| v.map(signed))))),
                ("plain", Arc::new(Int64Array::from_iter(column(0).into_iter().map(|v| v.map(signed))))),
                ("byte", Arc::new(Int8Array::from_iter(column(5).into_iter().map(|v| v.map(|v| v as i8))))),
                ("short", Arc::new(UInt16Array::from_iter(column(0).into_iter().map(|v| v.map(|v| v as u16))))),
                ("double", Arc::new(Float64Array::from_iter(column(9).into_iter().map(|v| v.map(float))))),
                (
                    "single",
                    Arc::new(Float32Array::from_iter(column(9).into_iter().map(|v| v.map(|v| float(v) as f32)))),
                ),
                ("text", Arc::new(StringArray::from_iter(column(9).into_iter().map(|v| v.map(text))))),
                ("view", Arc::new(StringViewArray::from_iter(column(9).into_iter().map(|v| v.map(text))))),
                ("bytes", Arc::new(BinaryViewArray::from_iter(column(9).into_iter().map(|v| v.map(text))))),
                (
                    "word",
                    Arc::new(DictionaryArray::<Int8Type>::from_iter(
                        column(9)
                            .into_iter()
                            .map(|v| v.map(|v| ["b", "a", "", "a much longer word than those"][v as usize % 4])),
                    )),
                ),
                ("yes", Arc::new(BooleanArray::from_iter(column(4).into_iter().map(|v| v.map(|v| v % 2 == 0))))),
                ("day", Arc::new(Date32Array::from_iter(column(9).into_iter().map(|v| v.map(|v| v as i32 - 50))))),
                ("time", Arc::new(TimestampMicrosecondArray::from_iter(column(9).into_iter().map(|v| v.map(signed))))),
                (
                    "money",
                    Arc::new(
                        Decimal128Array::from_iter(
                            column(9).into_iter().map(|v| v.map(|v| i128::from(signed(v)) << 40)),
                        )
                        .with_precision_and_scale(38, 2)
                        .expect("fits"),
                    ),
                ),
                (
                    "fixed",
                    Arc::new(
                        FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                            column(9).into_iter().map(|v| v.map(|v| (v as u32).to_le_bytes())),
                            4,
                        )
                        .expect("four bytes each"),
                    ),
                ),
                ("place", Arc::new(Int64Array::from_iter_values(place..place + count as i64))),
            ];
            place += count as i64;
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
                .expect("columns of one length")
        })
        .collect()
}

fn by(column: usize, descending: bool, nulls_first: bool) -> SortColumn {
    SortColumn { column, options: SortOptions { descending, nulls_first } }
}

/// What arrow sorts the rows to; of equal rows the one that came first is first.
fn sorted_by_arrow(
    input: &[RecordBatch],
    schema: &SchemaRef,
    keys: &[SortColumn],
    fetch: Option<usize>,
) -> RecordBatch {
    let whole = concat_batches(schema, input).expect("one schema");
    let mut columns: Vec<_> = keys
        .iter()
        .map(|key| {
            // Dictionaries are compared by their values.
            let values = match whole.column(key.column).data_type() {
                DataType::Dictionary(_, values) => {
                    arrow::compute::cast(whole.column(key.column), values).expect("cast")
                }
                _ => Arc::clone(whole.column(key.column)),
            };
            arrow::compute::SortColumn { values, options: Some(key.options) }
        })
        .collect();
    let place = Int64Array::from_iter_values(0..whole.num_rows() as i64);
    columns.push(arrow::compute::SortColumn { values: Arc::new(place), options: None });
    let order = lexsort_to_indices(&columns, None).expect("all columns have an order");
    let sorted = take_record_batch(&whole, &order).expect("places of rows");
    sorted.slice(0, fetch.unwrap_or(usize::MAX).min(sorted.num_rows()))
}

/// Rows as text: equal if their values are, whatever their layout, NaNs and zeros told apart.
fn printed(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<String> {
    let whole = concat_batches(schema, batches).expect("one schema");
    let options = arrow::util::display::FormatOptions::default().with_null("null");
    let columns: Vec<_> = whole
        .columns()
        .iter()
        .map(|column| arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).expect("printable"))
        .collect();
    let rows = 0..whole.num_rows();
    rows.map(|row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|")).collect()
}

fn assert_same(schema: &SchemaRef, output: &[RecordBatch], expected: &RecordBatch, what: &str) {
    assert_same_text(&printed(schema, output), &printed(schema, std::slice::from_ref(expected)), what);
}

fn assert_same_text(output: &[String], expected: &[String], what: &str) {
    assert_eq!(output.len(), expected.len(), "{what}");
    if let Some(row) = (0..output.len()).find(|row| output[*row] != expected[*row]) {
        panic!("{what}: row {row} is {} and should be {}", output[row], expected[row]);
    }
}

fn instance(spec: &dyn OperatorSpec, context: &Context, schema: &SchemaRef) -> Box<dyn Operator> {
    spec.instantiate(context.operator(&[Arc::clone(schema)])).expect("starts")
}

/// Runs `operator` as [`drive`] does, and keeps nothing of its output but the text: batches would go on to count.
fn drive_to_text(operator: &mut dyn Operator, schema: &SchemaRef, inputs: Vec<Vec<RecordBatch>>) -> Vec<String> {
    let mut ports: Vec<_> = inputs.into_iter().map(|input| Some(input.into_iter())).collect();
    let mut text = Vec::new();
    let mut out = Outbox::new();
    while let Some(port) = (0..ports.len()).find(|port| ports[*port].is_some() && operator.ready().contains(*port)) {
        let mut step = match ports[port].as_mut().and_then(Iterator::next) {
            Some(batch) => operator.process(port, batch, &mut out).expect("takes it"),
            None => {
                ports[port] = None;
                operator.finish(port, &mut out).expect("ends")
            }
        };
        loop {
            while let Some((_, batch)) = out.pop() {
                text.extend(printed(schema, &[batch]));
            }
            match step {
                Step::NeedInput => break,
                Step::Done => return text,
                Step::MoreOutput => {}
                Step::Blocked(ticket) => ticket.wait(),
            }
            step = operator.resume(&mut out).expect("goes on");
        }
    }
    assert!(ports.iter().all(Option::is_none), "every port was read to its end");
    text
}

/// A memory that holds all.
fn plenty() -> Context {
    context().memory_limit(1 << 30).batch_rows(1000)
}
