//! Ordered gathers behind stages that do not keep the source's order, and behind stages that end early.

use aqueduct_runtime::testing::NumbersSource;
use aqueduct_runtime::{Graph, Operator, OperatorContext, OperatorSpec, Outbox, Partitions, Port, Result, Step};
use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::{MIB, assert_clean, cluster, values, within_a_minute};

/// Adds this much for each partition, so that a value tells which one it went through.
const PARTITION: i64 = 1 << 40;

/// Marks numbers with its partition, and is done after so many batches.
#[derive(Debug, Clone, Copy)]
struct Mark {
    keeps_order: bool,
    batches: usize,
}

impl OperatorSpec for Mark {
    fn name(&self) -> &str {
        "mark"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Marking { partition: context.partition as i64, left: self.batches }))
    }
}

struct Marking {
    partition: i64,
    left: usize,
}

impl Operator for Marking {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let marked: Int64Array = batch.column(0).as_primitive::<Int64Type>().unary(|n| n + self.partition * PARTITION);
        out.push(RecordBatch::try_new(batch.schema(), vec![std::sync::Arc::new(marked)])?);
        self.left -= 1;
        Ok(if self.left == 0 { Step::Done } else { Step::NeedInput })
    }
}

/// What arrives of 40,000 numbers in splits of 100 that go through `mark` and are gathered in order.
fn gathered(partitions: usize, mark: Mark, behind_exchange: bool) -> Vec<i64> {
    let cluster = cluster(2, 64 * MIB);
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(40_000).split_rows(100));
    graph.set_partitions(source, Partitions::Fixed(partitions));
    let marked = if behind_exchange {
        let marked = graph.operator("mark", mark, source.hash(["n"]));
        graph.set_partitions(marked, Partitions::Fixed(partitions));
        marked
    } else {
        graph.operator("mark", mark, source)
    };
    let result = graph.result("all", marked.gather_in_order());
    let mut job = cluster.run(&graph).expect("it starts");
    let found = values(job.take_result(result).expect("the result")).expect("it ends well");
    job.wait().expect("it ends well");
    assert_clean(&cluster);
    found
}

#[test]
fn rows_of_a_source_behind_which_order_is_lost_come_by_partition() {
    within_a_minute(|| {
        for behind_exchange in [false, true] {
            for partitions in [1, 2, 8] {
                let found = gathered(partitions, Mark { keeps_order: false, batches: usize::MAX }, behind_exchange);
                assert!(found.is_sorted_by_key(|n| n / PARTITION), "{partitions} partitions, {behind_exchange}");
                let mut numbers: Vec<_> = found.into_iter().map(|n| n % PARTITION).collect();
                numbers.sort_unstable();
                assert_eq!(numbers, (0..40_000).collect::<Vec<i64>>());
            }
        }
    });
}

#[test]
fn an_ordered_gather_ends_where_its_senders_are_done_early() {
    within_a_minute(|| {
        for behind_exchange in [false, true] {
            for keeps_order in [false, true] {
                for partitions in [1, 2, 8] {
                    let mark = Mark { keeps_order, batches: 3 };
                    let found = gathered(partitions, mark, behind_exchange);
                    let mut each = vec![0; partitions];
                    found.iter().for_each(|n| each[(n / PARTITION) as usize] += 1);
                    let what = format!("{mark:?}, {partitions} partitions, exchange {behind_exchange}: {each:?}");
                    assert!(!found.is_empty(), "{what}");
                    if !behind_exchange {
                        // A partition may come too late to get a split, but who had one had three.
                        assert!(each.iter().all(|rows| [0, 100, 200, 300].contains(rows)), "{what}");
                    }
                    if keeps_order && !behind_exchange {
                        assert!(found.is_sorted_by_key(|n| n % PARTITION), "{what}");
                    } else {
                        assert!(found.is_sorted_by_key(|n| n / PARTITION), "{what}");
                    }
                }
            }
        }
    });
}
