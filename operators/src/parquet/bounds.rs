//! What footers, page indexes and bloom filters say of the columns of a predicate.
//!
//! Only plain columns are looked at, and only bounds whose order is the one that values are compared by.

use std::fs::File as Handle;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::basic::{ColumnOrder, SortOrder, Type};
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

use super::error::guarded;
use super::files::{File, read_at};
use super::header::bloom_bytes;
use super::pot::{Held, Pot};
use super::prune::{Bounds, Known, equalities, may_be_true};
use super::scan::Filter;

/// The leaf of the table's `column` in a file, if it is a plain column and the order of its bounds is known.
pub(super) fn plain_leaf(file: &File, column: usize) -> Option<usize> {
    let footer = file.metadata.file_metadata();
    let schema = footer.schema_descr();
    let root = *file.mapping.roots.get(column)?;
    schema.root_schema().get_fields().get(root).filter(|field| field.is_primitive())?;
    let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root)?;
    let about = schema.column(leaf);
    let ordered =
        !matches!(footer.column_order(leaf), ColumnOrder::UNDEFINED) || about.sort_order() == SortOrder::SIGNED;
    (about.max_rep_level() == 0 && about.physical_type() != Type::INT96 && ordered).then_some(leaf)
}

fn converter<'a>(file: &'a File, field: &'a Field, leaf: usize) -> Option<StatisticsConverter<'a>> {
    let schema = file.metadata.file_metadata().schema_descr();
    let converter = StatisticsConverter::from_column_index(leaf, field, schema).ok()?;
    Some(converter.with_missing_null_counts_as_zero(false))
}

fn value(array: &ArrayRef, index: usize) -> Option<ScalarValue> {
    let present = index < array.len() && array.is_valid(index);
    present.then(|| ScalarValue::try_from_array(array, index).ok()).flatten()
}

/// What the footer says of the table's `column` in a row group.
pub(crate) fn group_bounds(file: &File, field: &Field, column: usize, group: usize) -> Option<Bounds> {
    let leaf = plain_leaf(file, column)?;
    let metadata = file.metadata.row_group(group);
    let rows = u64::try_from(metadata.num_rows()).ok()?;
    let statistics = metadata.column(leaf).statistics()?;
    let nulls = statistics.null_count_opt();
    let schema = file.metadata.file_metadata().schema_descr();
    if statistics.is_min_max_deprecated() && schema.column(leaf).sort_order() != SortOrder::SIGNED {
        return Some(Bounds { min: None, max: None, nulls, rows });
    }
    let converter = converter(file, field, leaf)?;
    let one = || std::iter::once(metadata);
    let (min, max) = guarded(|| {
        Ok::<_, parquet::errors::ParquetError>((converter.row_group_mins(one())?, converter.row_group_maxes(one())?))
    })
    .ok()?;
    Some(Bounds { min: value(&min, 0), max: value(&max, 0), nulls, rows })
}

/// What is known of the columns of a filter: its own columns, in its order.
struct Facts {
    bounds: Vec<Option<Bounds>>,
    blooms: Vec<Option<Bloom>>,
}

impl Known for Facts {
    fn bounds(&self, column: usize) -> Option<&Bounds> {
        self.bounds.get(column)?.as_ref()
    }

    fn lacks(&self, column: usize, value: &ScalarValue) -> bool {
        self.blooms.get(column).and_then(Option::as_ref).is_some_and(|bloom| bloom.lacks(value))
    }
}

/// Whether any row of a row group can be wanted, by the footer.
pub(crate) fn group_may_match(file: &File, filter: &Filter, group: usize) -> bool {
    let bounds = filter.columns.iter().zip(filter.schema.fields());
    let bounds = bounds.map(|(column, field)| group_bounds(file, field, *column, group)).collect();
    may_be_true(&filter.over_columns, &Facts { bounds, blooms: vec![] })
}

/// Whether any row of a row group can be wanted, by the bloom filters of the columns that are compared for equality.
pub(crate) fn bloom_may_match(file: &File, filter: &Filter, group: usize, handle: &Handle, pot: &Pot) -> bool {
    let mut compared = vec![];
    equalities(&filter.over_columns, &mut compared);
    let mut blooms: Vec<Option<Bloom>> = filter.columns.iter().map(|_| None).collect();
    for index in compared {
        let leaf = filter.columns.get(index).and_then(|column| plain_leaf(file, *column));
        if let (Some(leaf), Some(place)) = (leaf, blooms.get_mut(index)) {
            *place = Bloom::read(file, file.metadata.row_group(group).column(leaf), handle, pot);
        }
    }
    if blooms.iter().all(Option::is_none) {
        return true;
    }
    let bounds = filter.columns.iter().zip(filter.schema.fields());
    let rows = file.metadata.row_group(group).num_rows() as u64;
    let unknown = || Bounds { min: None, max: None, nulls: None, rows };
    let bounds = bounds.map(|(column, field)| Some(group_bounds(file, field, *column, group).unwrap_or_else(unknown)));
    let facts = Facts { bounds: bounds.collect(), blooms };
    may_be_true(&filter.over_columns, &facts)
}

/// The bloom filter of a chunk.
struct Bloom {
    filter: Sbbf,
    kind: Type,
    _held: Held,
}

impl Bloom {
    fn read(file: &File, chunk: &ColumnChunkMetaData, handle: &Handle, pot: &Pot) -> Option<Self> {
        let offset = u64::try_from(chunk.bloom_filter_offset()?).ok()?;
        // The header is small; how large the filter is stands in it.
        let mut header = [0; 24];
        read_at(handle, &file.path, offset, &mut header).ok()?;
        let bytes = bloom_bytes(&header)?;
        let held = pot.take(bytes.checked_mul(2)?)?;
        if chunk.bloom_filter_length().is_some_and(|length| length < 0 || length as usize > bytes + header.len()) {
            return None;
        }
        let filter = guarded(|| Sbbf::read_from_column_chunk(chunk, handle)).ok()??;
        Some(Self { filter, kind: chunk.column_type(), _held: held })
    }

    /// Certain that the chunk does not have `value`.
    fn lacks(&self, value: &ScalarValue) -> bool {
        let whole = |value: i64| match self.kind {
            // A number is hashed as it is stored.
            Type::INT32 => !self.filter.check(&(value as i32)),
            Type::INT64 => !self.filter.check(&value),
            _ => false,
        };
        match value {
            ScalarValue::Int8(Some(value)) => whole(i64::from(*value)),
            ScalarValue::Int16(Some(value)) => whole(i64::from(*value)),
            ScalarValue::Int32(Some(value)) | ScalarValue::Date32(Some(value)) => whole(i64::from(*value)),
            ScalarValue::Int64(Some(value)) => whole(*value),
            ScalarValue::UInt8(Some(value)) => whole(i64::from(*value)),
            ScalarValue::UInt16(Some(value)) => whole(i64::from(*value)),
            ScalarValue::UInt32(Some(value)) => whole(i64::from(*value)),
            ScalarValue::UInt64(Some(value)) => whole(*value as i64),
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
                self.kind == Type::BYTE_ARRAY && !self.filter.check(text.as_str())
            }
            ScalarValue::Binary(Some(bytes))
            | ScalarValue::LargeBinary(Some(bytes))
            | ScalarValue::BinaryView(Some(bytes)) => {
                self.kind == Type::BYTE_ARRAY && !self.filter.check(bytes.as_slice())
            }
            _ => false,
        }
    }
}

/// The rows of `rows` that can be wanted, by the page index of one row group, which `index` is of alone.
pub(crate) fn pages_that_may_match(
    file: &File,
    filter: &Filter,
    index: &ParquetMetaData,
    rows: Range<u64>,
) -> Option<Vec<Range<u64>>> {
    let (columns, offsets) = (index.column_index()?, index.offset_index()?);
    let group: &RowGroupMetaData = index.row_groups().first()?;
    let group_rows = u64::try_from(group.num_rows()).ok()?;
    // Of each column the rows that its pages begin with, and what is known of them.
    let mut pages: Vec<Option<(Vec<u64>, Vec<Bounds>)>> = vec![];
    for (column, field) in filter.columns.iter().zip(filter.schema.fields()) {
        pages.push(plain_leaf(file, *column).and_then(|leaf| {
            let starts = offsets.first()?.get(leaf)?.page_locations().iter();
            let starts: Vec<u64> = starts.map(|page| page.first_row_index as u64).collect();
            let ascending = starts.first() == Some(&0) && starts.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || *starts.last()? >= group_rows {
                return None;
            }
            let converter = converter(file, field, leaf)?;
            let one = [0];
            let (min, max, nulls) = guarded(|| {
                let min = converter.data_page_mins(columns, offsets, &one)?;
                let max = converter.data_page_maxes(columns, offsets, &one)?;
                let nulls = converter.data_page_null_counts(columns, offsets, &one)?;
                Ok::<(ArrayRef, ArrayRef, UInt64Array), parquet::errors::ParquetError>((min, max, nulls))
            })
            .ok()?;
            if [min.len(), max.len(), nulls.len()] != [starts.len(); 3] {
                return None;
            }
            let bounds = (0..starts.len()).map(|page| Bounds {
                min: value(&min, page),
                max: value(&max, page),
                nulls: nulls.is_valid(page).then(|| nulls.value(page)),
                rows: starts.get(page + 1).unwrap_or(&group_rows) - starts[page],
            });
            let bounds = bounds.collect();
            Some((starts, bounds))
        }));
    }
    // Between two page starts of any column all that is known is the same.
    let mut edges: Vec<u64> = pages.iter().flatten().flat_map(|(starts, _)| starts.iter().copied()).collect();
    edges.retain(|edge| rows.contains(edge));
    edges.push(rows.start);
    edges.sort_unstable();
    edges.dedup();
    let mut wanted: Vec<Range<u64>> = vec![];
    for (at, start) in edges.iter().enumerate() {
        let end = edges.get(at + 1).copied().unwrap_or(rows.end);
        let bounds = pages.iter().map(|pages| {
            let (starts, bounds) = pages.as_ref()?;
            bounds.get(starts.partition_point(|first| first <= start).checked_sub(1)?).cloned()
        });
        let facts = Facts { bounds: bounds.collect(), blooms: vec![] };
        if may_be_true(&filter.over_columns, &facts) {
            match wanted.last_mut().filter(|last| last.end == *start) {
                Some(last) => last.end = end,
                None => wanted.push(*start..end),
            }
        }
    }
    Some(wanted)
}

/// Whether bounds of this type are those of all values: NaN is left out of those of floats.
pub(crate) fn bounds_are_of_all(kind: &DataType) -> bool {
    !kind.is_floating()
}
