//! The group-by questions of the db-benchmark, as whole jobs over rows in memory.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aqueduct_operators::{Aggregate, FinalAggregate, MemorySource, PartialAggregate, SortedAggregate};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, NodeId};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{
    average::avg_udaf, correlation::corr_udaf, count::count_udaf, median::median_udaf, min_max, stddev::stddev_udaf,
    sum::sum_udaf,
};
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{cast, col};

/// Distinct values of the small columns.
const SMALL: u64 = 100;
const BATCH_ROWS: u64 = 8192;
const ROUNDS: usize = 3;

type Call = (Arc<AggregateUDF>, &'static [&'static str], bool);

/// Name, keys, aggregates.
fn all() -> Vec<(&'static str, &'static [&'static str], Vec<Call>)> {
    let sum = |columns: &'static [&'static str]| -> Call { (sum_udaf(), columns, false) };
    let mean = |columns: &'static [&'static str]| -> Call { (avg_udaf(), columns, false) };
    vec![
        ("q1", &["id1"], vec![sum(&["v1"])]),
        ("q2", &["id1", "id2"], vec![sum(&["v1"])]),
        ("q3", &["id3"], vec![sum(&["v1"]), mean(&["v3"])]),
        ("q4", &["id4"], vec![mean(&["v3"]), sum(&["v1"]), sum(&["v2"])]),
        ("q5", &["id6"], vec![sum(&["v1"]), sum(&["v2"]), sum(&["v3"])]),
        ("q6", &["id4", "id5"], vec![(median_udaf(), &["v3"], false), (stddev_udaf(), &["v3"], false)]),
        ("q7", &["id3"], vec![(min_max::max_udaf(), &["v1"], false), (min_max::min_udaf(), &["v2"], false)]),
        ("q9", &["id2", "id4"], vec![(corr_udaf(), &["v1", "v2"], false)]),
        ("q10", &["id1", "id2", "id3", "id4", "id5", "id6"], vec![sum(&["v3"]), (count_udaf(), &["v1"], false)]),
        ("sorted", &["id4", "id5", "v2"], vec![(median_udaf(), &["v3"], false), (count_udaf(), &["id6"], true)]),
    ]
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let millions = arguments.first().map_or(Ok(10), |text| text.parse::<u64>())?;
    let names = arguments.get(1..).unwrap_or_default();
    let batches = rows(millions * 1_000_000)?;
    let config = ClusterConfig { workers: 2, memory_limit_bytes: 6 << 30, ..ClusterConfig::default() };
    let cluster = Cluster::start(config)?;
    for (name, keys, calls) in all() {
        if !names.is_empty() && names.iter().all(|wanted| wanted != name) {
            continue;
        }
        let mut times = Vec::new();
        let mut groups = 0;
        for _ in 0..ROUNDS {
            let time;
            (time, groups) = question(&cluster, &batches, keys, &calls)?;
            times.push(time);
        }
        times.sort();
        println!(
            "{name}: {:.3} s, at best {:.3} s, {groups} groups",
            times[ROUNDS / 2].as_secs_f64(),
            times[0].as_secs_f64()
        );
    }
    cluster.close();
    Ok(())
}

fn question(
    cluster: &Cluster,
    batches: &[RecordBatch],
    keys: &[&str],
    calls: &[Call],
) -> Result<(Duration, usize), Box<dyn Error>> {
    // A source in memory copies what it hands out: only what is asked for.
    let schema = batches[0].schema();
    let mut wanted: Vec<_> = keys.iter().chain(calls.iter().flat_map(|call| call.1)).collect();
    wanted.sort();
    wanted.dedup();
    let columns = wanted.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
    let batches = batches.iter().map(|batch| batch.project(&columns)).collect::<Result<Vec<_>, _>>()?;
    let schema = batches[0].schema();
    let group = keys.iter().map(|name| Ok((col(name, &schema)?, (*name).to_string())));
    let group = group.collect::<datafusion_common::Result<Vec<_>>>()?;
    let functions = calls.iter().enumerate().map(|(index, (function, columns, distinct))| {
        // As the planner would: correlations are of floats.
        let argument = |name: &&str| match function.name() {
            "corr" => cast(col(name, &schema)?, &schema, DataType::Float64),
            _ => col(name, &schema),
        };
        let arguments = columns.iter().map(argument).collect::<datafusion_common::Result<Vec<_>>>()?;
        let builder = AggregateExprBuilder::new(Arc::clone(function), arguments).schema(Arc::clone(&schema));
        Ok(Arc::new(builder.alias(format!("a{index}")).with_distinct(*distinct).build()?))
    });
    let functions = functions.collect::<datafusion_common::Result<Vec<_>>>()?;
    let aggregate = Arc::new(Aggregate::try_new(Arc::clone(&schema), group, functions)?);
    let mut graph = Graph::new();
    let source = graph.source("rows", MemorySource::new(schema, batches));
    let by_key = |node: NodeId| node.hash(aggregate.group_column_names());
    let groups = match SortedAggregate::try_new(Arc::clone(&aggregate))? {
        Some(sorted) => {
            let arguments = graph.operator("arguments", sorted.arguments(), source);
            graph.operator("sorted", sorted, by_key(arguments))
        }
        None => {
            let partial = graph.operator("partial", PartialAggregate::new(Arc::clone(&aggregate)), source);
            graph.operator("final", FinalAggregate::new(Arc::clone(&aggregate)), by_key(partial))
        }
    };
    let result = graph.result("result", groups.gather());
    let start = Instant::now();
    let mut job = cluster.run(&graph)?;
    let stream = job.take_result(result).ok_or("the result was taken")?;
    let mut rows = 0;
    for batch in stream {
        rows += batch?.num_rows();
    }
    job.wait()?;
    Ok((start.elapsed(), rows))
}

/// Rows as the benchmark's generator makes them, but for its random numbers.
fn rows(count: u64) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let many = (count / SMALL).max(1);
    let random = |row: u64, column: u64| {
        let mixed = (row * 11 + column).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let batch = |start: u64| {
        let each = || start..count.min(start + BATCH_ROWS);
        let text = |column: u64, values: u64, width: usize| -> ArrayRef {
            let text = |row| format!("id{:0width$}", 1 + random(row, column) % values);
            Arc::new(StringViewArray::from_iter_values(each().map(text)))
        };
        let number = |column: u64, values: u64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(each().map(|row| 1 + (random(row, column) % values) as i64)))
        };
        let float = each().map(|row| (random(row, 9) % 100_000_000) as f64 / 1e6);
        RecordBatch::try_from_iter([
            ("id1", text(1, SMALL, 3)),
            ("id2", text(2, SMALL, 3)),
            ("id3", text(3, many, 10)),
            ("id4", number(4, SMALL)),
            ("id5", number(5, SMALL)),
            ("id6", number(6, many)),
            ("v1", number(7, 5)),
            ("v2", number(8, 15)),
            ("v3", Arc::new(Float64Array::from_iter_values(float)) as ArrayRef),
        ])
    };
    Ok((0..count).step_by(BATCH_ROWS as usize).map(batch).collect::<Result<_, _>>()?)
}
