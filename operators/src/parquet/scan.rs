//! One pass over the files: cuts them into splits, and keeps what its instances share.
//!
//! A split is some row groups of one file, or a range of rows of a large one. What a split covers depends on the
//! footers alone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use aqueduct_runtime::{OperatorError, Result, Scan, Source, SourceContext, Split};
use arrow::datatypes::SchemaRef;
use datafusion_common::tree_node::{Transformed, TreeNode};

use super::files::{File, Handles, Table, short_name};
use super::instance::Instance;
use crate::expression::Expression;

/// Row groups are put together until a split has so many compressed bytes of the columns that are read: more where
/// there are very many, so that the next row group is loaded while one is decoded.
const SPLIT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=8 << 20;

/// Splits that there should be at the least before they are made larger.
const SPLITS: u64 = 32;

/// A row group with more is cut into pieces of about [`PIECE_BYTES`].
const LARGE_GROUP_BYTES: u64 = 24 << 20;
const PIECE_BYTES: u64 = 8 << 20;

/// Rows that a split has at the most, about: row groups of few bytes may have very many.
const SPLIT_ROWS: u64 = 1 << 20;

/// What the instances of one scan share.
pub(crate) struct Shared {
    pub(crate) table: Arc<Table>,
    /// What is emitted.
    pub(crate) schema: SchemaRef,
    /// The table's columns that are emitted.
    pub(crate) projection: Vec<usize>,
    pub(crate) filter: Option<Filter>,
    pub(crate) prune: bool,
    pub(crate) counts: Arc<Counts>,
    pub(crate) handles: Handles,
}

/// What rows have to be.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// Over the table's columns.
    pub(crate) predicate: Expression,
    /// The same over [`Filter::columns`].
    pub(crate) over_columns: Expression,
    /// The table's columns that it looks at, in order.
    pub(crate) columns: Vec<usize>,
    /// The schema of those.
    pub(crate) schema: SchemaRef,
}

impl Filter {
    /// What it asks of rows now, if that changes while it is read: `None` if it is what it was at the start.
    pub(crate) fn at_present(&self) -> Option<Self> {
        let mut changed = false;
        let mut now = |expression: &Expression| {
            let now = Arc::clone(expression).transform_up(|part| {
                Ok(part.snapshot()?.map_or_else(|| Transformed::no(Arc::clone(&part)), Transformed::yes))
            });
            // What cannot be told is as it was.
            now.ok().map(|now| {
                changed |= now.transformed;
                now.data
            })
        };
        let (predicate, over_columns) = (now(&self.predicate)?, now(&self.over_columns)?);
        changed.then(|| Self { predicate, over_columns, ..self.clone() })
    }
}

impl Shared {
    /// The table's columns that are emitted, each once.
    pub(crate) fn projection_once(&self) -> Vec<usize> {
        let mut columns = self.projection.clone();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The table's columns that are read: those emitted and those of the predicate.
    pub(crate) fn columns(&self) -> Vec<usize> {
        let filter = self.filter.iter().flat_map(|filter| filter.columns.iter().copied());
        let mut columns: Vec<usize> = self.projection.iter().copied().chain(filter).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

/// What was read, and what was not. Counted over all jobs of a source.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) row_groups: AtomicU64,
    pub(crate) row_groups_pruned: AtomicU64,
    pub(crate) row_groups_bloomed: AtomicU64,
    pub(crate) rows_pruned: AtomicU64,
    pub(crate) rows_decoded: AtomicU64,
    pub(crate) rows_late: AtomicU64,
    pub(crate) pages_read: AtomicU64,
    pub(crate) pages_skipped: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }

    pub(crate) fn read(&self) -> ReadCounts {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        ReadCounts {
            row_groups: of(&self.row_groups),
            row_groups_pruned: of(&self.row_groups_pruned),
            row_groups_bloomed: of(&self.row_groups_bloomed),
            rows_pruned: of(&self.rows_pruned),
            rows_decoded: of(&self.rows_decoded),
            rows_late: of(&self.rows_late),
            pages_read: of(&self.pages_read),
            pages_skipped: of(&self.pages_skipped),
            bytes_read: of(&self.bytes_read),
        }
    }
}

/// What a source has read so far, in all its jobs, and what it could leave out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Row groups, or pieces of large ones, that were opened.
    pub row_groups: u64,
    /// Row groups that their statistics ruled out.
    pub row_groups_pruned: u64,
    /// Row groups that a bloom filter ruled out.
    pub row_groups_bloomed: u64,
    /// Rows of opened row groups that the page index ruled out.
    pub rows_pruned: u64,
    /// Rows of which the first columns were decoded: those of the predicate, if there is one.
    pub rows_decoded: u64,
    /// Rows of which the other columns were not decoded, because no row near by was true.
    pub rows_late: u64,
    /// Pages that were read.
    pub pages_read: u64,
    /// Pages that were passed by, by their headers.
    pub pages_skipped: u64,
    /// Bytes of the pages that were read.
    pub bytes_read: u64,
}

/// The row groups or rows of one split, as they travel in [`Split::payload`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitRange {
    pub(crate) file: usize,
    pub(crate) groups: Range<usize>,
    /// Rows of the only row group; of each row group all if it is empty.
    pub(crate) rows: Range<u64>,
    bytes: u64,
}

impl SplitRange {
    fn encode(&self) -> Vec<u8> {
        let words =
            [self.file as u64, self.groups.start as u64, self.groups.end as u64, self.rows.start, self.rows.end];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn decode(split: &Split, table: &Table) -> Result<Self> {
        let foreign = || OperatorError::new(format!("`{}` is not a split of this Parquet source", split.description));
        let words: [[u8; 8]; 5] = split.payload.as_chunks().0.try_into().map_err(|_| foreign())?;
        let [file, from, to, first, last] = words.map(u64::from_le_bytes);
        let index = |word: u64| usize::try_from(word).map_err(|_| foreign());
        let range =
            Self { file: index(file)?, groups: index(from)?..index(to)?, rows: first..last, bytes: split.bytes };
        let known = table.files.get(range.file).ok_or_else(foreign)?;
        if range.groups.end > known.metadata.num_row_groups() || range.groups.is_empty() {
            return Err(foreign());
        }
        let rows = known.metadata.row_group(range.groups.start).num_rows() as u64;
        if !range.rows.is_empty() && (range.groups.len() != 1 || range.rows.end > rows) {
            return Err(foreign());
        }
        Ok(range)
    }
}

/// Cuts the row groups that `wanted` keeps into splits.
pub(crate) fn cut(table: &Table, columns: &[usize], mut wanted: impl FnMut(usize, usize) -> bool) -> Vec<SplitRange> {
    let mut splits: Vec<SplitRange> = vec![];
    let groups = |file: &'_ File| {
        (0..file.metadata.num_row_groups()).map(|group| group_bytes(file, group, columns)).sum::<u64>()
    };
    let all_bytes: u64 = table.files.iter().map(groups).sum();
    let split_bytes = (all_bytes / SPLITS).clamp(*SPLIT_BYTES.start(), *SPLIT_BYTES.end());
    for (index, file) in table.files.iter().enumerate() {
        let mut rows_in_last = 0;
        for group in 0..file.metadata.num_row_groups() {
            let rows = file.metadata.row_group(group).num_rows() as u64;
            if rows == 0 || !wanted(index, group) {
                continue;
            }
            let bytes = group_bytes(file, group, columns);
            if bytes > LARGE_GROUP_BYTES && can_be_cut(file, group, columns) {
                let pieces = bytes.div_ceil(PIECE_BYTES).min(rows);
                let edges =
                    (0..=pieces).map(|piece| (u128::from(rows) * u128::from(piece) / u128::from(pieces)) as u64);
                let edges: Vec<u64> = edges.collect();
                splits.extend(edges.windows(2).map(|edge| SplitRange {
                    file: index,
                    groups: group..group + 1,
                    rows: edge[0]..edge[1],
                    bytes: bytes / pieces,
                }));
                continue;
            }
            let joined = splits.last_mut().filter(|last| {
                last.file == index
                    && last.groups.end == group
                    && last.rows.is_empty()
                    && last.bytes + bytes <= split_bytes
                    && rows_in_last + rows <= SPLIT_ROWS
            });
            match joined {
                Some(last) => {
                    last.groups.end += 1;
                    last.bytes += bytes;
                    rows_in_last += rows;
                }
                None => {
                    splits.push(SplitRange { file: index, groups: group..group + 1, rows: 0..0, bytes });
                    rows_in_last = rows;
                }
            }
        }
    }
    splits
}

/// The leaves of `columns` in a file.
pub(crate) fn leaves<'a>(file: &'a File, columns: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let schema = file.metadata.file_metadata().schema_descr();
    let mut read = vec![false; schema.root_schema().get_fields().len()];
    columns.iter().for_each(|column| read[file.mapping.roots[*column]] = true);
    (0..schema.num_columns()).filter(move |leaf| read[schema.get_column_root_idx(*leaf)])
}

/// Compressed bytes of `columns` in a row group.
fn group_bytes(file: &File, group: usize, columns: &[usize]) -> u64 {
    let group = file.metadata.row_group(group);
    leaves(file, columns).map(|leaf| group.column(leaf).compressed_size().max(0) as u64).sum()
}

/// Whether reading may begin in the middle of a row group: without lists, or where the file has a page index.
fn can_be_cut(file: &File, group: usize, columns: &[usize]) -> bool {
    let group = file.metadata.row_group(group);
    leaves(file, columns).all(|leaf| {
        let chunk = group.column(leaf);
        chunk.column_descr().max_rep_level() == 0 || chunk.offset_index_offset().is_some()
    })
}

/// One job's pass over the files of a source.
pub(crate) struct ParquetScan {
    shared: Arc<Shared>,
    splits: Vec<SplitRange>,
    next: AtomicUsize,
}

impl ParquetScan {
    pub(crate) fn new(shared: Shared, splits: Vec<SplitRange>) -> Self {
        Self { shared: Arc::new(shared), splits, next: AtomicUsize::new(0) }
    }
}

impl Scan for ParquetScan {
    fn next_split(&self) -> Result<Option<Split>> {
        let index = self.next.fetch_add(1, Relaxed);
        let Some(range) = self.splits.get(index) else { return Ok(None) };
        let name = short_name(&self.shared.table.files[range.file].path);
        let description = match (range.groups.len(), range.rows.is_empty()) {
            (1, true) => format!("{name} row group {}", range.groups.start),
            (1, false) => {
                format!("{name} row group {}, rows {}..{}", range.groups.start, range.rows.start, range.rows.end)
            }
            _ => format!("{name} row groups {}..{}", range.groups.start, range.groups.end),
        };
        Ok(Some(Split { index: index as u64, description, bytes: range.bytes, payload: range.encode() }))
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(Instance::new(Arc::clone(&self.shared), context)))
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.splits.iter().map(|split| split.bytes).sum())
    }
}
