//! Opens one row group, on an I/O thread: where its pages are, and which of its rows are to be read.
//!
//! Whatever is found here only leaves rows out; that it is missing, or makes no sense, costs no more than reading them.

use std::fs::File as Handle;
use std::ops::Range;
use std::sync::Arc;

use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader};
use parquet::file::page_index::offset_index::PageLocation;

use super::bounds::{bloom_may_match, group_may_match, pages_that_may_match, plain_leaf};
use super::error::guarded;
use super::files::{File, chunk_range};
use super::load::Chunk;
use super::pot::Pot;
use super::predicate::{asked_alone, has_small_dictionary};
use super::scan::{Counts, Shared, leaves};

/// Bytes that an entry of the page index takes once it is read, for each byte that it has in the file.
const INDEX_FACTOR: u64 = 6;

/// A row group that is about to be read.
pub(crate) struct Opened {
    /// Where the leaves that are read are, by their index in the file.
    pub(crate) chunks: Vec<(usize, Arc<Chunk>)>,
    /// The rows that are read, in order, none of them empty.
    pub(crate) ranges: Vec<Range<u64>>,
}

/// Looks at a row group, of which `rows` are wanted.
pub(crate) fn open(
    shared: &Shared,
    file: usize,
    row_group: usize,
    rows: Range<u64>,
    handle: &Handle,
    pot: &Pot,
) -> Opened {
    let file = &shared.table.files[file];
    Counts::add(&shared.counts.row_groups, 1);
    let columns = shared.columns();
    let index = page_index(file, row_group, &columns, handle, pot);
    let mut ranges = vec![rows.clone()];
    if let Some(filter) = shared.filter.as_ref().filter(|_| shared.prune) {
        let present = filter.at_present();
        if present.as_ref().is_some_and(|present| !group_may_match(file, present, row_group)) {
            Counts::add(&shared.counts.row_groups_pruned, 1);
            return Opened { chunks: vec![], ranges: vec![] };
        }
        let filter = present.as_ref().unwrap_or(filter);
        if !bloom_may_match(file, filter, row_group, handle, pot) {
            Counts::add(&shared.counts.row_groups_bloomed, 1);
            return Opened { chunks: vec![], ranges: vec![] };
        }
        if let Some(found) = index.as_ref().and_then(|index| pages_that_may_match(file, filter, index, rows.clone())) {
            let kept: u64 = found.iter().map(|range| range.end - range.start).sum();
            Counts::add(&shared.counts.rows_pruned, rows.end - rows.start - kept);
            ranges = found;
        }
    }
    let metadata = file.metadata.row_group(row_group);
    let group_rows = metadata.num_rows() as u64;
    let alone = shared.filter.as_ref().map(asked_alone).unwrap_or_default();
    let alone: Vec<usize> = alone.into_iter().filter_map(|column| plain_leaf(file, column)).collect();
    let chunks = leaves(file, &columns).map(|leaf| {
        let meta = metadata.column(leaf);
        let (start, end) = chunk_range(meta).unwrap_or((0, 0));
        let offsets = index.as_ref().and_then(|index| index.offset_index()?.first()?.get(leaf));
        let locations = offsets.map(|offsets| offsets.page_locations().clone());
        let chunk = Chunk {
            row_group,
            name: meta.column_path().string(),
            meta: meta.clone(),
            start,
            end,
            rows: group_rows,
            nested: meta.column_descr().max_rep_level() > 0,
            keeps_dictionary: alone.contains(&leaf) && has_small_dictionary(meta),
            locations: locations.filter(|locations| make_sense(locations, start, end, group_rows)),
        };
        (leaf, Arc::new(chunk))
    });
    Opened { chunks: chunks.collect(), ranges }
}

/// The page index of the leaves of `columns` in one row group, as a file of this row group alone. `None` if the file
/// has none, it cannot be read, or there is no memory for it now.
fn page_index(file: &File, row_group: usize, columns: &[usize], handle: &Handle, pot: &Pot) -> Option<ParquetMetaData> {
    let group = file.metadata.row_group(row_group);
    let wanted: Vec<usize> = leaves(file, columns).collect();
    let first = group.column(*wanted.first()?);
    let range = (first.offset_index_offset()?, first.offset_index_length()?);
    let mut bytes = 0u64;
    for leaf in &wanted {
        let chunk = group.column(*leaf);
        chunk.offset_index_offset()?;
        bytes = bytes.checked_add(u64::try_from(chunk.offset_index_length()?).ok()?)?;
        bytes = bytes.checked_add(u64::try_from(chunk.column_index_length().unwrap_or(0)).ok()?)?;
    }
    let _held = pot.take(usize::try_from(bytes.checked_mul(INDEX_FACTOR)?).ok()?)?;
    // The index is there for all columns or for none: for the others that of a wanted one is taken, which costs least.
    let chunks = group.columns().iter().enumerate().map(|(leaf, chunk)| {
        let chunk = chunk.clone();
        if wanted.contains(&leaf) {
            return Some(chunk);
        }
        let chunk = chunk.into_builder().set_offset_index_offset(Some(range.0)).set_offset_index_length(Some(range.1));
        chunk.set_column_index_offset(None).set_column_index_length(None).build().ok()
    });
    let alone = group.clone().into_builder().set_column_metadata(chunks.collect::<Option<Vec<_>>>()?).build().ok()?;
    let metadata = ParquetMetaDataBuilder::new(file.metadata.file_metadata().clone()).add_row_group(alone).build();
    let mut reader =
        ParquetMetaDataReader::new_with_metadata(metadata).with_page_index_policy(PageIndexPolicy::Optional);
    guarded(|| {
        reader.read_page_indexes(handle)?;
        reader.finish()
    })
    .ok()
}

/// Pages follow each other within their chunk, and have all rows between them.
fn make_sense(locations: &[PageLocation], start: u64, end: u64, rows: u64) -> bool {
    let mut at = (start as i64, -1);
    let mut fits = locations.first().is_some_and(|first| first.first_row_index == 0);
    for page in locations {
        fits &= page.offset >= at.0 && page.compressed_page_size > 0 && page.first_row_index > at.1;
        fits &= page.first_row_index < rows as i64;
        at = (page.offset.saturating_add(i64::from(page.compressed_page_size)), page.first_row_index);
    }
    fits && at.0 <= end as i64
}
