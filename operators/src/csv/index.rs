//! Finds the fields of the next records: one array of field ends, filled 64 bytes at a time.
//!
//! Row `r`, column `c` of an [`Index`] is the text between `ends[r * stride + c]` and
//! `ends[r * stride + c + 1]`. Where no quote is near, one entry is both the end of a record and what lies
//! before the next (`stride` = columns); otherwise each record has its own entry in front (`stride` =
//! columns + 1). The top bit of an entry marks a newline.

use memchr::memchr2;

use super::options::Dialect;
use super::simd::{Level, NEWLINE, SLACK_ENTRIES, Search};

/// Bytes behind the last one of interest that every buffer has, so that loads of 64 bytes stay inside.
pub(crate) const PADDING_BYTES: usize = 64;

/// Entries of an index, unless one record has more.
const ENTRIES: usize = 8192;

/// Input that one index covers, unless one record is longer: what fits in the first-level cache.
const CHUNK_BYTES: usize = 32 * 1024;

/// Heap bytes of an [`Index`] over records of `columns` columns.
pub(crate) fn index_bytes(columns: usize) -> usize {
    4 * (ENTRIES.max(columns + 1) + SLACK_ENTRIES + 2)
}

/// The fields of some consecutive records.
#[derive(Debug)]
pub(crate) struct Index {
    dialect: Dialect,
    columns: usize,
    ends: Vec<u32>,
    stride: usize,
    rows: usize,
    /// Some field may be quoted.
    quoted: bool,
    level: Level,
}

/// How filling an index ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Rows were found; go on here.
    Rows {
        /// Where the first record behind them begins.
        next: usize,
    },
    /// No more rows: all that is left are blank lines.
    Nothing,
    /// The first record is not complete.
    Incomplete,
    /// The first record has another number of fields.
    Fields {
        /// Where it begins.
        record: usize,
        /// Its number of fields.
        found: usize,
    },
    /// The input ends within a quoted field of the first record.
    Unclosed {
        /// Where the record begins.
        record: usize,
    },
}

impl Index {
    pub(crate) fn new(dialect: Dialect, columns: usize) -> Self {
        let ends = vec![0; ENTRIES.max(columns + 1) + SLACK_ENTRIES + 2];
        Self { dialect, columns, ends, stride: columns, rows: 0, quoted: false, level: Level::detect() }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a field may begin with a quote.
    pub(crate) fn quoted(&self) -> bool {
        self.quoted
    }

    /// Start and end of a field; quotes are inside, and so is the `\r` of a line end in the last column.
    #[inline(always)]
    pub(crate) fn raw(&self, row: usize, column: usize) -> (usize, usize) {
        let at = row * self.stride + column;
        let start = self.ends[at].wrapping_add(1) & !NEWLINE;
        let end = self.ends[at + 1] & !NEWLINE;
        (start as usize, end as usize)
    }

    /// Where a row begins.
    pub(crate) fn record(&self, row: usize) -> usize {
        self.raw(row, 0).0
    }

    /// Finds up to `max_rows` records of `bytes[from..limit]`, where a record begins at `from`. `eof` says
    /// that nothing follows `limit`. `bytes` goes on for [`PADDING_BYTES`] behind `limit`.
    pub(crate) fn fill(&mut self, bytes: &[u8], from: usize, limit: usize, eof: bool, max_rows: usize) -> Filled {
        self.rows = 0;
        let chunk = limit.min(from + CHUNK_BYTES);
        if !self.dialect.has_quotes(&bytes[from..chunk]) {
            self.fill_plain(bytes, from, chunk, max_rows);
            if self.rows > 0 {
                return Filled::Rows { next: (self.ends[self.rows * self.columns] & !NEWLINE) as usize + 1 };
            }
        }
        self.fill_any(bytes, from, limit, eof, max_rows)
    }

    /// Every newline ends a record and every delimiter a field. Stops before the first record that is not
    /// as it should be.
    fn fill_plain(&mut self, bytes: &[u8], from: usize, limit: usize, max_rows: usize) {
        self.stride = self.columns;
        self.quoted = false;
        let full = max_rows.saturating_mul(self.columns).min(self.ends.len() - SLACK_ENTRIES - 2);
        let (first, ends) = self.ends[..=full + SLACK_ENTRIES].split_at_mut(1);
        first[0] = (from as u32).wrapping_sub(1);
        let count = Search { bytes, from, limit, delimiter: self.dialect.delimiter, ends }.run(self.level);
        let rows = (count / self.columns).min(max_rows);
        self.rows = self.regular_rows(bytes, rows);
    }

    /// The number of rows before the first whose newline is not behind its last column.
    fn regular_rows(&self, bytes: &[u8], rows: usize) -> usize {
        let entries = &self.ends[1..=rows * self.columns];
        if self.columns == 1 {
            // Blank lines are no rows, and only here they look like one.
            let blank = |row: &usize| {
                let (start, end) = self.raw(*row, 0);
                start == end || (start + 1 == end && bytes[start] == b'\r')
            };
            let newlines = entries.iter().take_while(|entry| **entry >= NEWLINE).count();
            return (0..newlines).find(blank).unwrap_or(newlines);
        }
        let newlines: u32 = entries.iter().map(|entry| entry >> 31).sum();
        let last_of_row = entries.chunks_exact(self.columns).map(|row| row[self.columns - 1]);
        if newlines as usize == rows && last_of_row.fold(NEWLINE, |all, entry| all & entry) == NEWLINE {
            return rows;
        }
        let regular = |row: &&[u32]| row.iter().position(|entry| *entry >= NEWLINE) == Some(self.columns - 1);
        entries.chunks_exact(self.columns).take_while(regular).count()
    }

    /// As [`Index::fill`], record by record: quotes, blank lines and a missing last newline included.
    fn fill_any(&mut self, bytes: &[u8], from: usize, limit: usize, eof: bool, max_rows: usize) -> Filled {
        self.stride = self.columns + 1;
        self.quoted = true;
        let bytes = &bytes[..limit];
        let max_rows = max_rows.min(((self.ends.len() - SLACK_ENTRIES - 2) / self.stride).max(1));
        let mut at = from;
        loop {
            at = skip_blank_lines(bytes, at, eof);
            let stop = if at >= limit {
                Filled::Nothing
            } else if self.rows == max_rows || (self.rows > 0 && at >= from + CHUNK_BYTES) {
                return Filled::Rows { next: at };
            } else {
                match self.add_record(bytes, at, eof) {
                    Ok(next) => {
                        self.rows += 1;
                        at = next;
                        continue;
                    }
                    Err(stop) => stop,
                }
            };
            // What is wrong is told once the rows before it have been taken.
            return if self.rows > 0 { Filled::Rows { next: at } } else { stop };
        }
    }

    fn add_record(&mut self, bytes: &[u8], record: usize, eof: bool) -> Result<usize, Filled> {
        let base = self.rows * self.stride;
        self.ends[base] = (record as u32).wrapping_sub(1);
        let mut fields = 0;
        let mut at = record;
        loop {
            let text = if self.dialect.quote.is_some() && bytes.get(at) == self.dialect.quote.as_ref() {
                match self.dialect.closing_quote(bytes, at) {
                    // At the very end of what is there the next byte may double the quote.
                    Some(close) if close + 1 < bytes.len() || eof => close + 1,
                    None if eof => return Err(Filled::Unclosed { record }),
                    _ => return Err(Filled::Incomplete),
                }
            } else {
                at
            };
            let end = match memchr2(self.dialect.delimiter, b'\n', &bytes[text..]) {
                Some(distance) => text + distance,
                None if eof => bytes.len(),
                None => return Err(Filled::Incomplete),
            };
            fields += 1;
            let last = bytes.get(end) != Some(&self.dialect.delimiter);
            if fields <= self.columns {
                self.ends[base + fields] = end as u32 | if last { NEWLINE } else { 0 };
            }
            at = end + 1;
            if last {
                break;
            }
        }
        if fields == self.columns { Ok(at.min(bytes.len())) } else { Err(Filled::Fields { record, found: fields }) }
    }
}

/// The first byte behind line ends at `at`. A `\r` at the end of what is there waits for what follows it.
pub(crate) fn skip_blank_lines(bytes: &[u8], mut at: usize, eof: bool) -> usize {
    loop {
        at = match bytes.get(at..) {
            Some([b'\n', ..]) => at + 1,
            Some([b'\r', b'\n', ..]) => at + 2,
            Some([b'\r']) if eof => at + 1,
            _ => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str, columns: usize, eof: bool) -> (Vec<Vec<String>>, Filled) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(text.len() + PADDING_BYTES, b',');
        let mut index = Index::new(Dialect { delimiter: b',', quote: Some(b'"') }, columns);
        let (mut rows, mut from) = (vec![], 0);
        loop {
            match index.fill(&bytes, from, text.len(), eof, 1000) {
                Filled::Rows { next } => from = next,
                end => return (rows, end),
            }
            for row in 0..index.rows() {
                let field = |column| {
                    let (start, end) = index.raw(row, column);
                    text[start..end].to_string()
                };
                rows.push((0..columns).map(field).collect());
            }
        }
    }

    #[test]
    fn blank_lines_are_no_rows_and_a_missing_newline_is_no_loss() {
        let (rows, end) = fields("\n\r\na,b\r\n\n\nc,d\n\ne,f", 2, true);
        assert_eq!(rows, [["a", "b\r"], ["c", "d"], ["e", "f"]]);
        assert_eq!(end, Filled::Nothing);
        let (rows, end) = fields("a\n\n\r\nb\nc", 1, true);
        assert_eq!(rows, [["a"], ["b"], ["c"]]);
        assert_eq!(end, Filled::Nothing);
        let (rows, end) = fields("a,b\nc,d", 2, false);
        assert_eq!((rows.len(), end), (1, Filled::Incomplete));
    }

    #[test]
    fn a_record_with_another_number_of_fields_is_named_after_the_rows_before_it() {
        let (rows, end) = fields("a,b\nc,d\ne\nf,g\n", 2, true);
        assert_eq!((rows.len(), end), (2, Filled::Fields { record: 8, found: 1 }));
        let (rows, end) = fields("a,b\nc,\"d\",e,f\n", 2, true);
        assert_eq!((rows.len(), end), (1, Filled::Fields { record: 4, found: 4 }));
    }
}
