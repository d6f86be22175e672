//! Far more state than memory, and memory that is plenty.

use arrow::array::{Float64Array, StringViewArray};
use datafusion_functions_aggregate::average::avg_udaf;
use datafusion_functions_aggregate::median::median_udaf;

use super::*;

fn rows(rows: i64, distinct: i64, name: impl Fn(i64) -> String) -> Vec<RecordBatch> {
    (0..rows)
        .step_by(8192)
        .map(|start| {
            let range = start..rows.min(start + 8192);
            let key = StringViewArray::from_iter_values(range.clone().map(|i| name(i * 7919 % distinct)));
            let value = Float64Array::from_iter_values(range.map(|i| (i % 1000) as f64));
            RecordBatch::try_from_iter([("k", Arc::new(key) as ArrayRef), ("v", Arc::new(value) as ArrayRef)])
                .expect("two columns")
        })
        .collect()
}

fn mean(schema: &SchemaRef) -> [Call; 1] {
    [Call::new(avg_udaf(), vec![col("v", schema).expect("v")])]
}

#[test]
fn state_of_fifty_times_the_memory_goes_through_the_disk() {
    let input = rows(400_000, 399_989, |i| format!("key number {i:09}"));
    let schema = input[0].schema();
    let calls = mean(&schema);
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let floors = Run { finals: 1, partials: 1, batch_rows: 8192, floating_bytes: 0, ..Run::default() };
    let outcome = run(&aggregate, &input, &floors);
    let floor = FinalAggregate::new(Arc::clone(&aggregate)).min_memory(floors.batch_bytes);
    println!("floor {floor}, spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
    assert!(floor <= 1 << 20);
    assert!(outcome.spilled_bytes > 20 << 20);
    assert_eq!(outcome.overruns, 0);
    assert_same(&outcome, 1, &expected(&schema, &["k"], &calls, &input), 1e-12);
}

#[test]
fn plenty_of_memory_spills_nothing() {
    let input = rows(200_000, 100_003, |i| format!("k{i}"));
    let schema = input[0].schema();
    let calls = mean(&schema);
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let outcome = run(&aggregate, &input, &Run { batch_rows: 8192, ..Run::default() });
    assert_eq!((outcome.spilled_bytes, outcome.overruns), (0, 0));
    assert_same(&outcome, 1, &expected(&schema, &["k"], &calls, &input), 1e-12);
}

#[test]
fn medians_of_many_groups_spill() {
    let input = rows(200_000, 20_011, |i| format!("k{i}"));
    let schema = input[0].schema();
    let calls = [Call::new(median_udaf(), vec![col("v", &schema).expect("v")])];
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let floors = Run { finals: 1, partials: 1, batch_rows: 8192, floating_bytes: 0, ..Run::default() };
    let outcome = run(&aggregate, &input, &floors);
    println!("spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
    assert!(outcome.spilled_bytes > 0);
    assert_same(&outcome, 1, &expected(&schema, &["k"], &calls, &input), 1e-12);
}

#[test]
fn keys_of_many_kilobytes_go_through_the_disk() {
    let input = rows(3000, 1999, |i| format!("{i:05}").repeat(1 + i as usize % 2000));
    let schema = input[0].schema();
    let calls = mean(&schema);
    let aggregate = describe(&schema, &["k"], &calls).expect("can be computed");
    let floors = Run { finals: 1, partials: 1, floating_bytes: 0, ..Run::default() };
    // Batches of a source are no larger than the plan's batch bytes.
    let input: Vec<_> = input
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows()).step_by(8).map(|start| batch.slice(start, 8.min(batch.num_rows() - start)))
        })
        .collect();
    let outcome = run(&aggregate, &input, &floors);
    println!("spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
    assert!(outcome.spilled_bytes > 5 << 20);
    assert_eq!(outcome.overruns, 0);
    assert_same(&outcome, 1, &expected(&schema, &["k"], &calls, &input), 1e-12);
}

#[test]
fn one_group_that_is_larger_than_memory_is_a_typed_error() {
    let input = rows(300_000, 7, |i| format!("k{i}"));
    let schema = input[0].schema();
    let calls = [Call::new(median_udaf(), vec![col("v", &schema).expect("v")])];
    let aggregate = describe(&schema, &[], &calls).expect("can be computed");
    let first = PartialAggregate::new(Arc::clone(&aggregate));
    let second = FinalAggregate::new(Arc::clone(&aggregate));
    let options = Run { batch_rows: 8192, ..Run::default() };
    let floor = second.min_memory(options.batch_bytes);
    let pool = MemoryPool::new(floor + (4 << 20));
    let admission = pool.admit(floor).expect("fits");
    let spill = SpillSpace::temporary();
    let partial = context(&options, 0, Arc::clone(&schema), MemoryPool::new(64 << 20).account("first"), &spill);
    let mut first = first.instantiate(partial).expect("starts");
    let last = context(&options, 0, aggregate.state_schema(), admission.account("second", floor), &spill);
    let mut second = second.instantiate(last).expect("starts");
    // 300,000 values of 8 bytes would fit; four times as many do not fit once more beside themselves.
    let mut result = Ok(Step::NeedInput);
    let mut out = Outbox::new();
    let mut states = Vec::new();
    for batch in input.iter().chain(&input).chain(&input).chain(&input) {
        let step = first.process(0, batch.clone(), &mut out).expect("takes rows");
        drive(first.as_mut(), step, &mut out, &mut states);
    }
    let step = first.finish(0, &mut out).expect("ends");
    drive(first.as_mut(), step, &mut out, &mut states);
    for batch in states {
        result = second.process(0, batch, &mut out);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = second.finish(0, &mut out);
        loop {
            match result {
                Ok(Step::MoreOutput) => result = second.resume(&mut out),
                Ok(Step::Blocked(ticket)) => {
                    ticket.wait();
                    result = second.resume(&mut out);
                }
                _ => break,
            }
        }
    }
    let error = result.expect_err("it cannot fit");
    assert!(matches!(error, aqueduct_runtime::OperatorError::RowTooLarge { .. }), "{error}");
    drop((second, admission));
    assert_eq!(pool.charged(), 0);
}
