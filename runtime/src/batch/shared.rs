//! Whether memory is shared: what one holder lets go of is free only if nobody else has it.
//!
//! Arrays share buffers (slices), whole arrays (the values of a dictionary or of lists) and, if they are views, lists of
//! buffers. Each has a count of its own, and all are looked at.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, MapArray, UnionArray, downcast_run_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use arrow::record_batch::RecordBatch;

/// Whether two batches hold a buffer in common.
pub(crate) fn share_buffers(one: &RecordBatch, other: &RecordBatch) -> bool {
    let buffers = |batch: &RecordBatch| {
        let mut found = Vec::new();
        for_each_buffer(batch, &mut |buffer| found.push(buffer.data_ptr()));
        found
    };
    let (one, other) = (buffers(one), buffers(other));
    one.iter().any(|buffer| other.contains(buffer))
}

/// Whether anything but `batch` holds one of its arrays or buffers; also where a batch holds one twice.
pub(crate) fn is_shared(batch: &RecordBatch) -> bool {
    let mut shared = batch.columns().iter().any(is_shared_array);
    if !shared {
        // Held by the array, and by the view of it at hand.
        for_each_buffer(batch, &mut |buffer| shared |= buffer.strong_count() > 2);
    }
    shared
}

/// Whether somebody else has `array`, or an array in it: the values of a dictionary may be in many.
fn is_shared_array(array: &ArrayRef) -> bool {
    Arc::strong_count(array) > 1 || has_shared_parts(array.as_ref())
}

fn has_shared_parts(array: &dyn Array) -> bool {
    match array.data_type() {
        DataType::Utf8View => are_shared_views::<StringViewType>(array),
        DataType::BinaryView => are_shared_views::<BinaryViewType>(array),
        DataType::Dictionary(..) => is_shared_array(array.as_any_dictionary().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().any(is_shared_array),
        DataType::List(_) => is_shared_array(array.as_list::<i32>().values()),
        DataType::LargeList(_) => is_shared_array(array.as_list::<i64>().values()),
        DataType::ListView(_) => is_shared_array(array.as_list_view::<i32>().values()),
        DataType::LargeListView(_) => is_shared_array(array.as_list_view::<i64>().values()),
        DataType::FixedSizeList(..) => is_shared_array(array.as_fixed_size_list().values()),
        DataType::Map(..) => {
            let map: &MapArray = array.as_map();
            map.entries().columns().iter().any(is_shared_array)
        }
        DataType::Union(fields, _) => {
            let union: &UnionArray = array.as_union();
            fields.iter().any(|(id, _)| is_shared_array(union.child(id)))
        }
        DataType::RunEndEncoded(..) => downcast_run_array!(
            array => is_shared_array(array.values()),
            // There are no others.
            _ => true,
        ),
        // What has parts that are not looked into may be shared.
        kind => kind.is_nested(),
    }
}

/// Whether somebody else has the list of the buffers that the views point into. The buffers themselves do not tell: who has
/// the list has no count of his own in each of them.
fn are_shared_views<T: ByteViewType>(array: &dyn Array) -> bool {
    let array = array.as_byte_view::<T>();
    if array.data_buffers().is_empty() {
        return false;
    }
    let (_, buffers, _) = array.clone().into_parts();
    // The array's, and the one at hand.
    Arc::strong_count(&buffers) > 2
}

fn for_each_buffer(batch: &RecordBatch, each: &mut dyn FnMut(&Buffer)) {
    fn visit(data: &ArrayData, each: &mut dyn FnMut(&Buffer)) {
        let nulls = data.nulls().map(|nulls| nulls.buffer());
        // Buffers without bytes are all at the same place.
        data.buffers().iter().chain(nulls).filter(|buffer| buffer.capacity() > 0).for_each(&mut *each);
        data.child_data().iter().for_each(|child| visit(child, each));
    }
    batch.columns().iter().for_each(|column| visit(&column.to_data(), each));
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryViewArray, DictionaryArray, FixedSizeListBuilder, Int32Array, Int64Array, LargeListBuilder, ListBuilder,
        MapBuilder, RunArray, StringArray, StringViewArray, StringViewBuilder, StructArray, UInt32Array,
    };
    use arrow::compute::take_record_batch;
    use arrow::datatypes::{Field, Int32Type};

    use super::*;
    use crate::batch::copied;

    fn batch(columns: impl IntoIterator<Item = ArrayRef>) -> RecordBatch {
        RecordBatch::try_from_iter(columns.into_iter().enumerate().map(|(at, array)| (at.to_string(), array)))
            .expect("columns of one length")
    }

    fn texts() -> Vec<String> {
        (0..20).map(|at| format!("a text of more than twelve bytes, number {at}")).collect()
    }

    /// Arrays that have buffers, lists of buffers or whole arrays in them, by the place of which a row can be taken.
    fn arrays() -> Vec<ArrayRef> {
        fn views() -> StringViewBuilder {
            StringViewBuilder::new()
        }
        let (texts, some) = (texts(), |text: &String| Some(text.clone()));
        let mut lists = ListBuilder::new(views());
        texts.iter().for_each(|text| lists.append_value([some(text), None]));
        let mut large = LargeListBuilder::new(views());
        texts.iter().for_each(|text| large.append_value([some(text)]));
        let mut fixed = FixedSizeListBuilder::new(views(), 1);
        let mut map = MapBuilder::new(None, views(), views());
        for text in &texts {
            fixed.values().append_value(text);
            fixed.append(true);
            map.keys().append_value(text);
            map.values().append_value(text);
            map.append(true).expect("as many keys as values");
        }
        let view: ArrayRef = Arc::new(texts.iter().map(some).collect::<StringViewArray>());
        let pairs = StructArray::from(vec![(Arc::new(Field::new("view", DataType::Utf8View, true)), view)]);
        let dictionary: DictionaryArray<Int32Type> = texts.iter().map(|text| Some(text.as_str())).collect();
        let ends: Int32Array = (1..=20).collect();
        let values: StringViewArray = texts.iter().map(some).collect();
        let runs = RunArray::<Int32Type>::try_new(&ends, &values).expect("an end for each value");
        drop((ends, values));
        vec![
            Arc::new(texts.iter().map(some).collect::<StringViewArray>()),
            Arc::new(texts.iter().map(|text| Some(text.as_bytes())).collect::<BinaryViewArray>()),
            Arc::new(texts.iter().map(some).collect::<StringArray>()),
            Arc::new(lists.finish()),
            Arc::new(large.finish()),
            Arc::new(fixed.finish()),
            Arc::new(map.finish()),
            Arc::new(pairs),
            Arc::new(dictionary),
            Arc::new(runs),
        ]
    }

    #[test]
    fn whoever_has_a_slice_or_a_copy_of_the_array_shares_it_whatever_its_type() {
        for array in arrays() {
            let kind = array.data_type().clone();
            let whole = batch([array]);
            let alone = copied(&whole);
            drop(whole);
            assert!(!is_shared(&alone), "{kind}");
            let slice = alone.slice(3, 5);
            assert!(is_shared(&alone) && is_shared(&slice), "{kind}");
            drop(slice);
            let clone = alone.clone();
            assert!(is_shared(&alone), "{kind}");
            drop(clone);
            assert!(!is_shared(&alone), "{kind}");
        }
    }

    #[test]
    fn views_of_taken_rows_share_the_buffers_that_they_were_taken_from() {
        let rows = UInt32Array::from(vec![7, 3]);
        for array in arrays() {
            let kind = array.data_type().clone();
            let alone = copied(&batch([array]));
            let taken = take_record_batch(&alone, &rows).expect("two rows");
            let shares = share_buffers(&alone, &taken);
            assert_eq!(is_shared(&taken), shares, "{kind}");
            assert_eq!(is_shared(&alone), shares, "{kind}");
            assert!(shares || !matches!(kind, DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..)));
            drop(alone);
            assert!(!is_shared(&taken), "{kind}");
        }
    }

    #[test]
    fn short_views_have_no_buffers_to_share() {
        let alone = batch([Arc::new(StringViewArray::from(vec!["short", "texts"])) as ArrayRef]);
        let taken = take_record_batch(&alone, &UInt32Array::from(vec![1])).expect("a row");
        assert!(!is_shared(&alone) && !is_shared(&taken));
    }

    #[test]
    fn batches_with_the_same_dictionary_are_shared() {
        let texts: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().map(Some).collect();
        let whole = batch([Arc::new(texts) as ArrayRef]);
        let alone = copied(&whole);
        assert!(!is_shared(&alone));
        let piece = take_record_batch(&alone, &UInt32Array::from(vec![0])).expect("a row");
        assert!(is_shared(&alone) && is_shared(&piece));
        drop(alone);
        assert!(!is_shared(&piece));
    }

    #[test]
    fn slices_share_buffers_and_copies_do_not() {
        let whole: [ArrayRef; 2] =
            [Arc::new(Int64Array::from_iter_values(0..100)), Arc::new(StringArray::from(vec!["a"; 100]))];
        let whole = batch(whole);
        assert!(share_buffers(&whole, &whole.slice(90, 10)));
        assert!(share_buffers(&whole.slice(0, 10), &whole.slice(90, 10)));
        assert!(!share_buffers(&whole, &copied(&whole)));
        let one = whole.project(&[1]).expect("a column");
        assert!(!share_buffers(&whole.project(&[0]).expect("a column"), &one));
        assert!(share_buffers(&whole, &one));
        assert!(is_shared(&one));
        let copy = copied(&one);
        assert!(!is_shared(&copy));
        let _clone = copy.clone();
        assert!(is_shared(&copy));
    }
}
