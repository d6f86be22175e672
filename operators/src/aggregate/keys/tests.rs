//! Group numbers compared with those that a standard map gives to the printed rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, BinaryArray, BooleanArray, Date32Array, Float64Array, Int8Array, Int64Array, LargeStringArray, ListArray,
    StringArray, StringViewArray,
};
use arrow::compute::take;
use arrow::datatypes::UInt8Type;

use super::*;

/// Interns `columns` in pieces; checks groups, count and emitted keys.
fn check(columns: &[ArrayRef]) {
    let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
    for cached in [false, true] {
        let mut keys = GroupKeys::new(&types, cached).expect("supported types");
        let mut hasher = RowHash::new(&types).expect("supported types");
        let mut expected: HashMap<String, usize> = HashMap::new();
        let mut first_rows = Vec::new();
        let mut groups = Vec::new();
        let mut hashes = Vec::new();
        let mut hash_of: HashMap<usize, u64> = HashMap::new();
        let rows = columns[0].len();
        for start in (0..rows).step_by(97) {
            let length = 97.min(rows - start);
            let piece: Vec<_> = columns.iter().map(|column| column.slice(start, length)).collect();
            let before = keys.bytes();
            let allowed = keys.growth(length, &piece);
            keys.intern(&piece, length, &mut groups).expect("interns");
            assert!(keys.bytes() <= before + allowed, "{} > {before} + {allowed}", keys.bytes());
            hasher.hash(&piece, length, &mut hashes).expect("hashes");
            for row in 0..length {
                let text: Vec<_> = columns.iter().map(|column| format!("{:?}", column.slice(start + row, 1))).collect();
                let next = expected.len();
                let group = *expected.entry(text.join("|")).or_insert_with(|| {
                    first_rows.push((start + row) as u64);
                    next
                });
                assert_eq!(groups[row], group, "{text:?}");
                assert_eq!(*hash_of.entry(group).or_insert(hashes[row]), hashes[row], "{text:?}");
            }
        }
        assert_eq!(keys.len(), expected.len());
        keys.seal();
        let half = keys.len() / 2;
        for range in [0..half, half..keys.len(), 0..keys.len()] {
            let emitted = keys.emit(range.clone()).expect("emits");
            let indices = arrow::array::UInt64Array::from(first_rows[range].to_vec());
            for (emitted, column) in emitted.iter().zip(columns) {
                assert_eq!(emitted, &take(column, &indices, None).expect("in bounds"));
                emitted.to_data().validate_full().expect("valid");
            }
        }
    }
}

fn texts() -> Vec<Option<String>> {
    (0..1000)
        .map(|i| match i % 7 {
            0 => None,
            1 => Some(String::new()),
            2 => Some(format!("cat_{}", i % 100)),
            3 => Some(format!("exactly12{:03}", i % 10)),
            4 => Some(format!("thirteen_{:04}", i % 10)),
            5 => Some("long ".repeat(i % 50)),
            _ => Some(format!("a\0{}", "\0".repeat(i % 5))),
        })
        .collect()
}

#[test]
fn strings_of_every_type_get_the_groups_of_a_map() {
    let texts = texts();
    check(&[Arc::new(StringArray::from(texts.clone()))]);
    check(&[Arc::new(LargeStringArray::from(texts.clone()))]);
    check(&[Arc::new(StringViewArray::from_iter(texts.clone()))]);
    check(&[Arc::new(BinaryArray::from_iter(texts.iter().map(|text| text.as_ref().map(String::as_bytes))))]);
    check(&[Arc::new(StringViewArray::from_iter_values((0..500).map(|i| format!("cat_{}", i % 100))))]);
}

#[test]
fn numbers_of_every_width_get_the_groups_of_a_map() {
    let number = |i: i64| (i % 5 != 0).then_some(i * i % 83 - 20);
    check(&[Arc::new(Int64Array::from_iter((0..1000).map(number)))]);
    check(&[Arc::new(Int8Array::from_iter((0..1000).map(|i| number(i).map(|n| n as i8))))]);
    check(&[Arc::new(Date32Array::from_iter((0..1000).map(|i| number(i).map(|n| n as i32))))]);
    check(&[Arc::new(Float64Array::from_iter((0..1000).map(|i| number(i).map(|n| n as f64 / 4.0))))]);
    check(&[Arc::new(Int64Array::from_iter_values((0..5000).map(|i| i / 2)))]);
}

#[test]
fn several_columns_get_the_groups_of_a_map() {
    let truth = Arc::new(BooleanArray::from_iter((0..1000).map(|i| (i % 3 != 0).then_some(i % 2 == 0)))) as ArrayRef;
    let number = Arc::new(Int64Array::from_iter((0..1000).map(|i| (i % 4 != 0).then_some(i % 6)))) as ArrayRef;
    let text = Arc::new(StringViewArray::from_iter(texts())) as ArrayRef;
    check(&[Arc::clone(&truth)]);
    check(&[Arc::clone(&truth), Arc::clone(&number)]);
    check(&[truth, Arc::clone(&number), Arc::clone(&text)]);
    // Without booleans they are words.
    let day = Arc::new(Date32Array::from_iter((0..1000).map(|i| (i % 3 != 0).then_some(i % 4)))) as ArrayRef;
    let long =
        Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("a longer text {}", i % 7)))) as ArrayRef;
    check(&[Arc::clone(&number), Arc::clone(&day)]);
    check(&[Arc::clone(&text), Arc::clone(&number)]);
    check(&[day, long, number, text]);
    // One column tells them apart that the others do not.
    let same = Arc::new(StringViewArray::from_iter_values((0..1000).map(|_| "x"))) as ArrayRef;
    check(&[same, Arc::new(Int64Array::from_iter_values(0..1000))]);
}

#[test]
fn without_columns_there_is_one_group() {
    let mut keys = GroupKeys::new(&[], true).expect("no types");
    let mut groups = vec![7];
    keys.intern(&[], 3, &mut groups).expect("interns");
    assert_eq!((groups, keys.len()), (vec![0, 0, 0], 1));
}

#[test]
fn nested_columns_and_many_short_ones_get_the_groups_of_a_map_within_what_they_were_to_take() {
    let list = |width: usize| -> ArrayRef {
        let values = |i: usize| {
            (!i.is_multiple_of(3))
                .then(|| (0..i % width).map(|at| (at % 4 > 0).then_some((i + at) as u8)).collect::<Vec<_>>())
        };
        Arc::new(ListArray::from_iter_primitive::<UInt8Type, _, _>((0..1000).map(values)))
    };
    let short = |letters: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..1000).map(|i| "x".repeat(i % letters))))
    };
    let of_33 = Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("{i:033}")))) as ArrayRef;
    let truths = list(3);
    check(&[list(6)]);
    check(&[truths, list(40), short(2)]);
    let shorts: Vec<ArrayRef> = (0..10).map(|column| short(column + 2)).collect();
    check(&[shorts, vec![list(2), Arc::clone(&of_33)]].concat());
    let truth = Arc::new(BooleanArray::from_iter((0..1000).map(|i| (i % 3 != 0).then_some(i % 2 == 0)))) as ArrayRef;
    check(&[truth, of_33]);
}
