//! The external sorter beside arrow's kernels.

use super::*;

pub(super) fn sort_columns() -> Vec<SortColumn> {
    let by = |column, descending, nulls_first| SortColumn { column, options: SortOptions { descending, nulls_first } };
    vec![by(0, true, false), by(2, false, true), by(1, true, true)]
}

/// What arrow makes of it: the place in the input as the last key makes the order stable.
fn sorted_by_arrow(input: &RecordBatch, columns: &[SortColumn]) -> RecordBatch {
    let mut by: Vec<ArrowSortColumn> = columns
        .iter()
        .map(|c| ArrowSortColumn { values: Arc::clone(input.column(c.column)), options: Some(c.options) })
        .collect();
    by.push(ArrowSortColumn { values: Arc::clone(input.column(3)), options: None });
    let order = lexsort_to_indices(&by, None).expect("sortable");
    take_record_batch(input, &order).expect("in range")
}

#[test]
fn a_sorter_sorts_as_arrow_does_and_keeps_equal_rows_in_order() {
    let floor = ExternalSorter::min_memory(BATCH_BYTES);
    for (name, input) in inputs(50 * floor) {
        let Some(schema) = input.first().map(RecordBatch::schema) else { continue };
        let whole = concat_batches(&schema, &input).expect("one schema");
        for columns in [sort_columns(), sort_columns()[..1].to_vec()] {
            let expected = sorted_by_arrow(&whole, &columns);
            for limit in pools(floor) {
                let setup = setup(limit, floor);
                let mut sorter =
                    ExternalSorter::new(&setup.account, &setup.space, Arc::clone(&schema), &columns, 1000, BATCH_BYTES)
                        .expect("sortable");
                for batch in &input {
                    sorter.push(copied(batch)).expect("pushed");
                    setup.after_step();
                    // Who settles gets longer runs; who does not must get right ones, too.
                    while columns.len() == 1
                        && let Some(ticket) = sorter.settle().expect("written")
                    {
                        ticket.wait();
                    }
                }
                let output = read(&setup, || sorter.next());
                assert_same(name, &output, &expected);
                assert!(output.iter().all(|b| b.num_rows() <= 1000 && batch_bytes(b) <= 4 * BATCH_BYTES));
                let spilled = setup.space.spilled_bytes() > 0;
                if limit != 16 << 20 {
                    assert_eq!(spilled, limit == floor && expected.num_rows() > 50, "{name} {limit}");
                }
                if limit == floor && spilled && columns.len() == 3 {
                    assert!(sorter.passes() > 0, "{name}");
                }
                drop((sorter, output));
                setup.ends_clean();
            }
        }
    }
}

#[test]
fn a_sorter_whose_memory_is_asked_for_in_the_middle_of_its_output_goes_on_from_disk() {
    let input = input(2 << 20, 100, 4, false);
    let schema = input[0].schema();
    let whole = concat_batches(&schema, &input).expect("one schema");
    let columns = sort_columns();
    let expected = sorted_by_arrow(&whole, &columns);
    let setup = setup(64 << 20, 1 << 20);
    let mut sorter =
        ExternalSorter::new(&setup.account, &setup.space, schema, &columns, 1000, BATCH_BYTES).expect("sortable");
    input.iter().for_each(|batch| sorter.push(copied(batch)).expect("pushed"));
    let mut reads = 0;
    let mut freed = 0;
    let output = read(&setup, || {
        reads += 1;
        if reads % 5 == 3 {
            freed += sorter.spill(300_000)?;
        }
        sorter.next()
    });
    assert!(freed > 500_000, "{freed}");
    assert_same("asked", &output, &expected);
    drop((sorter, output));
    setup.ends_clean();
}

#[test]
fn a_sorter_that_is_short_of_memory_in_the_middle_of_its_output_loses_nothing() {
    let input = input(2 << 20, 100, 4, false);
    let schema = input[0].schema();
    let whole = concat_batches(&schema, &input).expect("one schema");
    let columns = sort_columns();
    let setup = setup(1 << 20, 1 << 20);
    let mut sorter =
        ExternalSorter::new(&setup.account, &setup.space, schema, &columns, 1000, BATCH_BYTES).expect("sortable");
    input.iter().for_each(|batch| sorter.push(copied(batch)).expect("pushed"));
    let mut others = Vec::new();
    let output = read(&setup, || {
        let next = sorter.next()?;
        if matches!(next, Next::Batch(_)) && others.len() < 2 {
            // Nothing is left that the sorter could spill.
            while sorter.spill(1 << 20)? > 0 {}
            others.push(setup.account.try_reserve(setup.account.room()));
        }
        Ok(next)
    });
    assert_same("short", &output, &sorted_by_arrow(&whole, &columns));
}

#[test]
fn a_sorter_that_merges_gives_back_all_that_floats_and_goes_on_within_its_floor() {
    let floor = ExternalSorter::min_memory(BATCH_BYTES);
    let input = input(3 << 20, 1000, 4, false);
    let schema = input[0].schema();
    let whole = concat_batches(&schema, &input).expect("one schema");
    for columns in [&sort_columns()[..], &sort_columns()[..1]] {
        let expected = sorted_by_arrow(&whole, columns);
        for (first, every) in [(1, 50), (3, 1000), (40, 3)] {
            let setup = setup(2 << 20, floor);
            let mut sorter =
                ExternalSorter::new(&setup.account, &setup.space, Arc::clone(&schema), columns, 1000, BATCH_BYTES)
                    .expect("sortable");
            for batch in &input {
                sorter.push(copied(batch)).expect("pushed");
                setup.after_step();
            }
            let (mut calls, mut most) = (0, 0);
            let output = read(&setup, || {
                let next = sorter.next()?;
                calls += 1;
                if calls >= first && (calls - first) % every == 0 {
                    most = most.max(setup.account.excess());
                    while sorter.spill(1 << 20)? > 0 {}
                    assert_eq!(setup.account.excess(), 0);
                }
                Ok(next)
            });
            assert!(most > 0, "it had nothing to give back");
            assert_same("asked", &output, &expected);
            drop((sorter, output));
            setup.ends_clean();
        }
    }
}

#[test]
fn a_sorter_of_forty_megabytes_works_in_sixteen() {
    let floor = ExternalSorter::min_memory(64 << 10);
    let setup = setup(16 << 20, floor);
    let input = input(40 << 20, 4000, 4, false);
    let columns = &sort_columns()[..1];
    let schema = input[0].schema();
    let mut sorter = ExternalSorter::new(&setup.account, &setup.space, Arc::clone(&schema), columns, 8192, 64 << 10)
        .expect("sortable");
    for batch in &input {
        sorter.push(copied(batch)).expect("pushed");
        setup.after_step();
    }
    assert!(setup.space.spilled_bytes() > 0);
    let output = read(&setup, || sorter.next());
    let whole = concat_batches(&schema, &input).expect("one schema");
    assert_same("forty", &output, &sorted_by_arrow(&whole, columns));
    drop((sorter, output));
    setup.ends_clean();
}
