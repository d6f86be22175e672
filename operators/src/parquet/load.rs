//! Walks through the pages of a column chunk and loads them, on an I/O thread.
//!
//! Every byte is taken from the pot before it is allocated. A page is known to lie in its chunk, and how many rows
//! begin in it, before anyone decodes it.

use std::fs::File as Handle;
use std::sync::Arc;

use aqueduct_runtime::OperatorError;
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::page::Page;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;

use super::error::{ParquetFileError, guarded};
use super::files::{File, Table, read_at};
use super::header::{HeaderError, PageHeader, PageKind};
use super::lane::{Decoder, first_levels};
use super::pot::{Held, Pot};
use super::scan::Counts;

/// Bytes that nearly all page headers fit in, and those that hold long statistics.
const HEADER_BYTES: [u64; 3] = [256, 64 << 10, 4 << 20];

/// A column chunk of the row group being read.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) row_group: usize,
    /// Name of the column, for errors.
    pub(crate) name: String,
    pub(crate) meta: ColumnChunkMetaData,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Rows of the row group.
    pub(crate) rows: u64,
    /// Values are in lists: a row may have any number of them.
    pub(crate) nested: bool,
    /// Its texts come as keys of its dictionary.
    pub(crate) keeps_dictionary: bool,
    /// Where the pages are, if the file says so and it makes sense.
    pub(crate) locations: Option<Vec<PageLocation>>,
}

/// Bytes that one value of a list takes beside its page: its levels and its place in an array.
const LIST_VALUE_BYTES: u64 = 20;

impl Chunk {
    /// Every page begins with a new row.
    pub(crate) fn aligned(&self) -> bool {
        !self.nested || self.locations.is_some()
    }

    /// Pages are decompressed into memory of their own.
    pub(crate) fn compressed(&self) -> bool {
        self.meta.compression() != Compression::UNCOMPRESSED
    }

    /// Bytes that a page needs while it is read and decoded.
    pub(crate) fn page_bytes(&self, header: &PageHeader) -> usize {
        let raw = header.header_bytes + header.compressed_bytes;
        let decompressed = if self.compressed() { header.uncompressed_bytes } else { 0 };
        let listed = if self.nested { header.values.saturating_mul(LIST_VALUE_BYTES) } else { 0 };
        raw.saturating_add(decompressed).saturating_add(usize::try_from(listed).unwrap_or(usize::MAX))
    }
}

/// A page in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The first row that begins in it.
    pub(crate) row: u64,
    /// Rows that begin in it.
    pub(crate) rows: u64,
    /// It begins with a new row, not within one.
    pub(crate) whole: bool,
    /// The page behind it begins with a new row, as its own version promises.
    pub(crate) ends_row: bool,
    pub(crate) values: u64,
    pub(crate) body: Body,
    pub(crate) held: Held,
}

/// The bytes of a page.
#[derive(Debug)]
pub(crate) enum Body {
    /// As they are in the file, header first.
    Raw {
        offset: u64,
        bytes: Bytes,
    },
    Decoded(Page),
}

/// Why no page was loaded.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It needs so many bytes that are not to be had now.
    Memory {
        bytes: usize,
        column: String,
    },
    Failed(OperatorError),
}

/// What loading needs of its instance.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    pub(crate) handle: Arc<Handle>,
    pub(crate) table: Arc<Table>,
    /// The file's place in the table.
    pub(crate) index: usize,
    pub(crate) pot: Pot,
    pub(crate) counts: Arc<Counts>,
}

/// Where in a chunk the next page to load is.
#[derive(Debug, Clone)]
pub(crate) struct Walker {
    pub(crate) chunk: Arc<Chunk>,
    offset: u64,
    /// The next of the chunk's locations.
    index: usize,
    /// The first row that begins in the next page or behind it.
    pub(crate) row: u64,
    /// The dictionary was looked for.
    pub(crate) opened: bool,
}

impl Walker {
    pub(crate) fn new(chunk: Arc<Chunk>) -> Self {
        let offset = chunk.start;
        Self { chunk, offset, index: 0, row: 0, opened: false }
    }

    /// No page is left.
    pub(crate) fn ended(&self) -> bool {
        match &self.chunk.locations {
            Some(locations) => self.index >= locations.len(),
            None => self.offset >= self.chunk.end,
        }
    }

    /// The dictionary, if the chunk has one. To be called before pages are loaded.
    pub(crate) fn open(&mut self, loader: &Loader) -> Result<Option<(Page, Held)>, Stop> {
        self.opened = true;
        if self.chunk.start >= self.chunk.end {
            return Ok(None);
        }
        let header = loader.header(&self.chunk, self.chunk.start)?;
        if header.kind != PageKind::Dictionary {
            return Ok(None);
        }
        let (bytes, mut held) = loader.page(&self.chunk, self.chunk.start, &header, false).inspect_err(|_| {
            self.opened = false;
        })?;
        let length = bytes.len() as u64;
        let page = loader.decode(&self.chunk, self.chunk.start, bytes)?;
        held.shrink_to(header.uncompressed_bytes);
        if self.chunk.locations.is_none() {
            self.offset = self.chunk.start + length;
        }
        // Decoding makes an array of its values, which stays as long as the reader.
        let decoded = loader.pot.take(decoded_dictionary_bytes(&self.chunk, &header));
        let Some(decoded) = decoded else {
            self.opened = false;
            self.offset = self.chunk.start;
            return Err(loader.short(&self.chunk, decoded_dictionary_bytes(&self.chunk, &header)));
        };
        held.join(decoded);
        Ok(Some((page, held)))
    }

    /// Passes by the pages that end before `row`, as far as that can be told without loading them.
    pub(crate) fn skip_to(&mut self, loader: &Loader, row: u64) -> Result<(), Stop> {
        let chunk = Arc::clone(&self.chunk);
        if let Some(locations) = &chunk.locations {
            let next = locations.partition_point(|page| page.first_row_index as u64 <= row).saturating_sub(1);
            if next > self.index {
                self.index = next;
                self.row = locations[next].first_row_index as u64;
            }
            return Ok(());
        }
        if chunk.nested {
            return Ok(());
        }
        while self.row < row && !self.ended() {
            let header = loader.header(&chunk, self.offset)?;
            let rows = if header.kind == PageKind::Other { 0 } else { self.rows_of(loader, &header)? };
            if self.row + rows > row {
                break;
            }
            self.row += rows;
            self.offset += (header.header_bytes + header.compressed_bytes) as u64;
            Counts::add(&loader.counts.pages_skipped, 1);
        }
        Ok(())
    }

    /// Rows of a page of a chunk without lists.
    fn rows_of(&self, loader: &Loader, header: &PageHeader) -> Result<u64, Stop> {
        let rows = header.rows.unwrap_or(header.values);
        if rows != header.values || rows > self.chunk.rows.saturating_sub(self.row) {
            let reason = format!("a page of {} values cannot have {rows} rows at row {}", header.values, self.row);
            return Err(loader.damaged(&self.chunk, reason));
        }
        Ok(rows)
    }

    /// Loads the next page; `None` if the chunk ends here. With `ahead` only where there is memory to spare.
    pub(crate) fn next(&mut self, loader: &Loader, ahead: bool) -> Result<Option<Loaded>, Stop> {
        let chunk = Arc::clone(&self.chunk);
        if let Some(locations) = &chunk.locations {
            let Some(location) = locations.get(self.index) else { return Ok(None) };
            let end = locations.get(self.index + 1).map_or(chunk.rows, |next| next.first_row_index as u64);
            let (offset, row) = (location.offset as u64, location.first_row_index as u64);
            let header = loader.header(&chunk, offset)?;
            let length = header.header_bytes + header.compressed_bytes;
            let data = matches!(header.kind, PageKind::Data | PageKind::DataV2);
            let rows = end - row;
            let counted = header.rows.or((!chunk.nested).then_some(header.values));
            if !data || length > location.compressed_page_size as usize || counted.is_some_and(|found| found != rows) {
                return Err(loader.damaged(&chunk, "the page index does not fit the pages".to_string()));
            }
            let (bytes, held) = loader.page(&chunk, offset, &header, ahead)?;
            self.index += 1;
            self.row = end;
            let body = Body::Raw { offset, bytes };
            return Ok(Some(Loaded { row, rows, whole: true, ends_row: true, values: header.values, body, held }));
        }
        loop {
            if self.offset >= chunk.end {
                return Ok(None);
            }
            let header = loader.header(&chunk, self.offset)?;
            let length = (header.header_bytes + header.compressed_bytes) as u64;
            match header.kind {
                PageKind::Data | PageKind::DataV2 => {}
                // A reader would skip these too.
                PageKind::Other => {
                    self.offset += length;
                    continue;
                }
                PageKind::Dictionary => {
                    return Err(loader.damaged(&chunk, "a dictionary is not where it should be".to_string()));
                }
            }
            let offset = self.offset;
            let row = self.row;
            let (bytes, mut held) = loader.page(&chunk, offset, &header, ahead)?;
            let (rows, whole, ends_row, body) = if !chunk.nested {
                (self.rows_of(loader, &header)?, true, true, Body::Raw { offset, bytes })
            } else if let Some(rows) = header.rows {
                // Pages of version 2 begin and end with rows.
                (rows, true, true, Body::Raw { offset, bytes })
            } else {
                // How many rows begin in it is known only once it is decompressed.
                if !header.levels_are_runs {
                    return Err(loader.damaged(&chunk, "its levels are packed in a way of old".to_string()));
                }
                let page = loader.decode(&chunk, offset, bytes)?;
                held.shrink_to(chunk.page_bytes(&PageHeader {
                    compressed_bytes: 0,
                    header_bytes: 0,
                    ..header.clone()
                }));
                let width = chunk.meta.column_descr().max_rep_level();
                let found = first_levels(page.buffer(), width as u16, header.values);
                let (rows, whole) = found.ok_or_else(|| {
                    loader.damaged(&chunk, "the repetition levels of a page are not all there".to_string())
                })?;
                (rows, whole, false, Body::Decoded(page))
            };
            if rows > chunk.rows.saturating_sub(row) {
                return Err(loader.damaged(&chunk, format!("its pages have more than {} rows", chunk.rows)));
            }
            self.offset += length;
            self.row += rows;
            return Ok(Some(Loaded { row, rows, whole, ends_row, values: header.values, body, held }));
        }
    }
}

/// Bytes of a dictionary's values beside their page: views, or numbers, or copies of texts.
pub(crate) fn decoded_dictionary_bytes(chunk: &Chunk, header: &PageHeader) -> usize {
    let width = match chunk.meta.column_type() {
        parquet::basic::Type::INT32 | parquet::basic::Type::FLOAT => 4,
        parquet::basic::Type::INT64 | parquet::basic::Type::DOUBLE => 8,
        _ => 16,
    };
    let copied = if chunk.keeps_dictionary { header.uncompressed_bytes } else { 0 };
    usize::try_from(header.values).unwrap_or(usize::MAX).saturating_mul(width).saturating_add(copied)
}

impl Loader {
    fn file(&self) -> &File {
        &self.table.files[self.index]
    }

    /// Fills `buffer` from `offset`, if the file still is what it was.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Stop> {
        let read = read_at(&self.handle, &self.file().path, offset, buffer);
        read.and_then(|()| self.file().check(&self.handle)).map_err(Stop::Failed)
    }

    pub(crate) fn damaged(&self, chunk: &Chunk, reason: String) -> Stop {
        Stop::Failed(
            ParquetFileError::Damaged {
                file: self.file().path.clone(),
                row_group: chunk.row_group,
                column: Some(chunk.name.clone()),
                reason,
            }
            .into(),
        )
    }

    fn short(&self, chunk: &Chunk, bytes: usize) -> Stop {
        Stop::Memory { bytes, column: chunk.name.clone() }
    }

    /// The header of the page at `offset`, which lies in the chunk with all its bytes.
    pub(crate) fn header(&self, chunk: &Chunk, offset: u64) -> Result<PageHeader, Stop> {
        let rest = chunk.end.saturating_sub(offset);
        let mut small = [0; HEADER_BYTES[0] as usize];
        for bytes in HEADER_BYTES {
            let length = rest.min(bytes) as usize;
            let parsed = if length <= small.len() {
                let buffer = &mut small[..length];
                self.read(offset, buffer)?;
                PageHeader::parse(buffer)
            } else {
                let _held = self.pot.take(length).ok_or_else(|| self.short(chunk, length))?;
                let mut buffer = vec![0; length];
                self.read(offset, &mut buffer)?;
                PageHeader::parse(&buffer)
            };
            match parsed {
                Ok(header) if (header.header_bytes + header.compressed_bytes) as u64 > rest => {
                    return Err(self.damaged(chunk, "a page goes on behind the end of its column chunk".to_string()));
                }
                Ok(header) => return Ok(header),
                Err(HeaderError::Malformed(reason)) => {
                    return Err(self.damaged(chunk, format!("a page's header cannot be read: {reason}")));
                }
                Err(HeaderError::Truncated) if length as u64 == rest => break,
                Err(HeaderError::Truncated) => {}
            }
        }
        Err(self.damaged(chunk, "a page's header does not end".to_string()))
    }

    /// Reads a page, header included, with memory for decompressing it.
    fn page(&self, chunk: &Chunk, offset: u64, header: &PageHeader, ahead: bool) -> Result<(Bytes, Held), Stop> {
        let bytes = chunk.page_bytes(header);
        let held = if ahead { self.pot.take_ahead(bytes) } else { self.pot.take(bytes) };
        let held = held.ok_or_else(|| self.short(chunk, bytes))?;
        let mut buffer = vec![0; header.header_bytes + header.compressed_bytes];
        self.read(offset, &mut buffer)?;
        Counts::add(&self.counts.pages_read, 1);
        Counts::add(&self.counts.bytes_read, buffer.len() as u64);
        Ok((Bytes::from(buffer), held))
    }

    fn decode(&self, chunk: &Chunk, offset: u64, bytes: Bytes) -> Result<Page, Stop> {
        let decoded = guarded(|| Decoder::default().decode(&chunk.meta, offset, chunk.end, bytes));
        decoded.map_err(|reason| self.damaged(chunk, reason))
    }
}
