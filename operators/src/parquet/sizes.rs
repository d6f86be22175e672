//! What columns take while they are read, by the footers and by the first page of each.
//!
//! The floor of a source is for these sizes. A page that turns out larger is read from memory that floats.

use std::fs::File as Handle;

use parquet::basic::{Compression, Encoding, Type};
use parquet::file::metadata::ColumnChunkMetaData;

use super::files::{File, Table, chunk_range};
use super::header::{PageHeader, PageKind};

/// Where a page ends that holds what did not fit in a dictionary, for nearly all writers.
const FALLBACK_PAGE_BYTES: usize = 1_200_000;

/// Page headers that are looked at when a source is opened.
const MAX_SAMPLES: usize = 20_000;

/// Bytes that one row of a chunk takes as an array, about.
pub(crate) fn row_bytes(meta: &ColumnChunkMetaData, rows: u64) -> usize {
    let rows = rows.max(1);
    let values = meta.num_values().max(0) as u64;
    let per_value = match meta.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE | Type::INT96 => 8,
        Type::FIXED_LEN_BYTE_ARRAY => meta.column_descr().type_length().max(16) as u64,
        Type::BYTE_ARRAY => 16,
    };
    let text = match (meta.column_type(), meta.unencoded_byte_array_data_bytes()) {
        (Type::BYTE_ARRAY, Some(bytes)) => bytes.max(0) as u64,
        (Type::BYTE_ARRAY, None) => meta.uncompressed_size().max(0) as u64,
        _ => 0,
    };
    let offsets = if meta.column_descr().max_rep_level() > 0 { 4 * rows } else { 0 };
    let bytes = per_value.saturating_mul(values).saturating_add(text).saturating_add(offsets) / rows;
    usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
}

/// Bytes that each of the table's columns needs for the page being read, the next one, and its dictionary.
pub(crate) fn column_bytes(table: &Table) -> Vec<usize> {
    let mut bytes = vec![0; table.schema.fields().len()];
    let columns: usize =
        table.files.first().map_or(1, |file| file.metadata.file_metadata().schema_descr().num_columns());
    let sampled = (MAX_SAMPLES / columns.max(1)).max(1);
    // The largest files are looked at, if there are very many.
    let mut files: Vec<&File> = table.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(largest_group(file)));
    for file in files.into_iter().take(sampled) {
        let handle = Handle::open(&file.path).ok();
        let schema = file.metadata.file_metadata().schema_descr();
        let mut by_root = vec![0; schema.root_schema().get_fields().len()];
        for leaf in 0..schema.num_columns() {
            let chunks = file.metadata.row_groups().iter().map(|group| group.column(leaf));
            if let Some(chunk) = chunks.max_by_key(|chunk| chunk.uncompressed_size()) {
                by_root[schema.get_column_root_idx(leaf)] += chunk_bytes(chunk, handle.as_ref());
            }
        }
        for (bytes, root) in bytes.iter_mut().zip(&file.mapping.roots) {
            *bytes = by_root[*root].max(*bytes);
        }
    }
    bytes
}

fn largest_group(file: &File) -> i64 {
    file.metadata.row_groups().iter().map(|group| group.total_byte_size()).max().unwrap_or(0)
}

/// Bytes for two pages and the dictionary of a chunk.
fn chunk_bytes(chunk: &ColumnChunkMetaData, handle: Option<&Handle>) -> usize {
    let all = usize::try_from(chunk.uncompressed_size()).unwrap_or(0);
    let Some((start, end)) = chunk_range(chunk) else { return 0 };
    let compressed = chunk.compression() != Compression::UNCOMPRESSED;
    let first = handle.and_then(|handle| header_at(handle, start, end));
    let (dictionary, data) = match first {
        Some(header) if header.kind == PageKind::Dictionary => {
            let next = start + (header.header_bytes + header.compressed_bytes) as u64;
            (Some(header), handle.and_then(|handle| header_at(handle, next, end)))
        }
        first => (None, first),
    };
    let dictionary_bytes = dictionary.as_ref().map_or(0, |header| header.uncompressed_bytes);
    let rest = all.saturating_sub(dictionary_bytes);
    let first = data.as_ref().map_or(rest.min(FALLBACK_PAGE_BYTES), |header| header.uncompressed_bytes);
    // Pages behind a dictionary that became too large are larger than those before.
    let falls_back =
        dictionary.is_some() && chunk.page_encoding_stats_mask().is_none_or(|mask| mask.is_set(Encoding::PLAIN));
    let page = if falls_back { first.max(FALLBACK_PAGE_BYTES) } else { first + first / 4 };
    let page = page.min(rest.max(first)) + 1024;
    let raw =
        if compressed { data.as_ref().map_or(page, |header| header.compressed_bytes).min(page) + 1024 } else { 0 };
    let listed = if chunk.column_descr().max_rep_level() > 0 {
        20 * data.as_ref().map_or(page, |header| header.values as usize)
    } else {
        0
    };
    let decoded = dictionary.as_ref().map_or(0, |header| 16 * header.values as usize);
    2 * page + raw + 2 * listed + 2 * dictionary_bytes + decoded
}

/// The page header at `offset`, if there is one.
fn header_at(handle: &Handle, offset: u64, end: u64) -> Option<PageHeader> {
    let length = usize::try_from(end.saturating_sub(offset)).ok()?.min(4096);
    let mut bytes = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(handle, &mut bytes[..length], offset).ok()?;
    PageHeader::parse(&bytes[..length]).ok()
}
