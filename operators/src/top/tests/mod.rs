//! The first rows called by hand: codes compared with arrow's row format, rows with those that a window over all of them
//! keeps.

mod memory;
mod order;

use std::sync::Arc;

use aqueduct_runtime::OperatorSpec;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::testing::context;
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray,
    StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::kernels::cmp::lt_eq;
use arrow::compute::{SortOptions, concat_batches, filter_record_batch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{TopKind, TopPerGroup};
use crate::Window;
use crate::window::tests::{drive, function, rows_frame, window as ranking};

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// One of `values` or, one time in ten, none.
    fn maybe<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        let value = values[self.below(values.len() as u64) as usize];
        (self.below(10) > 0).then_some(value)
    }
}

/// Rows with the odd values of many types, nine of ten in one group by `k`.
fn rows(count: usize) -> RecordBatch {
    let mut any = Numbers(42);
    let any = &mut any;
    let floats =
        [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5, -1.5, 1e300, f64::MIN_POSITIVE];
    let integers = [i64::MIN, i64::MIN + 1, i64::MIN + 2, -1, 0, 1, 300, i64::MAX - 2, i64::MAX - 1, i64::MAX];
    let decimals =
        [i128::MIN / 4, i64::MIN.into(), -1, 0, 1, 77, i64::MAX.into(), i128::from(i64::MAX) + 1, i128::MAX / 4];
    let texts =
        ["", "a", "a\0", "ab", "a text that is longer than a code", "a text that is longer than others", "ä", "zz"];
    macro_rules! column {
        ($array:ty, $values:expr) => {
            Arc::new((0..count).map(|_| any.maybe(&$values)).collect::<$array>()) as ArrayRef
        };
    }
    let groups: Vec<i64> = (0..20).map(|group| if group < 18 { 0 } else { group - 17 }).collect();
    let decimal: Decimal128Array = (0..count).map(|_| any.maybe(&decimals)).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from_iter_values(0..count as i64)) as ArrayRef),
        ("k", column!(Int64Array, groups)),
        ("t", column!(StringViewArray, texts)),
        ("f", column!(Float64Array, floats)),
        ("i", column!(Int64Array, integers)),
        ("u", column!(UInt64Array, [0, 1, 2, 9, u64::MAX - 2, u64::MAX - 1, u64::MAX])),
        ("f32", column!(Float32Array, floats.map(|float| float as f32))),
        ("b", column!(BooleanArray, [true, false])),
        ("day", column!(Date32Array, [i32::MIN, -1, 0, 1, 20_000, i32::MAX])),
        ("at", column!(TimestampMicrosecondArray, integers)),
        ("d", Arc::new(decimal.with_precision_and_scale(38, 2).expect("a type")) as ArrayRef),
        ("s", column!(StringArray, texts)),
        ("any", Arc::new((0..count).map(|_| Some(any.below(1 << 31) as f64)).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("one length")
}

/// `-f` is `f` descending; `f!` has its nulls where they are not by default.
fn by(schema: &SchemaRef, names: &[&str]) -> Vec<SortColumn> {
    let column = |name: &&str| {
        let descending = name.starts_with('-');
        let options = SortOptions { descending, nulls_first: descending != name.ends_with('!') };
        let name = name.trim_matches(['-', '!']);
        SortColumn { column: schema.index_of(name).expect("a column"), options }
    };
    names.iter().map(column).collect()
}

fn top(schema: &SchemaRef, keys: &[&str], order: &[&str], kind: TopKind, rows: usize) -> Option<TopPerGroup> {
    let keys = keys.iter().map(|name| schema.index_of(name).expect("a column")).collect();
    TopPerGroup::try_new(Arc::clone(schema), keys, by(schema, order), kind, rows)
}

/// A window with one function, `kind`.
fn window(schema: &SchemaRef, keys: &[&str], order: &[&str], kind: TopKind) -> Window {
    let name = match kind {
        TopKind::RowNumber => "row_number",
        TopKind::Rank => "rank",
        TopKind::DenseRank => "dense_rank",
    };
    let keys = keys.iter().map(|name| schema.index_of(name).expect("a column")).collect();
    let functions = vec![function(ranking(name), vec![], rows_frame("rows_unb_cur"))];
    Window::try_new(Arc::clone(schema), keys, by(schema, order), functions).expect("a window")
}

/// How a test runs the operator.
#[derive(Clone, Copy)]
struct Run {
    batch_bytes: usize,
    /// Bytes that the pool has beyond the floor.
    floating_bytes: usize,
    force_spill: bool,
}

const PLENTY: Run = Run { batch_bytes: 64 << 10, floating_bytes: 1 << 30, force_spill: false };

fn run(spec: &dyn OperatorSpec, input: &[RecordBatch], options: Run) -> Vec<RecordBatch> {
    let floor_bytes = spec.min_memory(options.batch_bytes);
    let pool = MemoryPool::new(floor_bytes + options.floating_bytes);
    let context = context().pool(&pool).floor(floor_bytes).batch_bytes(options.batch_bytes);
    let mut operator = spec.instantiate(context.operator(&[input[0].schema()])).expect("starts");
    let batches = drive(operator.as_mut(), input, options.force_spill).expect("runs");
    drop(operator);
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
    batches
}

fn pieces(rows: &RecordBatch, size: usize) -> Vec<RecordBatch> {
    (0..rows.num_rows()).step_by(size).map(|at| rows.slice(at, size.min(rows.num_rows() - at))).collect()
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// Rows that `window` numbers up to `wanted`, each as the text of its columns `shown` and its number, in order of that.
fn first(window: &Window, input: &[RecordBatch], wanted: usize, shown: &[&str]) -> Vec<String> {
    let batches = run(window, input, PLENTY);
    let Some(batch) = batches.first() else { return Vec::new() };
    let all = concat_batches(&batch.schema(), &batches).expect("one schema");
    let number = all.columns().last().expect("the number").as_primitive::<UInt64Type>();
    let chosen = lt_eq(number, &UInt64Array::new_scalar(wanted as u64)).expect("compares");
    let all = filter_record_batch(&all, &chosen).expect("filters");
    let options = FormatOptions::default().with_null("none");
    let shown = shown.iter().map(|name| all.column_by_name(name.trim_matches(['-', '!'])).expect("a column"));
    let shown = shown.chain(all.columns().last());
    let shown: Vec<_> = shown.map(|column| ArrayFormatter::try_new(column, &options).expect("prints")).collect();
    let text = |row| {
        let text: Vec<_> = shown.iter().map(|column| column.value(row).to_string()).collect();
        text.join(" | ").replace("-0.0", "0.0")
    };
    let mut rows: Vec<String> = (0..all.num_rows()).map(text).collect();
    rows.sort();
    rows
}

/// Two partitions leave out what they can, and a window gets the rest: as if it got everything.
fn same(rows: &RecordBatch, keys: &[&str], order: &[&str], wanted: &[usize], options: Run) {
    let schema = rows.schema();
    let input = pieces(rows, rows.num_rows().div_ceil(50));
    // Of peers any may be the first: what tells them apart is not looked at.
    let shown: Vec<&str> = keys.iter().chain(order).copied().collect();
    for kind in [TopKind::RowNumber, TopKind::Rank, TopKind::DenseRank] {
        let window = window(&schema, keys, order, kind);
        for &wanted in wanted {
            let Some(top) = top(&schema, keys, order, kind, wanted) else {
                assert!(order.is_empty() && kind != TopKind::RowNumber);
                continue;
            };
            let halves = [0, 1].map(|half| input.iter().skip(half).step_by(2).cloned().collect::<Vec<_>>());
            let left: Vec<_> =
                halves.iter().filter(|half| !half.is_empty()).flat_map(|half| run(&top, half, options)).collect();
            let expected = first(&window, &input, wanted, &shown);
            let found = if left.is_empty() { Vec::new() } else { first(&window, &left, wanted, &shown) };
            assert_eq!(found, expected, "{kind:?} <= {wanted} by {keys:?} in order of {order:?}");
            assert!(!expected.is_empty());
            if kind == TopKind::RowNumber && wanted == 1 && !keys.contains(&"id") {
                assert!(count(&left) < rows.num_rows() / 2, "by {keys:?} in order of {order:?}");
            }
        }
    }
}

const ORDERS: [&[&str]; 22] = [
    &[],
    &["f"],
    &["-f"],
    &["f!"],
    &["-f!"],
    &["i"],
    &["-i"],
    &["i!"],
    &["-i!"],
    &["u!"],
    &["-u"],
    &["f32"],
    &["b", "-day"],
    &["-at"],
    &["d"],
    &["-d!"],
    &["t"],
    &["-s", "any"],
    &["any", "t"],
    &["-b", "i", "f"],
    &["day", "-id"],
    &["-any"],
];

#[test]
fn a_window_over_what_is_left_has_the_same_first_rows() {
    let rows = rows(800);
    for order in ORDERS {
        same(&rows, &["k"], order, &[1, 5], PLENTY);
    }
}

#[test]
fn groups_are_told_apart_by_any_columns_or_by_none() {
    let rows = rows(800);
    for keys in [&[][..], &["f"], &["t"], &["k", "f32"], &["s", "b", "d"], &["id"], &["b"]] {
        same(&rows, keys, &["-any"], &[3], PLENTY);
        same(&rows, keys, &["-i", "t"], &[TopPerGroup::MOST_ROWS], PLENTY);
    }
}

#[test]
fn batches_of_a_few_rows_make_no_difference() {
    let rows = rows(150);
    for order in &ORDERS[..6] {
        same(&rows, &["k"], order, &[2], Run { batch_bytes: 64, force_spill: true, ..PLENTY });
    }
}

#[test]
fn of_each_group_as_many_rows_leave_as_are_wanted() {
    let count_of = |kind, order: &[&str], key: &str, wanted| {
        let keys = (0..100_000).map(|row| row % 101);
        let columns = [
            ("k", Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef),
            ("up", Arc::new(Int64Array::from_iter_values(0..100_000)) as ArrayRef),
            ("few", Arc::new(Int64Array::from_iter_values((0..100_000).map(|row| row / 101 % 10))) as ArrayRef),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("one length");
        let top = top(&rows.schema(), &[key], order, kind, wanted).expect("of use");
        count(&run(&top, &pieces(&rows, 8192), PLENTY))
    };
    // Whether the best come first or last.
    assert_eq!(count_of(TopKind::RowNumber, &["up"], "k", 2), 202);
    assert_eq!(count_of(TopKind::RowNumber, &["-up"], "k", 2), 202);
    assert_eq!(count_of(TopKind::RowNumber, &[], "k", 3), 303);
    assert_eq!(count_of(TopKind::DenseRank, &["-up"], "k", 5), 505);
    // Peers are wanted or not.
    assert_eq!(count_of(TopKind::RowNumber, &["few"], "k", 1), 101);
    let least = (0..100_000).filter(|row| row / 101 % 10 == 0).count();
    assert_eq!(count_of(TopKind::Rank, &["few"], "k", 1), least);
    let two = (0..100_000).filter(|row| row / 101 % 10 < 2).count();
    assert_eq!(count_of(TopKind::DenseRank, &["few"], "k", 2), two);
}

#[test]
fn what_is_of_no_use_is_not_there() {
    let schema = rows(1).schema();
    assert!(top(&schema, &["k"], &["f"], TopKind::RowNumber, 0).is_none());
    assert!(top(&schema, &["k"], &["f"], TopKind::RowNumber, TopPerGroup::MOST_ROWS + 1).is_none());
    assert!(top(&schema, &["k"], &[], TopKind::Rank, 1).is_none());
    let detail = top(&schema, &["k", "t"], &["-f", "id"], TopKind::Rank, 2).expect("of use").detail();
    assert_eq!(detail, "rank <= 2 by k, t in order of f desc, id");
}
