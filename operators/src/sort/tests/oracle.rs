//! Every type, many keys, any cut of the rows into batches and lanes.

use proptest::prelude::*;

use super::*;

fn keys() -> impl Strategy<Value = Vec<SortColumn>> {
    prop::collection::vec((0..15_usize, any::<bool>(), any::<bool>()), 0..4)
        .prop_map(|keys| keys.into_iter().map(|(column, descending, first)| by(column, descending, first)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sort_is_arrows_sort(
        seed in any::<u64>(),
        batches in prop::collection::vec(0..300_usize, 0..9),
        variety in prop_oneof![Just(1_u64), Just(5), Just(1 << 40)],
        keys in keys(),
        fetch in prop_oneof![Just(None), (0..900_usize).prop_map(Some), (0..20_usize).prop_map(Some)],
        tight in any::<bool>(),
    ) {
        let schema = rows(0, &[0], 1)[0].schema();
        let input = rows(seed, &batches, variety);
        let expected = sorted_by_arrow(&input, &schema, &keys, fetch);
        let spec = Sort::try_new(Arc::clone(&schema), keys.clone(), fetch).expect("sortable");
        let floor = spec.min_memory(4 << 10);
        let context = match tight {
            true => context().memory_limit(floor).floor(floor).batch_bytes(4 << 10).batch_rows(100),
            false => plenty(),
        };
        let input = if tight { super::memory::pieces(&input, 4 << 10) } else { input };
        let pool = context.memory_pool().clone();
        let mut sort = instance(&spec, &context, &schema);
        let output = drive_to_text(sort.as_mut(), &schema, vec![input]);
        assert_same_text(&output, &printed(&schema, &[expected]), &format!("{keys:?} {fetch:?}"));
        prop_assert_eq!(pool.overruns(), 0);
    }

    #[test]
    fn a_merge_of_sorted_lanes_is_the_sort_of_all(
        seed in any::<u64>(),
        lanes in prop::collection::vec(prop::collection::vec(0..120_usize, 0..5), 1..9),
        variety in prop_oneof![Just(1_u64), Just(5), Just(1 << 40)],
        keys in keys(),
        fetch in prop_oneof![Just(None), (0..900_usize).prop_map(Some)],
        batch_bytes in prop_oneof![Just(600_usize), Just(64 << 10)],
    ) {
        let schema = rows(0, &[0], 1)[0].schema();
        // Lanes in the order of their rows: of equal rows the first lane's is first.
        let input: Vec<Vec<RecordBatch>> =
            lanes.iter().enumerate().map(|(lane, batches)| rows(seed ^ lane as u64, batches, variety)).collect();
        let expected = sorted_by_arrow(&input.concat(), &schema, &keys, fetch);
        let sorted = input.iter().map(|lane| {
            let whole = sorted_by_arrow(lane, &schema, &keys, None);
            (0..whole.num_rows()).step_by(77).map(|at| whole.slice(at, 77.min(whole.num_rows() - at))).collect()
        });
        let sorted: Vec<Vec<RecordBatch>> = sorted.collect();
        let spec = Merge::try_new(Arc::clone(&schema), keys.clone(), fetch).expect("sortable");
        let context = plenty().lanes(lanes.len()).batch_bytes(batch_bytes).batch_rows(100);
        let mut merge = instance(&spec, &context, &schema);
        let output = drive(merge.as_mut(), sorted).expect("runs");
        prop_assert!(output.iter().all(|batch| batch.num_rows() <= 100));
        assert_same(&schema, &output, &expected, &format!("{keys:?} {fetch:?}"));
    }
}

#[test]
fn sorted_reversed_and_constant_keys_of_several_chunks_come_out_right() {
    let input: Vec<_> =
        rows(3, &[8192; 20], 1 << 40).iter().map(|batch| batch.project(&[0, 6, 15]).expect("columns")).collect();
    let schema = input[0].schema();
    for keys in [vec![by(2, false, false)], vec![by(2, true, false)], vec![by(0, false, true), by(2, true, true)]] {
        for fetch in [None, Some(10), Some(20_000), Some(150_000)] {
            let spec = Sort::try_new(Arc::clone(&schema), keys.clone(), fetch).expect("sortable");
            let mut sort = instance(&spec, &plenty(), &schema);
            let output = drive(sort.as_mut(), [input.clone()]).expect("runs");
            assert_same(
                &schema,
                &output,
                &sorted_by_arrow(&input, &schema, &keys, fetch),
                &format!("{keys:?} {fetch:?}"),
            );
        }
    }
    let constant: Vec<_> =
        rows(3, &[8192; 10], 1).iter().map(|batch| batch.project(&[0, 6, 15]).expect("columns")).collect();
    let spec = Sort::try_new(Arc::clone(&schema), vec![by(1, false, true)], None).expect("sortable");
    let output = drive(instance(&spec, &plenty(), &schema).as_mut(), [constant.clone()]).expect("runs");
    assert_same(&schema, &output, &sorted_by_arrow(&constant, &schema, &[by(1, false, true)], None), "constant");
}

#[test]
fn keys_that_are_no_columns_or_have_no_order_are_refused() {
    let schema = rows(0, &[0], 1)[0].schema();
    let error = Sort::try_new(Arc::clone(&schema), vec![by(99, false, false)], None).expect_err("no column");
    assert!(error.to_string().contains("column 99"), "{error}");
    assert!(Merge::try_new(schema, vec![by(99, false, false)], None).is_err());
}

#[test]
fn a_merge_with_a_fetch_is_done_before_its_lanes_are_read() {
    let lane = |start: i64| -> Vec<RecordBatch> {
        (0..50)
            .map(|batch| {
                let numbers = Int64Array::from_iter_values((0..100).map(|i| start + 3 * (100 * batch + i)));
                RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).expect("one column")
            })
            .collect()
    };
    let schema = lane(0)[0].schema();
    let spec = Merge::try_new(Arc::clone(&schema), vec![by(0, false, false)], Some(120)).expect("sortable");
    let mut merge = instance(&spec, &plenty().lanes(3), &schema);
    let mut out = aqueduct_runtime::Outbox::new();
    let mut read = 0;
    let mut rows = 0;
    let mut lanes: Vec<_> = (0..3).map(|start| lane(start).into_iter()).collect();
    'run: loop {
        let port = (0..3).find(|port| merge.ready().contains(*port)).expect("a lane is wanted");
        let batch = lanes[port].next().expect("there is more");
        read += 1;
        let mut step = merge.process(port, batch, &mut out).expect("merges");
        loop {
            rows += std::iter::from_fn(|| out.pop()).map(|(_, batch)| batch.num_rows()).sum::<usize>();
            match step {
                aqueduct_runtime::Step::MoreOutput => step = merge.resume(&mut out).expect("goes on"),
                aqueduct_runtime::Step::Done => break 'run,
                _ => break,
            }
        }
    }
    assert_eq!((rows, read), (120, 3));
}
