//! Much more data than memory, at exactly the floor: nothing overruns it, and all of it comes out in order.

use super::*;

/// Rows of `input` in pieces of about `bytes`, as a task hands them on.
pub(super) fn pieces(input: &[RecordBatch], bytes: usize) -> Vec<RecordBatch> {
    let mut pieces = Vec::new();
    for batch in input {
        let count = aqueduct_runtime::batch::batch_bytes(batch).div_ceil(bytes).max(1);
        let rows = batch.num_rows().div_ceil(count).max(1);
        let cut = (0..batch.num_rows()).step_by(rows).map(|at| batch.slice(at, rows.min(batch.num_rows() - at)));
        pieces.extend(cut.map(|piece| aqueduct_runtime::batch::copied(&piece)));
    }
    pieces
}

#[test]
fn a_sort_at_its_floor_spills_and_stays_within_it() {
    let schema = rows(0, &[0], 1)[0].schema();
    for (keys, fetch) in [
        (vec![by(0, true, false)], None),
        (vec![by(7, false, true), by(5, true, true)], None),
        (vec![by(6, false, true)], Some(20)),
        (vec![by(13, false, true)], Some(15_000)),
    ] {
        let input = pieces(&rows(11, &[4000; 5], 1 << 40), 16 << 10);
        let spec = Sort::try_new(Arc::clone(&schema), keys.clone(), fetch).expect("sortable");
        let floor = spec.min_memory(16 << 10);
        let context = context().memory_limit(floor).floor(floor).batch_bytes(16 << 10);
        let pool = context.memory_pool().clone();
        let operator_context = context.operator(&[Arc::clone(&schema)]);
        let space = operator_context.spill.clone();
        let mut sort = spec.instantiate(operator_context).expect("starts");
        let expected = printed(&schema, &[sorted_by_arrow(&input, &schema, &keys, fetch)]);
        let output = drive_to_text(sort.as_mut(), &schema, vec![input]);
        assert_same_text(&output, &expected, &format!("{keys:?} {fetch:?}"));
        // The first rows alone stay in memory; many of them go through the disk.
        assert_eq!(space.spilled_bytes() > 0, fetch.is_none_or(|fetch| fetch > 20), "{keys:?} {fetch:?}");
        drop(sort);
        assert_eq!((pool.overruns(), pool.charged()), (0, 0), "{keys:?} {fetch:?}: {} of {floor}", pool.peak());
    }
}

#[test]
fn the_first_rows_pin_no_more_than_themselves() {
    let schema = rows(0, &[0], 1)[0].schema();
    let context = plenty();
    let pool = context.memory_pool().clone();
    let spec = Sort::try_new(Arc::clone(&schema), vec![by(15, true, false)], Some(100)).expect("sortable");
    let mut sort = instance(&spec, &context, &schema);
    let mut out = aqueduct_runtime::Outbox::new();
    // Descending by the place: each row is better than all before it.
    for batch in rows(5, &[1000; 200], 1 << 40) {
        sort.process(0, batch, &mut out).expect("takes it");
        assert!(pool.charged() < 2 << 20, "{}", pool.charged());
    }
}

#[test]
fn a_merge_at_its_floor_stays_within_it() {
    let schema = rows(0, &[0], 1)[0].schema();
    for lanes in [1, 8, 64] {
        for keys in [vec![by(1, false, false)], vec![by(7, true, false), by(4, false, true)]] {
            let input: Vec<_> = (0..lanes).map(|lane| rows(lane, &[600], 1 << 40)).collect();
            let expected = printed(&schema, &[sorted_by_arrow(&input.concat(), &schema, &keys, None)]);
            let sorted: Vec<_> =
                input.iter().map(|lane| pieces(&[sorted_by_arrow(lane, &schema, &keys, None)], 16 << 10)).collect();
            let spec = Merge::try_new(Arc::clone(&schema), keys.clone(), None).expect("sortable");
            let floor = spec.min_memory(16 << 10) + lanes as usize * spec.lane_memory(16 << 10);
            let context = context().memory_limit(floor).floor(floor).batch_bytes(16 << 10).lanes(lanes as usize);
            let pool = context.memory_pool().clone();
            let mut merge = instance(&spec, &context, &schema);
            drop(input);
            let output = drive_to_text(merge.as_mut(), &schema, sorted);
            assert_same_text(&output, &expected, &format!("{lanes} {keys:?}"));
            drop(merge);
            assert_eq!((pool.overruns(), pool.charged()), (0, 0), "{lanes} {keys:?}: {} of {floor}", pool.peak());
        }
    }
}
