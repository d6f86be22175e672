//! How many bytes rows need on their own, whatever their buffers pin beside them.
//!
//! A slice is measured as a copy of it would be: of lists the values that are in them, of a dictionary those that its rows
//! use, of views the bytes that they point at.

use arrow::array::{Array, ArrayRef, AsArray, MAX_INLINE_VIEW_LEN, OffsetSizeTrait};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ArrowNativeType, BinaryType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow::datatypes::{BinaryViewType, ByteArrayType, ByteViewType, DataType, StringViewType};
use arrow::record_batch::RecordBatch;

/// Bytes that the rows of `batch` need on their own, whatever their buffers pin beside them.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(array_bytes).sum()
}

/// Bytes that the values of `array` need on their own.
pub fn array_bytes(array: &ArrayRef) -> usize {
    let nulls = array.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
    if let Some(width) = array.data_type().primitive_width() {
        return nulls + array.len() * width;
    }
    match array.data_type() {
        DataType::Boolean => nulls + array.len().div_ceil(8),
        DataType::Utf8 => nulls + text_bytes::<Utf8Type>(array),
        DataType::LargeUtf8 => nulls + text_bytes::<LargeUtf8Type>(array),
        DataType::Binary => nulls + text_bytes::<BinaryType>(array),
        DataType::LargeBinary => nulls + text_bytes::<LargeBinaryType>(array),
        DataType::Utf8View => nulls + view_bytes::<StringViewType>(array),
        DataType::BinaryView => nulls + view_bytes::<BinaryViewType>(array),
        DataType::Struct(_) => nulls + array.as_struct().columns().iter().map(array_bytes).sum::<usize>(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            nulls + list_bytes(list.offsets(), |from, len| array_bytes(&list.values().slice(from, len)))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            nulls + list_bytes(list.offsets(), |from, len| array_bytes(&list.values().slice(from, len)))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries = |from, len| map.entries().slice(from, len).columns().iter().map(array_bytes).sum();
            nulls + list_bytes(map.offsets(), entries)
        }
        DataType::FixedSizeList(..) => nulls + array_bytes(array.as_fixed_size_list().values()),
        DataType::Dictionary(keys, _) => nulls + array.len() * keys.primitive_width().unwrap_or(8) + used_bytes(array),
        // An estimate by the whole array is what is left for types whose slices arrow cannot measure.
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

fn view_bytes<T: ByteViewType>(array: &ArrayRef) -> usize {
    let array = array.as_byte_view::<T>();
    let long: usize = if array.data_buffers().is_empty() { 0 } else { array.total_buffer_bytes_used() };
    16 * array.len() + long
}

fn text_bytes<T: ByteArrayType>(array: &ArrayRef) -> usize {
    list_bytes(array.as_bytes::<T>().offsets(), |_, bytes| bytes)
}

fn list_bytes<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: impl Fn(usize, usize) -> usize) -> usize {
    let (from, to) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    offsets.len() * size_of::<O>() + values(from, to - from)
}

/// Bytes of the values of a dictionary that its rows use: each as often as they use it, and at most all there are.
fn used_bytes(array: &ArrayRef) -> usize {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let all = array_bytes(values);
    if values.len() <= array.len() {
        return all;
    }
    fn length<T: ByteArrayType>(values: &ArrayRef, at: usize) -> usize {
        values.as_bytes::<T>().value_length(at).as_usize() + size_of::<T::Offset>()
    }
    // What is short is in its view.
    fn view_length<T: ByteViewType>(values: &ArrayRef, at: usize) -> usize {
        let length = *values.as_byte_view::<T>().views().get(at).unwrap_or(&0) as u32;
        16 + if length > MAX_INLINE_VIEW_LEN { length as usize } else { 0 }
    }
    let bytes: fn(&ArrayRef, usize) -> usize = match values.data_type() {
        DataType::Utf8 => length::<Utf8Type>,
        DataType::LargeUtf8 => length::<LargeUtf8Type>,
        DataType::Binary => length::<BinaryType>,
        DataType::LargeBinary => length::<LargeBinaryType>,
        DataType::Utf8View => view_length::<StringViewType>,
        DataType::BinaryView => view_length::<BinaryViewType>,
        kind => match kind.primitive_width() {
            Some(width) => return all.min(array.len() * width + array.len().div_ceil(8)),
            None => return all,
        },
    };
    let keys = dictionary.normalized_keys();
    let used = keys.into_iter().enumerate().filter(|(row, _)| array.is_valid(*row)).map(|(_, key)| bytes(values, key));
    all.min(used.sum())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, DictionaryArray, FixedSizeListBuilder, Float32Array, Int64Array, Int64Builder, LargeBinaryArray,
        LargeListBuilder, ListBuilder, MapBuilder, StringArray, StringBuilder, StringViewArray, StringViewBuilder,
        StructArray,
    };
    use arrow::datatypes::{Field, Int32Type};

    use super::*;
    use crate::batch::copied_array;

    const ROWS: usize = 1000;

    fn text(row: usize) -> String {
        format!("text {row} {}", "long ".repeat(row % 9))
    }

    fn arrays() -> Vec<ArrayRef> {
        let texts: Vec<String> = (0..ROWS).map(text).collect();
        let texts = || texts.iter().map(|text| Some(text.as_str()));
        let (mut lists, mut large) =
            (ListBuilder::new(StringBuilder::new()), LargeListBuilder::new(StringViewBuilder::new()));
        let mut map = MapBuilder::new(None, StringViewBuilder::new(), Int64Builder::new());
        let mut fixed = FixedSizeListBuilder::new(StringBuilder::new(), 2);
        for row in 0..ROWS {
            lists.append_value((0..row % 5).map(|at| Some(text(row + at))));
            large.append_option((row % 3 > 0).then(|| (0..row % 5).map(|at| Some(text(row + at)))));
            map.keys().append_value(text(row));
            map.values().append_value(row as i64);
            map.append(true).expect("a key for each value");
            fixed.values().append_value(text(row));
            fixed.values().append_null();
            fixed.append(true);
        }
        let dictionary: DictionaryArray<Int32Type> = texts().collect();
        let views = StringViewArray::from_iter(texts());
        let of_views = DictionaryArray::new(dictionary.keys().clone(), Arc::new(views.clone()));
        let list: ArrayRef = Arc::new(lists.finish());
        let views: ArrayRef = Arc::new(views);
        let pairs = [("list", &list), ("views", &views)]
            .map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), Arc::clone(array)));
        vec![
            Arc::new(StructArray::from(pairs.to_vec())),
            list,
            views,
            Arc::new(texts().collect::<StringArray>()),
            Arc::new(texts().collect::<LargeBinaryArray>()),
            Arc::new((0..ROWS as i64).collect::<Int64Array>()),
            Arc::new((0..ROWS).map(|row| (row % 3 > 0).then_some(row as f32)).collect::<Float32Array>()),
            Arc::new((0..ROWS).map(|row| Some(row % 3 > 0)).collect::<BooleanArray>()),
            Arc::new(large.finish()),
            Arc::new(map.finish()),
            Arc::new(fixed.finish()),
            Arc::new(dictionary),
            Arc::new(of_views),
        ]
    }

    #[test]
    fn slices_add_up_to_the_whole_and_need_what_their_copy_has() {
        for array in arrays() {
            let kind = array.data_type();
            let whole = array_bytes(&array);
            let slices: usize = (0..ROWS).step_by(100).map(|from| array_bytes(&array.slice(from, 100))).sum();
            assert!(slices + 8 >= whole && slices < whole + whole / 10 + 100, "{kind}: {slices} of {whole}");
            for slice in [array.slice(300, 100), Arc::clone(&array)] {
                let needed = array_bytes(&slice);
                // Buffers have a capacity of some power of two, and a structure of their own.
                let copy = copied_array(&slice).to_data().get_buffer_memory_size();
                assert!(needed <= copy && copy <= 2 * needed + 2048, "{kind}: {needed}, and its copy has {copy}");
            }
        }
    }

    #[test]
    fn a_few_rows_of_a_large_dictionary_need_the_values_that_they_use() {
        let texts: Vec<String> = (0..ROWS).map(text).collect();
        let dictionary: DictionaryArray<Int32Type> = texts.iter().map(|text| Some(text.as_str())).collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        let used: usize = texts[10..13].iter().map(String::len).sum();
        assert_eq!(array_bytes(&dictionary.slice(10, 3)), 3 * 4 + used + 3 * 4);
    }
}
