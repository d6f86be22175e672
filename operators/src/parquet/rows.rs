//! Some columns of one row group as arrays: the reader of the `parquet` crate over lanes, replaced when it has to be.
//!
//! A reader yields batches of a fixed number of rows, one behind the other. To skip rows, or to change that number, a
//! new one begins where the rows go on; pages and dictionaries stay.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Fields};
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowGroups, RowSelection, RowSelector};
use parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels};
use parquet::column::page::PageIterator;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::files::File;
use super::lane::{Lane, LanePages, LaneReader, SharedLane};
use super::load::{Chunk, Walker};
use super::predicate::dictionary_type;

/// Some columns of one row group.
pub(crate) struct Rows {
    /// The table's columns, in the order in which batches have them.
    pub(crate) columns: Vec<usize>,
    /// Those of them that come as keys of a dictionary.
    pub(crate) dictionaries: Vec<usize>,
    /// One for each leaf of the columns, by its index in the file.
    pub(crate) lanes: Vec<(usize, SharedLane)>,
    levels: FieldLevels,
    metadata: Arc<ParquetMetaData>,
    row_group: usize,
    reader: Option<Reader>,
}

struct Reader {
    reader: ParquetRecordBatchReader,
    /// The row it goes on with.
    at: u64,
    batch_rows: usize,
    end: u64,
}

impl Rows {
    /// The table's `columns` in a row group of `file`; `chunk` says where each leaf is, and whether it comes as keys of its
    /// dictionary.
    pub(crate) fn new(
        file: &File,
        row_group: usize,
        columns: &[usize],
        mut chunk: impl FnMut(usize) -> Arc<Chunk>,
    ) -> Result<Self> {
        let schema = file.metadata.file_metadata().schema_descr();
        let mut columns = columns.to_vec();
        columns.sort_by_key(|column| file.mapping.roots[*column]);
        let roots = columns.iter().map(|column| file.mapping.roots[*column]);
        let mask = ProjectionMask::roots(schema, roots);
        let leaves = (0..schema.num_columns()).filter(|leaf| mask.leaf_included(*leaf));
        let chunks: Vec<(usize, Arc<Chunk>)> = leaves.map(|leaf| (leaf, chunk(leaf))).collect();
        let mut hint: Vec<FieldRef> = file.mapping.hint.iter().map(Arc::clone).collect();
        let mut dictionaries = Vec::new();
        for (leaf, _) in chunks.iter().filter(|(_, chunk)| chunk.keeps_dictionary) {
            let root = schema.get_column_root_idx(*leaf);
            hint[root] = Arc::new(Field::clone(&hint[root]).with_data_type(dictionary_type()));
            dictionaries.extend(columns.iter().copied().filter(|column| file.mapping.roots[*column] == root));
        }
        let levels = parquet_to_arrow_field_levels(schema, mask, Some(&hint.into()))?;
        let lane = |chunk| Arc::new(parking_lot::Mutex::new(Lane::new(Walker::new(chunk))));
        let lanes = chunks.into_iter().map(|(leaf, chunk)| (leaf, lane(chunk))).collect();
        if fields_of(&levels, &file.metadata)?.len() != columns.len() {
            return Err(ParquetError::General("a column without any values cannot be read".to_string()));
        }
        let metadata = Arc::clone(&file.metadata);
        Ok(Self { columns, dictionaries, lanes, levels, metadata, row_group, reader: None })
    }

    /// All that decoding the rows before `end` needs is loaded.
    pub(crate) fn covers(&self, end: u64) -> bool {
        self.lanes.iter().all(|(_, lane)| lane.lock().covers(end))
    }

    /// Whether the lanes' next page begins before `end`, for one that has any left.
    pub(crate) fn wants_ahead(&self, end: u64) -> bool {
        self.lanes.iter().any(|(_, lane)| {
            let lane = lane.lock();
            !lane.walker.ended() && lane.walker.row < end
        })
    }

    /// Lets go of all pages.
    pub(crate) fn clear(&mut self) {
        self.reader = None;
        self.lanes.iter().for_each(|(_, lane)| lane.lock().clear());
    }

    /// Lets go of the pages that end before `row`.
    pub(crate) fn pass(&mut self, row: u64) {
        if self.reader.as_ref().is_some_and(|reader| reader.at != row) {
            self.reader = None;
            self.lanes.iter().for_each(|(_, lane)| lane.lock().pass(row));
        }
    }

    /// Decodes the rows from `row` on, `batch_rows` of them or what is left before `end`. They are covered.
    pub(crate) fn read(&mut self, row: u64, batch_rows: usize, end: u64) -> Result<RecordBatch> {
        let rows = (end - row).min(batch_rows as u64);
        let fits = |reader: &Reader| reader.at == row && reader.batch_rows == batch_rows && reader.end == end;
        let mut reader = match self.reader.take().filter(fits) {
            Some(reader) => reader,
            None => self.begin(row, batch_rows, end)?,
        };
        let batch = reader.reader.next().transpose()?;
        let found = batch.as_ref().map_or(0, RecordBatch::num_rows);
        let Some(batch) = batch.filter(|_| found as u64 == rows) else {
            return Err(ParquetError::General(format!("{found} rows are there instead of {rows}")));
        };
        reader.at += rows;
        if reader.at < end {
            self.reader = Some(reader);
        }
        Ok(batch)
    }

    /// Lets go of what only the batch that was read last needed.
    pub(crate) fn settle(&self) {
        self.lanes.iter().for_each(|(_, lane)| lane.lock().settle());
    }

    /// A reader that goes on at `row`. All lanes begin with the same row for it: those that begin later say that
    /// the rows before are a page that can be skipped.
    fn begin(&self, row: u64, batch_rows: usize, end: u64) -> Result<Reader> {
        let missing = || ParquetError::General("a column has fewer rows than the others".to_string());
        let mut starts = Vec::with_capacity(self.lanes.len());
        for (leaf, lane) in &self.lanes {
            let (first, whole) = lane.lock().rewind(row).ok_or_else(missing)?;
            // What is left of a row that began before counts as one. Rows are counted from 1, so that there is room.
            starts.push((*leaf, Arc::clone(lane), first + u64::from(whole)));
        }
        let base = starts.iter().map(|(_, _, first)| *first).min().unwrap_or(row + 1);
        let skipped = (row + 1).checked_sub(base).ok_or_else(missing)? as usize;
        let chunks = starts.into_iter().map(|(leaf, lane, first)| (leaf, lane, (first - base) as usize)).collect();
        let group = OneGroup { metadata: Arc::clone(&self.metadata), row_group: self.row_group, chunks };
        let selection = (skipped > 0)
            .then(|| RowSelection::from(vec![RowSelector::skip(skipped), RowSelector::select((end - row) as usize)]));
        let limited = selection.is_some();
        let reader = ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, batch_rows, selection)?;
        let reader = if limited { reader } else { self.limited(&group, batch_rows, end - row, reader)? };
        Ok(Reader { reader, at: row, batch_rows, end })
    }

    /// A reader without a selection would read on behind the end of the range.
    fn limited(
        &self,
        group: &OneGroup,
        batch_rows: usize,
        rows: u64,
        reader: ParquetRecordBatchReader,
    ) -> Result<ParquetRecordBatchReader> {
        let group_rows = self.metadata.row_group(self.row_group).num_rows() as u64;
        if rows == group_rows {
            return Ok(reader);
        }
        let selection = RowSelection::from(vec![RowSelector::select(rows as usize)]);
        ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, group, batch_rows, Some(selection))
    }
}

/// The fields that a reader with `levels` yields.
pub(crate) fn fields_of(levels: &FieldLevels, metadata: &ParquetMetaData) -> Result<Fields> {
    let reader = ParquetRecordBatchReader::try_new_with_row_groups(levels, &NoRows(metadata), 1, None)?;
    Ok(reader.schema().fields().clone())
}

/// A file of which no row group is read.
struct NoRows<'a>(&'a ParquetMetaData);

impl RowGroups for NoRows<'_> {
    fn num_rows(&self) -> usize {
        0
    }

    fn column_chunks(&self, _leaf: usize) -> Result<Box<dyn PageIterator>> {
        Ok(Box::new(LanePages(None)))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::empty())
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.0
    }
}

/// A row group of which only the lanes' pages are there.
struct OneGroup {
    metadata: Arc<ParquetMetaData>,
    row_group: usize,
    /// Leaf, lane, and rows that are missing before it.
    chunks: Vec<(usize, SharedLane, usize)>,
}

impl RowGroups for OneGroup {
    fn num_rows(&self) -> usize {
        self.metadata.row_group(self.row_group).num_rows() as usize
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let chunk = self.chunks.iter().find(|(index, _, _)| *index == leaf);
        let (_, lane, phantom) = chunk.ok_or_else(|| ParquetError::General(format!("there is no column {leaf}")))?;
        Ok(Box::new(LanePages(Some(LaneReader::new(Arc::clone(lane), *phantom)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.metadata.row_group(self.row_group)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}
