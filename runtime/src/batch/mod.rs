//! Sizes of batches, and compaction: no batch may pin much more memory than its own rows need.

mod shared;
mod size;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MutableArrayData, make_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

pub(crate) use self::shared::{is_shared, share_buffers};
pub use self::size::{array_bytes, batch_bytes};

/// What a batch may pin beyond twice its own bytes: small buffers are rounded up by their allocator.
const PIN_SLACK_BYTES: usize = 4096;

/// Returns `batch`, copied if its buffers pin more than twice what its rows need.
pub fn compact(batch: RecordBatch) -> RecordBatch {
    if batch.get_array_memory_size() <= 2 * batch_bytes(&batch) + PIN_SLACK_BYTES {
        return batch;
    }
    copied(&batch)
}

/// A copy of `batch` that shares no buffer with it.
pub fn copied(batch: &RecordBatch) -> RecordBatch {
    let columns = batch.columns().iter().map(copied_array).collect();
    RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
    )
    .expect("columns keep their types and lengths when they are copied")
}

/// A copy of `array` that shares no buffer with it.
pub fn copied_array(array: &ArrayRef) -> ArrayRef {
    let data = array.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, array.len());
    copy.try_extend(0, 0, array.len()).expect("a copy is no larger than what it is copied from");
    let copy = make_array(copy.freeze());
    // `gc` alone would go on sharing the nulls, and the views as well where all are short.
    match copy.data_type() {
        DataType::Utf8View => Arc::new(copy.as_string_view().gc()),
        DataType::BinaryView => Arc::new(copy.as_binary_view().gc()),
        DataType::Dictionary(_, values) => copied_dictionary(&copy, values),
        kind if kind.is_nested() && has_shared_parts(kind) => copied_children(&copy),
        _ => copy,
    }
}

/// Whether arrays of `kind` have views or dictionaries in them, whose buffers outlive a copy of the array around them.
fn has_shared_parts(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_shared_parts(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_shared_parts(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| has_shared_parts(field.data_type())),
        DataType::RunEndEncoded(_, values) => has_shared_parts(values.data_type()),
        _ => false,
    }
}

/// A dictionary whose keys are its own already, with values that are, too: of many values those that it uses.
fn copied_dictionary(array: &ArrayRef, values: &DataType) -> ArrayRef {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().len() > array.len() {
        let used = cast(array, values).and_then(|unpacked| cast(&unpacked, array.data_type()));
        if let Ok(used) = used {
            // It was made with room for a thousand values.
            let used = used.as_any_dictionary();
            return used.with_values(copied_array(used.values()));
        }
    }
    dictionary.with_values(copied_array(dictionary.values()))
}

fn copied_children(array: &ArrayRef) -> ArrayRef {
    let data = array.to_data();
    let children = data.child_data().iter().map(|child| copied_array(&make_array(child.clone())).to_data());
    let children = children.collect();
    let copy = data.into_builder().child_data(children).build();
    make_array(copy.expect("a copy of a child is as long and of the same type"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, ListBuilder, StringArray, StringViewArray, StringViewBuilder};
    use arrow::array::{StringDictionaryBuilder, StructArray};

    use super::*;

    fn batch(columns: [ArrayRef; 2]) -> RecordBatch {
        let [a, b] = columns;
        RecordBatch::try_from_iter([("a", a), ("b", b)]).expect("two columns")
    }

    #[test]
    fn a_copy_shares_no_buffer_even_of_a_dictionary_or_inside_a_list() {
        use arrow::datatypes::Int32Type;
        let texts: Vec<String> = (0..100).map(|i| format!("a string of more than twelve bytes, number {i}")).collect();
        let dictionary: DictionaryArray<Int32Type> = texts.iter().map(|text| Some(text.as_str())).collect();
        let mut few = StringDictionaryBuilder::<Int32Type>::new();
        (0..100).for_each(|i| few.append_value(&texts[i % 3]));
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        texts.iter().for_each(|text| lists.append_value([Some(text.as_str()), None]));
        let lists: ArrayRef = Arc::new(lists.finish());
        let pairs = StructArray::from(vec![(
            Arc::new(arrow::datatypes::Field::new("list", lists.data_type().clone(), true)),
            Arc::clone(&lists),
        )]);
        for array in [Arc::new(dictionary) as ArrayRef, Arc::new(few.finish()), lists, Arc::new(pairs)] {
            for array in [array.slice(10, 20), array] {
                let original = RecordBatch::try_from_iter([("a", array)]).expect("a column");
                let copy = copied(&original);
                assert_eq!(copy, original);
                assert!(!share_buffers(&copy, &original), "{}", original.column(0).data_type());
            }
        }
    }

    #[test]
    fn one_row_of_a_large_batch_lets_go_of_the_rest() {
        let long = |i| format!("a string of more than twelve bytes, number {i}");
        for text in [
            Arc::new(StringArray::from_iter_values((0..10_000).map(long))) as ArrayRef,
            Arc::new(StringViewArray::from_iter_values((0..10_000).map(long))),
        ] {
            let batch = batch([Arc::new(Int64Array::from_iter_values(0..10_000)), text]);
            let row = batch.slice(5_000, 1);
            assert!(row.get_array_memory_size() > 100_000);
            assert!(batch_bytes(&row) < 200);
            let small = compact(row.clone());
            assert_eq!(small, row);
            assert!(small.get_array_memory_size() < 4096);
        }
    }

    #[test]
    fn views_let_go_of_nulls_and_of_short_values_too() {
        let short: StringViewArray = (0..100_000).map(|i| (i % 2 == 0).then_some("short")).collect();
        let long: StringViewArray = (0..100_000).map(|i| (i % 2 == 0).then_some("longer than twelve bytes")).collect();
        let row = batch([Arc::new(short), Arc::new(long)]).slice(5_000, 4);
        let small = compact(row.clone());
        assert_eq!(small, row);
        assert!(small.get_array_memory_size() < 4096, "{}", small.get_array_memory_size());
    }

    #[test]
    fn a_batch_that_pins_little_is_not_copied() {
        let batch =
            batch([Arc::new(Int64Array::from_iter_values(0..100)), Arc::new(Int64Array::from_iter_values(0..100))]);
        let same = compact(batch.clone());
        assert!(Arc::ptr_eq(same.column(0), batch.column(0)));
    }
}
