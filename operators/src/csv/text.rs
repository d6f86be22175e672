//! Columns of strings, as views and with offsets.
//!
//! Every byte that enters a column has been validated as UTF-8: with its whole chunk, or on its own where
//! the chunk holds something else. Fields are cut at ASCII bytes, so the parts of valid text are valid.
#![allow(unsafe_code)] // Arrow's checked constructor would validate every view once more; see `View::finish`.

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
