//! Little memory, many groups, and keys that never repeat.

use aqueduct_runtime::batch::{batch_bytes, copied};
use aqueduct_runtime::{Outbox, Step};

use super::*;

/// Rows (k, v, t): so many groups, values in a mixed order, texts of more than a view.
fn mixed(count: i64, groups: i64) -> Vec<RecordBatch> {
    let each = |start: i64| start..count.min(start + 1000);
    (0..count)
        .step_by(1000)
        .map(|start| {
            let texts = each(start).map(|row| format!("a text of more than twelve bytes, number {row}"));
            let columns = [
                ("k", Arc::new(Int64Array::from_iter_values(each(start).map(|row| row * 7919 % groups))) as ArrayRef),
                ("v", Arc::new(Float64Array::from_iter_values(each(start).map(|row| (row * 31 % 10_007) as f64)))),
                ("t", Arc::new(StringViewArray::from_iter_values(texts))),
            ];
            RecordBatch::try_from_iter(columns).expect("one length")
        })
        .collect()
}

/// What a window keeps of the rows, and of what the operator leaves of them with nothing but its floor.
fn tight(keys: &[&str], groups: i64, wanted: usize) -> usize {
    let input = mixed(30_000, groups);
    let schema = input[0].schema();
    let order = ["-v", "t"];
    let top = top(&schema, keys, &order, TopKind::RowNumber, wanted).expect("of use");
    let options = Run { floating_bytes: 0, batch_bytes: 128 << 10, force_spill: true };
    assert!(input.iter().map(batch_bytes).sum::<usize>() > 5 * top.min_memory(options.batch_bytes));
    let left = run(&top, &input, options);
    let window = window(&schema, keys, &order, TopKind::RowNumber);
    assert_eq!(
        first(&window, &left, wanted, &["k", "v", "t"]),
        first(&window, &input, wanted, &["k", "v", "t"]),
        "{groups} groups"
    );
    count(&left)
}

#[test]
fn with_nothing_but_its_floor_it_leaves_out_what_it_can() {
    assert!(tight(&["k"], 10, 2) <= 100);
    assert!(tight(&["k"], 500, 1) < 15_000);
    // Too many to remember: none of them is lost.
    tight(&["k"], 10_007, 2);
    tight(&["k"], 30_000, TopPerGroup::MOST_ROWS);
    tight(&["t"], 1, 1);
    assert!(tight(&[], 10, 5) <= 100);
}

#[test]
fn keys_that_never_repeat_pass_by() {
    let input = mixed(300_000, 300_000 + 7);
    let schema = input[0].schema();
    let top = top(&schema, &["k"], &["v"], TopKind::RowNumber, 2).expect("of use");
    let floor = top.min_memory(64 << 10);
    let pool = MemoryPool::new(1 << 30);
    let context = context().pool(&pool).floor(floor).operator(&[schema]);
    let mut operator = top.instantiate(context).expect("starts");
    let mut left = 0;
    let mut out = Outbox::new();
    for (place, batch) in input.iter().enumerate() {
        let mut step = operator.process(0, copied(batch), &mut out).expect("runs");
        loop {
            while let Some((_, batch)) = out.pop() {
                left += batch.num_rows();
            }
            if !matches!(step, Step::MoreOutput) {
                break;
            }
            step = operator.resume(&mut out).expect("runs");
        }
        if place >= 150 {
            assert_eq!(left, (place + 1) * 1000);
            assert!(pool.charged() <= floor, "it holds {} for nothing", pool.charged());
        }
    }
}

#[test]
fn many_rows_that_are_kept_do_not_wait_for_the_end() {
    // Each row is better than all before it, and there are more groups than fit.
    let count = 120_000;
    let columns = [
        ("k", Arc::new(Int64Array::from_iter_values((0..count).map(|row| row % 20_000))) as ArrayRef),
        ("v", Arc::new(Int64Array::from_iter_values((0..count).map(|row| -row))) as ArrayRef),
    ];
    let rows = RecordBatch::try_from_iter(columns).expect("one length");
    let schema = rows.schema();
    let top = top(&schema, &["k"], &["v"], TopKind::Rank, 2).expect("of use");
    let window = window(&schema, &["k"], &["v"], TopKind::Rank);
    let input = pieces(&rows, 4096);
    let expected = first(&window, &input, 2, &["k", "v"]);
    for floating_bytes in [0, 16 << 20, 1 << 30] {
        let left = run(&top, &input, Run { floating_bytes, ..PLENTY });
        assert_eq!(first(&window, &left, 2, &["k", "v"]), expected, "{floating_bytes}");
        if floating_bytes >= 1 << 30 {
            assert_eq!(self::count(&left), expected.len());
        }
    }
}
