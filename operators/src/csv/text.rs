//! Columns of strings, as views and with offsets.
//!
//! Every byte that enters a column has been validated as UTF-8: with its whole chunk, or on its own where
//! the chunk holds something else. Fields are cut at ASCII bytes, so the parts of valid text are valid.
#![allow(unsafe_code, reason = "arrow's checked constructor would validate every view once more: `View::finish`")]

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;

use super::column::{Chunk, Column, Field, NullMask, Offset, Reason, Wrong, trim};
use super::simd::{INLINE_BYTES, short_view};

/// A column of string views: short strings are in the views, long ones in one buffer behind them.
pub(crate) struct View {
    views: Vec<u128>,
    long: Vec<u8>,
    nulls: NullMask,
    scratch: Vec<u8>,
}

impl View {
    pub(crate) fn new(nullable: bool) -> Self {
        Self { views: vec![], long: vec![], nulls: NullMask::new(nullable), scratch: vec![] }
    }

    /// Adds text longer than a view can hold.
    #[inline(never)]
    fn push_long(long: &mut Vec<u8>, text: &[u8]) -> u128 {
        let prefix = u32::from_le_bytes([text[0], text[1], text[2], text[3]]);
        // A batch is cut long before its text has 2 GiB, and one record is smaller than that.
        let offset = long.len() as u32;
        long.extend_from_slice(text);
        u128::from(text.len() as u32) | u128::from(prefix) << 32 | u128::from(offset) << 96
    }

    #[inline(always)]
    fn view(long: &mut Vec<u8>, bytes: &[u8], start: usize, end: usize) -> u128 {
        let length = end - start;
        if length <= INLINE_BYTES {
            short_view(bytes[start..start + 16].try_into().expect("16 bytes"), length)
        } else {
            Self::push_long(long, &bytes[start..end])
        }
    }

    /// One field of a chunk that has quotes, null spellings, or bytes that are no text.
    fn push_checked(&mut self, chunk: &Chunk<'_>, column: usize, row: usize) -> Result<(), Wrong> {
        let (bytes, start, end) = match chunk.field(row, column, &mut self.scratch) {
            Field::Plain(start, end) if chunk.nulls.contains(&chunk.bytes[start..end]) => {
                self.nulls.set(self.views.len(), row)?;
                self.views.push(0);
                return Ok(());
            }
            Field::Plain(start, end) | Field::Quoted(start, end) => (chunk.bytes, start, end),
            Field::Unescaped(bytes, length) => (bytes, 0, length),
        };
        if !chunk.utf8 && simdutf8::basic::from_utf8(&bytes[start..end]).is_err() {
            return Err(Wrong::at(row, Reason::Utf8));
        }
        self.views.push(Self::view(&mut self.long, bytes, start, end));
        Ok(())
    }
}

impl Column for View {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        self.views.reserve(rows);
        if !chunk.utf8 || chunk.index.quoted() || !chunk.nulls.words.is_empty() {
            return (0..rows).try_for_each(|row| self.push_checked(chunk, column, row));
        }
        let Self { views, long, nulls, .. } = self;
        let (before, empty) = (views.len(), chunk.nulls.empty);
        let mut result = Ok(());
        views.extend((0..rows).map(|row| {
            let (start, end) = chunk.raw(row, column);
            if start == end && empty && result.is_ok() {
                result = nulls.set(before + row, row);
            }
            Self::view(long, chunk.bytes, start, end)
        }));
        result
    }

    fn reserve(&mut self, rows: usize, long_bytes: usize) {
        self.views.reserve_exact(rows);
        self.long.reserve_exact(long_bytes);
    }

    fn long_bytes(&self) -> usize {
        self.long.len()
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let views = trim(std::mem::take(&mut self.views));
        let long = trim(std::mem::take(&mut self.long));
        let nulls = self.nulls.finish(views.len());
        let buffers = if long.is_empty() { vec![] } else { vec![Buffer::from_vec(long)] };
        // SAFETY: every view was made by `View::view` of bytes that are valid UTF-8: a short one has its length,
        // its bytes and zeros behind them; a long one has the length, prefix, buffer 0 and offset of text that
        // was appended to `long`, which goes along as buffer 0. A null's view is that of the empty string.
        Ok(Arc::new(unsafe { StringViewArray::new_unchecked(views.into(), buffers, nulls) }))
    }
}

/// A column of strings one behind the other, with offsets.
pub(crate) struct Text<O> {
    offsets: Vec<O>,
    data: Vec<u8>,
    nulls: NullMask,
    scratch: Vec<u8>,
}

impl<O: Offset> Text<O> {
    pub(crate) fn new(nullable: bool) -> Self {
        Self { offsets: vec![], data: vec![], nulls: NullMask::new(nullable), scratch: vec![] }
    }
}

impl<O: Offset> Column for Text<O> {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        self.offsets.reserve(rows + 1);
        if self.offsets.is_empty() {
            self.offsets.push(O::default());
        }
        for row in 0..rows {
            let text = match chunk.field(row, column, &mut self.scratch) {
                Field::Plain(start, end) if chunk.nulls.contains(&chunk.bytes[start..end]) => {
                    self.nulls.set(self.offsets.len() - 1, row)?;
                    &[]
                }
                Field::Plain(start, end) | Field::Quoted(start, end) => &chunk.bytes[start..end],
                Field::Unescaped(bytes, length) => &bytes[..length],
            };
            if !chunk.utf8 && simdutf8::basic::from_utf8(text).is_err() {
                return Err(Wrong::at(row, Reason::Utf8));
            }
            self.data.extend_from_slice(text);
            self.offsets.push(O::from_usize(self.data.len()).ok_or(Wrong::at(row, Reason::Value))?);
        }
        Ok(())
    }

    fn reserve(&mut self, rows: usize, long_bytes: usize) {
        self.offsets.reserve_exact(rows + 1);
        self.data.reserve_exact(long_bytes);
    }

    fn long_bytes(&self) -> usize {
        self.data.len()
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let mut offsets = trim(std::mem::take(&mut self.offsets));
        if offsets.is_empty() {
            offsets.push(O::default());
        }
        let rows = offsets.len() - 1;
        let nulls = self.nulls.finish(rows);
        O::array(offsets, trim(std::mem::take(&mut self.data)), nulls)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::super::column::Nulls;
    use super::super::index::{Filled, Index, PADDING_BYTES};
    use super::super::options::Dialect;
    use super::*;

    /// What `View::finish` does not have checked: every length around what a view holds, plain, quoted, with quotes
    /// inside, and null.
    #[test]
    fn unchecked_views_are_those_that_arrow_would_have_made() {
        let dialect = Dialect { delimiter: b',', quote: Some(b'"') };
        let text = |length: usize| "a\u{e9}\u{20ac}z".chars().cycle().take(length).collect::<String>();
        // With one spelling of null and no quotes near, whole chunks take another way than single fields.
        for (quoted, spelled) in [(false, false), (false, true), (true, false), (true, true)] {
            let spellings = ["", "null"].map(String::from);
            let nulls = Nulls::new(&spellings[..1 + usize::from(spelled)]);
            let mut lines = String::new();
            let mut expected: Vec<Option<String>> = vec![];
            for length in 0..40 {
                let plain = text(length);
                expected.push(Some(plain.clone()).filter(|text| !text.is_empty()));
                lines += &plain;
                for (written, value) in [
                    ("null".to_string(), (!spelled).then(|| "null".to_string())),
                    (plain.replace('z', "zz"), Some(plain.replace('z', "zz"))),
                ] {
                    expected.push(value.filter(|text| !text.is_empty()));
                    lines += &format!(",{written}");
                }
                if quoted {
                    expected.push(Some(plain.replace('z', "\"")));
                    lines += &format!(",\"{}\"", plain.replace('z', "\"\""));
                }
                lines.push('\n');
            }
            let columns = if quoted { 4 } else { 3 };
            // No byte more than is promised, and what is there must not matter.
            let mut bytes = lines.clone().into_bytes();
            bytes.resize(lines.len() + PADDING_BYTES, b'"');
            let bytes = bytes.into_boxed_slice();
            let mut index = Index::new(dialect, columns);
            let filled = index.fill(&bytes, 0, lines.len(), true, 1000);
            assert_eq!((filled, index.rows()), (Filled::Rows { next: lines.len() }, 40));
            for utf8 in [false, true] {
                let chunk = Chunk { bytes: &bytes, index: &index, dialect, nulls: &nulls, utf8, columns };
                for column in 0..columns {
                    let mut views = View::new(true);
                    assert!(views.push(&chunk, column, index.rows()).is_ok());
                    let found = views.finish().expect("views");
                    found.to_data().validate_full().expect("valid views");
                    let found: Vec<_> = found.as_string_view().iter().map(|text| text.map(String::from)).collect();
                    let expected: Vec<_> = expected.iter().skip(column).step_by(columns).cloned().collect();
                    assert_eq!(found, expected, "column {column}, utf8 {utf8}");
                }
            }
        }
    }
}
