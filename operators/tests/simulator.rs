//! Bundled operators in the simulator: every schedule, limit and fault that a seed thinks of, and answers that arrow's
//! kernels or a plain loop over all rows give.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use aqueduct_operators::{
    Aggregate, Filter, FinalAggregate, Generator, HashJoin, Limit, Merge, PartialAggregate, Sort, SortColumn,
    SortedAggregate, Union,
};
use aqueduct_runtime::testing::{Report, simulate};
use aqueduct_runtime::{Graph, Input, NodeId, Partitions};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, StringViewArray};
use arrow::compute::{SortOptions, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinType, NullEquality};
use datafusion_expr::Operator as Binary;
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_functions_aggregate::median::median_udaf;
use datafusion_functions_aggregate::sum::sum_udaf;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};

const SEEDS: Range<u64> = 0..40;
/// The smallest batches of a real plan, which floors count on.
const PLAN_BATCH_BYTES: usize = 64 << 10;
const ROWS: u64 = 3_000;
/// More than a sort has room for.
const SORTED_ROWS: u64 = 30_000;

/// Rows `places`: what one holds depends on its place alone.
fn rows(places: Range<u64>) -> RecordBatch {
    let mixed = |place: u64| place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    // One key in three of them all, one in nine without any.
    let key = |place: u64| match place % 9 {
        0 => None,
        1..=3 => Some(5),
        _ => Some(mixed(place) as i64 % 200),
    };
    let value = |place: u64| match mixed(place) % 13 {
        0 => None,
        other => Some(other as f64 / 10.0),
    };
    let text = |place: u64| format!("größer als zwölf Bytes: {} ", mixed(place) % 500).repeat(1 + place as usize % 5);
    let columns: [(&str, ArrayRef); 4] = [
        ("key", Arc::new(places.clone().map(key).collect::<Int64Array>())),
        ("value", Arc::new(places.clone().map(value).collect::<Float64Array>())),
        ("text", Arc::new(StringViewArray::from_iter_values(places.clone().map(text)))),
        ("place", Arc::new(Int64Array::from_iter_values(places.map(|place| place as i64)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name != "place")))
        .expect("columns of one length")
}

fn schema() -> SchemaRef {
    rows(0..0).schema()
}

fn source(graph: &mut Graph, name: &str, count: u64) -> NodeId {
    let generate = |offset: u64, count: usize| Ok(rows(offset..offset + count as u64));
    graph.source(name, Generator::new(schema(), Some(count), generate).with_split_rows(250))
}

fn told(report: &Report) {
    println!("{report}");
    assert!(report.finished > report.failed, "{report}");
}

fn sort_keys() -> Vec<SortColumn> {
    let options = SortOptions { descending: true, nulls_first: false };
    vec![SortColumn { column: 0, options }, SortColumn { column: 3, options: SortOptions::default() }]
}

#[test]
fn a_sort_and_its_merge() {
    let whole = rows(0..SORTED_ROWS);
    let columns = sort_keys();
    let columns = columns.iter().map(|key| arrow::compute::SortColumn {
        values: Arc::clone(whole.column(key.column)),
        options: Some(key.options),
    });
    let order = lexsort_to_indices(&columns.collect::<Vec<_>>(), None).expect("sortable");
    let expected = take_record_batch(&whole, &order).expect("places");
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = source(&mut graph, "rows", SORTED_ROWS);
        let sort = Sort::try_new(schema(), sort_keys(), None).expect("sortable");
        let sorted = graph.operator("sort", sort, source.round_robin());
        graph.set_partitions(sorted, Partitions::Fixed(3));
        let merge = Merge::try_new(schema(), sort_keys(), None).expect("sortable");
        let merged = graph.operator("merge", merge, sorted.lanes());
        graph.result("result", merged);
        graph
    })
    .seeds(SEEDS)
    .smallest_batch_bytes(PLAN_BATCH_BYTES)
    .check(move |run| {
        if let Some(found) = run.result("result") {
            assert_eq!(*found, expected);
        }
    });
    assert!(report.disk_bytes > 0, "{report}");
    told(&report);
}

#[derive(Debug, Default, Clone)]
struct Group {
    count: i64,
    values: Vec<f64>,
    texts: BTreeSet<String>,
}

/// Groups by a plain loop: rows whose place is not a multiple of ten.
fn groups() -> BTreeMap<Option<i64>, Group> {
    let whole = rows(0..ROWS);
    let (keys, values) = (whole.column(0).as_primitive::<Int64Type>(), whole.column(1).as_primitive::<Float64Type>());
    let texts = whole.column(2).as_string_view();
    let mut groups: BTreeMap<Option<i64>, Group> = BTreeMap::new();
    for row in (0..ROWS as usize).filter(|row| row % 10 != 0) {
        let group = groups.entry(keys.is_valid(row).then(|| keys.value(row))).or_default();
        group.count += 1;
        group.values.extend(values.is_valid(row).then(|| values.value(row)));
        group.texts.insert(texts.value(row).to_string());
    }
    groups
}

fn aggregate(graph: &mut Graph, input: NodeId, median: bool) -> NodeId {
    let schema = schema();
    let column = |name: &str| col(name, &schema).expect("a column");
    let build = |function, argument, distinct, name: &str| {
        let builder = AggregateExprBuilder::new(function, vec![argument]).schema(Arc::clone(&schema)).alias(name);
        Arc::new(builder.with_distinct(distinct).build().expect("fits its argument"))
    };
    let functions = if median {
        vec![build(median_udaf(), column("value"), false, "median"), build(count_udaf(), column("text"), true, "texts")]
    } else {
        vec![build(count_udaf(), lit(1_i64), false, "rows"), build(sum_udaf(), column("value"), false, "sum")]
    };
    let keys = vec![(column("key"), "key".to_string())];
    let aggregate = Arc::new(Aggregate::try_new(Arc::clone(&schema), keys, functions).expect("can be computed"));
    let names = aggregate.group_column_names();
    match SortedAggregate::try_new(Arc::clone(&aggregate)).expect("fits its input") {
        Some(sorted) => {
            let arguments = graph.operator("arguments", sorted.arguments(), input);
            graph.operator("aggregate", sorted, arguments.hash(names))
        }
        None => {
            let partial = graph.operator("partial", PartialAggregate::new(Arc::clone(&aggregate)), input);
            graph.operator("aggregate", FinalAggregate::new(aggregate), partial.hash(names))
        }
    }
}

fn filtered(graph: &mut Graph) -> NodeId {
    let source = source(graph, "rows", ROWS);
    let place = col("place", &schema()).expect("a column");
    let residue = Arc::new(BinaryExpr::new(place, Binary::Modulo, lit(10_i64)));
    graph.operator("filter", Filter::new(Arc::new(BinaryExpr::new(residue, Binary::NotEq, lit(0_i64)))), source)
}

#[test]
fn counts_and_sums_by_group() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let filtered = filtered(&mut graph);
        let totals = aggregate(&mut graph, filtered, false);
        graph.result("result", totals);
        graph
    })
    .seeds(SEEDS)
    .smallest_batch_bytes(PLAN_BATCH_BYTES)
    .check(|run| {
        let Some(found) = run.result("result") else { return };
        let mut groups = groups();
        let keys = found.column(0).as_primitive::<Int64Type>();
        let (counts, sums) =
            (found.column(1).as_primitive::<Int64Type>(), found.column(2).as_primitive::<Float64Type>());
        for row in 0..found.num_rows() {
            let group = groups.remove(&keys.is_valid(row).then(|| keys.value(row))).expect("a group, once");
            assert_eq!(counts.value(row), group.count);
            let sum: f64 = group.values.iter().sum();
            assert!((sums.value(row) - sum).abs() <= 1e-9 * sum.abs(), "{} is not {sum}", sums.value(row));
        }
        assert!(groups.is_empty(), "{} groups are missing", groups.len());
    });
    told(&report);
}

#[test]
fn medians_and_distinct_texts_by_group() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let filtered = filtered(&mut graph);
        let totals = aggregate(&mut graph, filtered, true);
        graph.result("result", totals);
        graph
    })
    .seeds(SEEDS)
    .smallest_batch_bytes(PLAN_BATCH_BYTES)
    .check(|run| {
        let Some(found) = run.result("result") else { return };
        let mut groups = groups();
        let keys = found.column(0).as_primitive::<Int64Type>();
        let medians = found.column(1).as_primitive::<Float64Type>();
        let texts = found.column(2).as_primitive::<Int64Type>();
        for row in 0..found.num_rows() {
            let mut group = groups.remove(&keys.is_valid(row).then(|| keys.value(row))).expect("a group, once");
            assert_eq!(texts.value(row), group.texts.len() as i64);
            group.values.sort_by(f64::total_cmp);
            let (half, count) = (group.values.len() / 2, group.values.len());
            let expected = match count % 2 {
                _ if count == 0 => None,
                1 => Some(group.values[half]),
                _ => Some((group.values[half - 1] + group.values[half]) / 2.0),
            };
            let found = medians.is_valid(row).then(|| medians.value(row));
            assert_eq!(found.is_some(), expected.is_some());
            assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-9, "{found:?} is not {expected:?}");
        }
        assert!(groups.is_empty(), "{} groups are missing", groups.len());
    });
    told(&report);
}

/// Left rows and pairs of a left join on the key, by a plain loop over the counts of each side.
fn joined(left: u64, right: u64) -> (usize, i64) {
    let counts = |rows_of: u64| {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        rows(0..rows_of).column(0).as_primitive::<Int64Type>().iter().flatten().for_each(|key| {
            *counts.entry(key).or_default() += 1;
        });
        counts
    };
    let right = counts(right);
    let whole = rows(0..left);
    let places = whole.column(3).as_primitive::<Int64Type>();
    let (mut found, mut sum) = (0, 0);
    for (key, place) in whole.column(0).as_primitive::<Int64Type>().iter().zip(places.values()) {
        let partners = key.and_then(|key| right.get(&key)).copied().unwrap_or(0).max(1);
        found += partners;
        sum += partners as i64 * place;
    }
    (found, sum)
}

fn join(broadcast: bool) {
    const LEFT: u64 = 250;
    const RIGHT: u64 = 400;
    let (count, sum) = joined(LEFT, RIGHT);
    let report = simulate(move || {
        let mut graph = Graph::new();
        let (left, right) = (source(&mut graph, "left", LEFT), source(&mut graph, "right", RIGHT));
        let nothing = NullEquality::NullEqualsNothing;
        let spec = HashJoin::try_new(schema(), schema(), vec![(0, 0)], JoinType::Left, nothing).expect("a join");
        let inputs: [Input; 2] =
            if broadcast { [left.round_robin(), right.broadcast()] } else { [left.hash(["key"]), right.hash(["key"])] };
        let node = graph.operator_with("join", spec, inputs);
        if broadcast {
            graph.set_partitions(node, Partitions::Fixed(3));
        }
        graph.result("result", node);
        graph
    })
    .seeds(SEEDS)
    .smallest_batch_bytes(PLAN_BATCH_BYTES)
    .check(move |run| {
        let Some(found) = run.result("result") else { return };
        assert_eq!(found.num_rows(), count);
        assert_eq!(found.column(3).as_primitive::<Int64Type>().values().iter().sum::<i64>(), sum);
    });
    told(&report);
}

#[test]
fn a_hash_join_of_hashed_inputs() {
    join(false);
}

#[test]
fn a_hash_join_whose_right_side_goes_to_all() {
    join(true);
}

#[test]
fn a_join_with_itself_through_a_union() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let rows = source(&mut graph, "rows", 300);
        let few = graph.operator("few", Limit::new(0, Some(40)), rows.gather_in_order());
        let other = source(&mut graph, "other", 100);
        let both = graph.operator_with("union", Union::new(2), [rows.hash(["key"]), other.hash(["key"])]);
        let nothing = NullEquality::NullEqualsNothing;
        let spec = HashJoin::try_new(schema(), schema(), vec![(0, 0)], JoinType::Full, nothing).expect("a join");
        let joined = graph.operator_with("join", spec, [both.hash(["key"]), few.hash(["key"])]);
        graph.result("result", joined);
        graph
    })
    .seeds(SEEDS)
    .smallest_batch_bytes(PLAN_BATCH_BYTES)
    .check(|_| ());
    told(&report);
}
