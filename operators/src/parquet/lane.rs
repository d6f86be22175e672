//! One column chunk as it is read: loaded pages in, decompressed pages out, in order.
//!
//! A lane can begin again at the page it is in, or at any later row: whoever reads from it may be replaced.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::load::{Body, Loaded, Walker};
use super::pot::Held;

/// One column chunk of the row group being read.
pub(crate) struct Lane {
    pub(crate) walker: Walker,
    pub(crate) dictionary: Option<(Page, Held)>,
    pub(crate) pages: VecDeque<Loaded>,
    /// The page that was handed out last: the next reader may need it again.
    current: Option<Loaded>,
    /// Memory of pages that the batch being made still points into.
    retired: Vec<Held>,
    decoder: Decoder,
}

/// A lane, shared by its owner and the reader.
pub(crate) type SharedLane = Arc<Mutex<Lane>>;

impl Lane {
    pub(crate) fn new(walker: Walker) -> Self {
        let decoder = Decoder::default();
        Self { walker, dictionary: None, pages: VecDeque::new(), current: None, retired: vec![], decoder }
    }

    /// All that decoding the rows before `end` needs is loaded.
    pub(crate) fn covers(&self, end: u64) -> bool {
        if !self.walker.opened {
            return false;
        }
        let walked = self.walker.row;
        // Where a row ends is seen only at the beginning of the next.
        walked > end || self.walker.ended() || (walked == end && (self.walker.chunk.aligned() || self.ends_row()))
    }

    fn ends_row(&self) -> bool {
        self.pages.back().or(self.current.as_ref()).is_some_and(|page| page.ends_row)
    }

    /// Begins again at `row`, which is loaded: gives the row that the first page begins with, and whether the page
    /// has the end of another row before it.
    pub(crate) fn rewind(&mut self, row: u64) -> Option<(u64, bool)> {
        if let Some(current) = self.current.take() {
            self.pages.push_front(current);
        }
        self.pass(row);
        self.pages.front().map(|page| (page.row, page.whole))
    }

    /// Lets go of the pages in which no row from `row` on begins.
    pub(crate) fn pass(&mut self, row: u64) {
        if self.current.as_ref().is_some_and(|page| page.row + page.rows <= row) {
            self.current = None;
        }
        while self.pages.front().is_some_and(|page| page.row + page.rows <= row) {
            self.pages.pop_front();
        }
    }

    /// Lets go of all pages, to be loaded again from `row` on.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.current = None;
        self.retired.clear();
        self.dictionary = None;
        self.decoder = Decoder::default();
        self.walker = Walker::new(Arc::clone(&self.walker.chunk));
    }

    /// The batch is made.
    pub(crate) fn settle(&mut self) {
        self.retired.clear();
    }

    fn take(&mut self) -> Result<Option<Page>> {
        let Some(mut loaded) = self.pages.pop_front() else {
            return if self.walker.ended() { Ok(None) } else { Err(not_loaded()) };
        };
        let page = match loaded.body {
            Body::Decoded(page) => page,
            Body::Raw { offset, bytes } => {
                let chunk = &self.walker.chunk;
                let raw_bytes = bytes.len();
                let decoded = self.decoder.decode(&chunk.meta, offset, chunk.end, bytes)?;
                // Without compression the page is a slice of the raw bytes.
                let sliced = matches!(decoded, Page::DataPageV2 { is_compressed: false, .. });
                if chunk.compressed() && !sliced {
                    loaded.held.release(raw_bytes);
                }
                decoded
            }
        };
        loaded.body = Body::Decoded(page.clone());
        self.retired.extend(self.current.replace(loaded).map(|old| old.held));
        Ok(Some(page))
    }
}

fn not_loaded() -> ParquetError {
    ParquetError::General("a page behind the rows that were asked for is needed".to_string())
}

/// The pages of a lane, as the reader of the `parquet` crate asks for them.
pub(crate) struct LaneReader {
    lane: SharedLane,
    /// Rows before the lane's first page, which the reader is told to skip.
    phantom: usize,
    /// The dictionary is still to be handed out.
    dictionary: bool,
}

impl LaneReader {
    pub(crate) fn new(lane: SharedLane, phantom: usize) -> Self {
        let dictionary = lane.lock().dictionary.is_some();
        Self { lane, phantom, dictionary }
    }
}

impl Iterator for LaneReader {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for LaneReader {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let mut lane = self.lane.lock();
        if std::mem::take(&mut self.dictionary)
            && let Some((page, _)) = &lane.dictionary
        {
            return Ok(Some(page.clone()));
        }
        if self.phantom > 0 {
            return Err(not_loaded());
        }
        lane.take()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        if self.dictionary {
            return Ok(Some(PageMetadata { num_rows: None, num_levels: None, is_dict: true }));
        }
        if self.phantom > 0 {
            return Ok(Some(PageMetadata { num_rows: Some(self.phantom), num_levels: None, is_dict: false }));
        }
        let lane = self.lane.lock();
        let Some(page) = lane.pages.front() else {
            return if lane.walker.ended() { Ok(None) } else { Err(not_loaded()) };
        };
        let complete = page.whole && (page.ends_row || lane.pages.get(1).is_some_and(|next| next.whole));
        let rows = complete.then_some(page.rows as usize);
        Ok(Some(PageMetadata { num_rows: rows, num_levels: Some(page.values as usize), is_dict: false }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        if std::mem::take(&mut self.dictionary) {
            return Ok(());
        }
        if std::mem::take(&mut self.phantom) == 0 {
            self.lane.lock().pages.pop_front();
        }
        Ok(())
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        let lane = self.lane.lock();
        match lane.pages.front() {
            Some(page) => Ok(page.whole),
            None => Ok(lane.walker.ended() || lane.current.as_ref().is_some_and(|page| page.ends_row)),
        }
    }
}

/// The one chunk that a reader of one row group gets.
pub(crate) struct LanePages(pub(crate) Option<LaneReader>);

impl Iterator for LanePages {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|reader| Ok(Box::new(reader) as Box<dyn PageReader>))
    }
}

impl PageIterator for LanePages {}

/// Decompresses pages that are in memory, one after the other.
#[derive(Default)]
pub(crate) struct Decoder {
    feed: Arc<Feed>,
    /// The reader and the offset of the page that it expects.
    inner: Option<(u64, SerializedPageReader<Feed>)>,
}

impl Decoder {
    /// Decodes the page whose bytes, header first, are at `offset` of a chunk that ends at `end`.
    pub(crate) fn decode(&mut self, meta: &ColumnChunkMetaData, offset: u64, end: u64, bytes: Bytes) -> Result<Page> {
        let next = offset + bytes.len() as u64;
        let mut reader = match self.inner.take() {
            Some((expected, reader)) if expected == offset => reader,
            // A reader always begins with a chunk: this one begins here.
            _ => {
                let meta = meta
                    .clone()
                    .into_builder()
                    .set_dictionary_page_offset(None)
                    .set_data_page_offset(offset as i64)
                    .set_total_compressed_size((end - offset) as i64)
                    .build()?;
                SerializedPageReader::new(Arc::clone(&self.feed), &meta, 0, None)?
            }
        };
        *self.feed.0.lock() = (offset, bytes);
        let page = reader.get_next_page();
        *self.feed.0.lock() = (0, Bytes::new());
        let page = page?.ok_or_else(|| ParquetError::General("a page is empty".to_string()))?;
        self.inner = Some((next, reader));
        Ok(page)
    }
}

/// The bytes of one page, as a file of which nothing else is there.
#[derive(Default)]
pub(crate) struct Feed(Mutex<(u64, Bytes)>);

impl Feed {
    fn from(&self, start: u64) -> Result<Bytes> {
        let page = self.0.lock();
        let from = start.checked_sub(page.0).and_then(|from| usize::try_from(from).ok());
        let from = from.filter(|from| *from <= page.1.len()).ok_or_else(not_loaded)?;
        Ok(page.1.slice(from..))
    }
}

impl Length for Feed {
    fn len(&self) -> u64 {
        u64::MAX
    }
}

impl ChunkReader for Feed {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.from(start).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() { Err(not_loaded()) } else { Ok(bytes.slice(..length)) }
    }
}

/// Rows that begin in a page of version 1, by its repetition levels, and whether it begins with one. `None` if the
/// levels are not all there.
pub(crate) fn first_levels(page: &[u8], max_level: u16, values: u64) -> Option<(u64, bool)> {
    let (length, rest) = page.split_first_chunk::<4>()?;
    let levels = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let width = (u16::BITS - max_level.leading_zeros()) as usize;
    let (mut at, mut seen, mut zeros, mut first) = (0, 0u64, 0u64, None);
    while seen < values {
        let mut run = 0u64;
        for shift in (0..=63).step_by(7) {
            let byte = *levels.get(at)?;
            at += 1;
            run |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
            if shift == 63 {
                return None;
            }
        }
        let left = values - seen;
        if run & 1 == 0 {
            let count = (run >> 1).min(left);
            if run >> 1 == 0 {
                return None;
            }
            let bytes = width.div_ceil(8);
            let zero = levels.get(at..at + bytes)?.iter().all(|byte| *byte == 0);
            at += bytes;
            first.get_or_insert(zero);
            zeros += if zero { count } else { 0 };
            seen += count;
        } else {
            let count = (run >> 1).checked_mul(8)?;
            if count == 0 {
                return None;
            }
            let bytes = usize::try_from(run >> 1).ok()?.checked_mul(width)?;
            let packed = levels.get(at..at.checked_add(bytes)?)?;
            at += bytes;
            let count = count.min(left);
            for index in 0..usize::try_from(count).ok()? {
                let zero = (0..width).all(|bit| {
                    let bit = index * width + bit;
                    packed[bit / 8] >> (bit % 8) & 1 == 0
                });
                first.get_or_insert(zero);
                zeros += u64::from(zero);
            }
            seen += count;
        }
    }
    Some((zeros, first.unwrap_or(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_begin_in_a_page_are_counted_by_its_levels() {
        let page = |levels: &[u8]| [&(levels.len() as u32).to_le_bytes()[..], levels, b"values"].concat();
        // A run of three zeros, then eight packed levels 0 1 1 0 1 0 0 1.
        let levels = [6, 0, 3, 0b1001_0110];
        assert_eq!(first_levels(&page(&levels), 1, 11), Some((7, true)));
        assert_eq!(first_levels(&page(&levels), 1, 5), Some((4, true)));
        assert_eq!(first_levels(&page(&[4, 1]), 1, 2), Some((0, false)));
        assert_eq!(first_levels(&page(&levels), 1, 12), None);
        assert_eq!(first_levels(&page(&[0, 0]), 1, 1), None);
        // Two bits a level: 0 2 1 0 3 0 0 0.
        assert_eq!(first_levels(&page(&[3, 0b0001_1000, 0b0000_0011]), 3, 8), Some((5, true)));
    }
}
