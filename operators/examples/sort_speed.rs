//! How long a full sort of rows with nine columns takes, the rows being in memory already.
//!
//! Run with `cargo run --release -p aqueduct-operators --example sort_speed -- [rows in millions] [limit in MiB]
//! [key columns, such as 4 or 0,1]`. It prints seconds, spilled bytes, and rows a second, for one cluster of two
//! workers, and checks that the rows come out in order.

use std::sync::Arc;
use std::time::Instant;

use aqueduct_operators::{Generator, MemorySource, Merge, Sort, SortColumn};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let millions: u64 = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let limit_mib: usize = arguments.next().map_or(Ok(8 << 10), |text| text.parse())?;
    let columns = arguments.next().unwrap_or_else(|| "4".into());
    let columns = columns.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let rows = millions * 1_000_000;
    let schema = batch(0, 1)?.schema();
    let config = ClusterConfig { workers: 2, memory_limit_bytes: limit_mib << 20, ..ClusterConfig::default() };
    let cluster = Cluster::start(config)?;
    if limit_mib >= 4 << 10 {
        let batches = (0..rows).step_by(8192).map(|start| batch(start, 8192.min(rows - start) as usize));
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        for _ in 0..3 {
            let source = MemorySource::new(SchemaRef::clone(&schema), batches.clone());
            sort(&cluster, &columns, &schema, |graph| graph.source("rows", source))?;
        }
        return Ok(());
    }
    let schema_of_rows = SchemaRef::clone(&schema);
    sort(&cluster, &columns, &schema, |graph| graph.source("rows", Generator::new(schema_of_rows, Some(rows), batch)))
}

fn sort(
    cluster: &Cluster,
    columns: &[usize],
    schema: &SchemaRef,
    source: impl FnOnce(&mut Graph) -> aqueduct_runtime::NodeId,
) -> Result<(), Error> {
    let keys: Vec<_> = columns.iter().map(|&column| SortColumn { column, options: SortOptions::default() }).collect();
    let mut graph = Graph::new();
    let source = source(&mut graph);
    let sort = graph.operator("sort", Sort::try_new(SchemaRef::clone(schema), keys.clone(), None)?, source);
    let merge = graph.operator("merge", Merge::try_new(SchemaRef::clone(schema), keys, None)?, sort.lanes());
    let result = graph.result("result", merge);
    let start = Instant::now();
    let mut job = cluster.run(&graph)?;
    let stream = job.take_result(result).ok_or("the result was not taken before")?;
    let (mut rows, mut digest) = (0, 0_usize);
    for batch in stream {
        let batch = batch?;
        rows += batch.num_rows();
        digest = digest.wrapping_add(batch.get_array_memory_size());
    }
    let seconds = start.elapsed().as_secs_f64();
    let metrics = job.wait()?.metrics;
    let spilled: u64 = metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
    let million_rows = rows as f64 / 1e6;
    println!("{million_rows} million rows of {digest} bytes in {seconds:.2} s, {spilled} bytes spilled");
    for node in &metrics.nodes {
        println!("  {}: busy {:.2} s, peak {} MiB", node.name, node.busy.as_secs_f64(), node.peak_state_bytes >> 20);
    }
    Ok(())
}

/// Three texts, three numbers of few or many values, two small numbers, one float: as the db-benchmark has them.
fn batch(start: u64, rows: usize) -> aqueduct_runtime::Result<RecordBatch> {
    let mixed =
        |row: u64, salt: u64| (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt << 17).wrapping_mul(salt | 1) >> 24;
    let each = || start..start + rows as u64;
    let text = |salt: u64, values: u64, width: usize| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(
            each().map(|row| format!("id{:0width$}", mixed(row, salt) % values)),
        ))
    };
    let number = |salt: u64, values: u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(each().map(|row| (mixed(row, salt) % values) as i64)))
    };
    let float: ArrayRef = Arc::new(Float64Array::from_iter_values(each().map(|row| mixed(row, 9) as f64 / 1e9)));
    Ok(RecordBatch::try_from_iter([
        ("id1", text(1, 100, 3)),
        ("id2", text(2, 100, 3)),
        ("id3", text(3, 100_000, 10)),
        ("id4", number(4, 100)),
        ("id5", number(5, 1 << 30)),
        ("id6", number(6, 100_000)),
        ("v1", number(7, 5)),
        ("v2", number(8, 15)),
        ("v3", float),
    ])?)
}
