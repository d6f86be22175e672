//! The spilling map beside std's `HashMap`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::*;

/// All places of a key in the input, in order.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Places {
    count: u64,
    sum: i64,
    first: i64,
    last: i64,
    ordered: bool,
    text: String,
}

impl Places {
    pub(super) fn add(&mut self, at: i64) {
        self.merge(Places {
            count: 1,
            sum: at,
            first: at,
            last: at,
            ordered: true,
            text: if at % 100 == 0 { "x".repeat(at as usize % 90) } else { String::new() },
        });
    }
}

impl StateValue for Places {
    fn memory_bytes(&self) -> usize {
        self.text.capacity()
    }

    fn merge(&mut self, later: Self) {
        if self.count == 0 {
            *self = later;
        } else if later.count > 0 {
            self.ordered &= later.ordered && self.last < later.first;
            self.count += later.count;
            self.sum += later.sum;
            self.last = later.last;
            if later.text.len() > self.text.len() {
                self.text = later.text;
            }
        }
    }
}

type KeyOf = (Option<i64>, Option<String>);

fn read_map(setup: &Setup, mut next: impl FnMut() -> Result<NextChunk<Places>>) -> HashMap<KeyOf, Places> {
    let mut found = HashMap::new();
    loop {
        match next().expect("readable") {
            NextChunk::Chunk(chunk) => {
                let (numbers, views) = (chunk.keys[0].as_primitive::<Int64Type>(), chunk.keys[1].as_string_view());
                assert!(chunk.values.len() <= 1000 && numbers.len() == chunk.values.len());
                for (row, value) in chunk.values.into_iter().enumerate() {
                    let key = (
                        numbers.is_valid(row).then(|| numbers.value(row)),
                        views.is_valid(row).then(|| views.value(row).to_owned()),
                    );
                    assert!(found.insert(key, value).is_none(), "a key came twice");
                }
            }
            NextChunk::Blocked(ticket) => ticket.wait(),
            NextChunk::End => return found,
        }
        setup.after_step();
    }
}

pub(super) fn key_fields() -> [FieldRef; 2] {
    [Arc::new(Field::new("number", DataType::Int64, true)), Arc::new(Field::new("view", DataType::Utf8View, true))]
}

#[test]
fn a_map_holds_what_a_plain_hash_map_holds() {
    let floor = SpillingMap::<Places>::min_memory(BATCH_BYTES);
    for (name, input) in inputs(50 * floor) {
        let mut expected: HashMap<KeyOf, Places> = HashMap::new();
        let mut each_row = |batch: &RecordBatch| {
            let (numbers, views) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(2).as_string_view());
            let places = batch.column(3).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let key = (
                    numbers.is_valid(row).then(|| numbers.value(row)),
                    views.is_valid(row).then(|| views.value(row).to_owned()),
                );
                expected.entry(key).or_default().add(places.value(row));
            }
        };
        input.iter().for_each(&mut each_row);
        for limit in pools(floor) {
            let setup = setup(limit, floor);
            let mut map = SpillingMap::new(&setup.account, &setup.space, &key_fields(), 1000).expect("hashable");
            for batch in &input {
                let places = batch.column(3).as_primitive::<Int64Type>();
                let keys = [Arc::clone(batch.column(0)), Arc::clone(batch.column(2))];
                map.update_batch(&keys, |row, value: &mut Places| value.add(places.value(row))).expect("updated");
                setup.after_step();
            }
            let mut reader = map.drain();
            let found = read_map(&setup, || reader.next());
            assert_eq!(found.len(), expected.len(), "{name} {limit}");
            assert!(found.values().all(|value| value.ordered), "{name}: merged out of order");
            assert!(found == expected, "{name} {limit}");
            if limit > 1 << 30 || expected.len() < 50 {
                assert_eq!(setup.space.spilled_bytes(), 0, "{name} {limit}");
            } else if limit == floor {
                assert!(setup.space.spilled_bytes() > 0, "{name} {limit}");
            }
            drop(reader);
            setup.ends_clean();
        }
    }
}

#[test]
fn a_map_that_is_asked_for_memory_while_it_is_filled_and_read_loses_nothing() {
    let setup = setup(64 << 20, 1 << 20);
    let input = input(3 << 20, 100, 4, false);
    let mut map = SpillingMap::new(&setup.account, &setup.space, &key_fields(), 500).expect("hashable");
    let mut rows = 0;
    for (at, batch) in input.iter().enumerate() {
        let places = batch.column(3).as_primitive::<Int64Type>();
        let keys = [Arc::clone(batch.column(0)), Arc::clone(batch.column(2))];
        map.update_batch(&keys, |row, value: &mut Places| value.add(places.value(row))).expect("updated");
        rows += batch.num_rows() as u64;
        if at % 20 == 19 {
            let held = setup.account.held();
            let freed = map.spill(200_000).expect("spilled");
            assert!(freed > 0 && setup.account.held() == held - freed);
        }
    }
    let mut reader = map.drain();
    let mut reads = 0;
    let found = read_map(&setup, || {
        reads += 1;
        if reads % 9 == 4 {
            reader.spill(100_000)?;
        }
        reader.next()
    });
    assert_eq!(found.values().map(|value| value.count).sum::<u64>(), rows);
    assert!(found.values().all(|value| value.ordered));
    drop(reader);
    setup.ends_clean();
}
