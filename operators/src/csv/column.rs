//! Columns that grow by the fields of one [`Chunk`] after another, one type each.
//!
//! A value that does not fit is told by its row; the caller knows where the row is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, LargeStringArray, NullArray,
    OffsetSizeTrait, PrimitiveArray, StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::kernels::cast_utils::parse_decimal;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, concat};
use arrow::datatypes::*;
use arrow::error::ArrowError;

use super::index::{Index, PADDING_BYTES};
use super::number::Number;
use super::options::Dialect;
use super::simd::{Level, Run};
use super::text::{Text, View};

/// Spellings of null.
#[derive(Debug, Clone)]
pub(crate) struct Nulls {
    /// The empty field is null, in columns of strings too.
    pub(crate) empty: bool,
    /// Other spellings.
    pub(crate) words: Vec<Vec<u8>>,
}

impl Nulls {
    pub(crate) fn new(spellings: &[String]) -> Self {
        let words = spellings.iter().filter(|s| !s.is_empty()).map(|s| s.as_bytes().to_vec()).collect();
        Self { empty: spellings.iter().any(String::is_empty), words }
    }

    #[inline(always)]
    pub(crate) fn contains(&self, text: &[u8]) -> bool {
        if text.is_empty() { self.empty } else { self.words.iter().any(|word| word == text) }
    }
}

/// The indexed rows that columns take their fields from.
pub(crate) struct Chunk<'a> {
    /// The block, with padding behind.
    pub(crate) bytes: &'a [u8],
    pub(crate) index: &'a Index,
    pub(crate) dialect: Dialect,
    pub(crate) nulls: &'a Nulls,
    /// All rows of the index are valid UTF-8.
    pub(crate) utf8: bool,
    /// Number of columns of the file.
    pub(crate) columns: usize,
}

/// A field without its quotes.
pub(crate) enum Field<'s> {
    /// In the block, from start to end.
    Plain(usize, usize),
    /// Was quoted; in the block, from start to end.
    Quoted(usize, usize),
    /// Was quoted and held quotes; padded, and its length.
    Unescaped(&'s [u8], usize),
}

impl Chunk<'_> {
    /// Start and end of a field, quotes included.
    #[inline(always)]
    pub(crate) fn raw(&self, row: usize, column: usize) -> (usize, usize) {
        let (start, mut end) = self.index.raw(row, column);
        if column + 1 == self.columns && end > start && self.bytes[end - 1] == b'\r' {
            end -= 1;
        }
        (start, end)
    }

    /// A field without its quotes. `scratch` is overwritten.
    pub(crate) fn field<'s>(&self, row: usize, column: usize, scratch: &'s mut Vec<u8>) -> Field<'s> {
        let (start, end) = self.raw(row, column);
        if start == end || Some(self.bytes[start]) != self.dialect.quote || !self.index.quoted() {
            return Field::Plain(start, end);
        }
        let quote = self.bytes[start];
        let inner = &self.bytes[start + 1..end];
        if inner.last() == Some(&quote) && memchr::memchr(quote, inner) == Some(inner.len() - 1) {
            return Field::Quoted(start + 1, end - 1);
        }
        // Up to the closing quote a doubled quote is one; what follows it is text as it stands.
        scratch.clear();
        let mut at = 0;
        while let Some(distance) = memchr::memchr(quote, &inner[at..]) {
            let found = at + distance;
            scratch.extend_from_slice(&inner[at..found]);
            at = found + 1;
            if inner.get(at) != Some(&quote) {
                break;
            }
            scratch.push(quote);
            at += 1;
        }
        scratch.extend_from_slice(&inner[at..]);
        let length = scratch.len();
        scratch.resize(length + PADDING_BYTES, 0);
        Field::Unescaped(scratch, length)
    }
}

/// Why a field cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is no value of the column's type.
    Value,
    /// It is not UTF-8.
    Utf8,
    /// It is null and the column is declared never to be.
    Null,
}

/// The first row of a chunk whose field cannot be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrong {
    pub(crate) row: usize,
    pub(crate) reason: Reason,
}

impl Wrong {
    pub(crate) fn at(row: usize, reason: Reason) -> Self {
        Self { row, reason }
    }
}

/// A column as it grows.
pub(crate) trait Column: Send {
    /// Takes the fields of the first `rows` rows.
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong>;

    /// Makes room for `rows` more rows, whose long values have about `long_bytes` together.
    fn reserve(&mut self, rows: usize, long_bytes: usize);

    /// Bytes held beside those that each row has.
    fn long_bytes(&self) -> usize {
        0
    }

    /// The column so far; it begins anew.
    ///
    /// # Errors
    ///
    /// The column is larger than its type can be.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// An empty column for `field`.
pub(crate) fn column(field: &arrow::datatypes::Field) -> Result<Box<dyn Column>, ArrowError> {
    let nullable = field.is_nullable();
    macro_rules! numbers {
        ($($variant:pat => $kind:ty),* $(,)?) => {
            match field.data_type() {
                $($variant => return Ok(Box::new(Numbers::<$kind>::new(nullable))),)*
                other => other,
            }
        };
    }
    let other = numbers! {
        DataType::Int8 => Int8Type, DataType::Int16 => Int16Type, DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type, DataType::UInt8 => UInt8Type, DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type, DataType::UInt64 => UInt64Type, DataType::Float16 => Float16Type,
        DataType::Float32 => Float32Type, DataType::Float64 => Float64Type,
        DataType::Date32 => Date32Type, DataType::Date64 => Date64Type,
        DataType::Time32(TimeUnit::Second) => Time32SecondType,
        DataType::Time32(TimeUnit::Millisecond) => Time32MillisecondType,
        DataType::Time64(TimeUnit::Microsecond) => Time64MicrosecondType,
        DataType::Time64(TimeUnit::Nanosecond) => Time64NanosecondType,
        DataType::Timestamp(TimeUnit::Second, None) => TimestampSecondType,
        DataType::Timestamp(TimeUnit::Millisecond, None) => TimestampMillisecondType,
        DataType::Timestamp(TimeUnit::Microsecond, None) => TimestampMicrosecondType,
        DataType::Timestamp(TimeUnit::Nanosecond, None) => TimestampNanosecondType,
    };
    Ok(match other {
        DataType::Boolean => {
            Box::new(Booleans { values: BooleanBufferBuilder::new(0), nulls: NullMask::new(nullable) })
        }
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            Box::new(Parsed::<Decimal128Type> {
                values: vec![],
                nulls: NullMask::new(nullable),
                kind: other.clone(),
                parse: Box::new(move |text| parse_decimal::<Decimal128Type>(text, precision, scale).ok()),
            })
        }
        DataType::Utf8View => Box::new(View::new(nullable)),
        DataType::Utf8 => Box::new(Text::<i32>::new(nullable)),
        DataType::LargeUtf8 => Box::new(Text::<i64>::new(nullable)),
        DataType::Null => Box::new(Empty { rows: 0 }),
        kind if can_cast_types(&DataType::Utf8, kind) => {
            Box::new(Cast { text: Text::new(true), kind: kind.clone(), nullable, parts: vec![], bytes: 0 })
        }
        kind => {
            return Err(ArrowError::NotYetImplemented(format!(
                "column `{}`: a CSV field cannot be read as {kind}; read it as Utf8View and convert it",
                field.name()
            )));
        }
    })
}

/// Bytes that each row of a column of `kind` takes.
pub(crate) fn row_bytes(kind: &DataType) -> usize {
    match kind {
        DataType::Utf8View => 16,
        DataType::Utf8 => 4,
        DataType::LargeUtf8 => 8,
        DataType::Boolean | DataType::Null => 1,
        kind => kind.primitive_width().unwrap_or(16),
    }
}

/// The nulls of a column: nothing until the first one.
#[derive(Debug)]
pub(crate) struct NullMask {
    nullable: bool,
    /// A set bit is a null; rows behind the last word are valid.
    words: Vec<u64>,
}

impl NullMask {
    pub(crate) fn new(nullable: bool) -> Self {
        Self { nullable, words: vec![] }
    }

    /// Row `at` of the column, row `row` of the chunk, is null.
    #[inline]
    pub(crate) fn set(&mut self, at: usize, row: usize) -> Result<(), Wrong> {
        if !self.nullable {
            return Err(Wrong::at(row, Reason::Null));
        }
        if self.words.len() <= at / 64 {
            self.words.resize(at / 64 + 1, 0);
        }
        self.words[at / 64] |= 1 << (at % 64);
        Ok(())
    }

    pub(crate) fn finish(&mut self, rows: usize) -> Option<NullBuffer> {
        if self.words.is_empty() {
            return None;
        }
        let mut words = std::mem::take(&mut self.words);
        words.resize(rows.div_ceil(64), 0);
        words.iter_mut().for_each(|word| *word = (!*word).to_le());
        Some(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(words), 0, rows)))
    }
}

/// What is claimed as the batch's should not be much more than it.
pub(crate) fn trim<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() / 5 * 4 > values.len() {
        values.shrink_to_fit();
    }
    values
}

/// Rows that are parsed one by one where several at a time do not go on.
const MIN_PAUSE_ROWS: usize = 4;

/// The same where that happens again and again.
const MAX_PAUSE_ROWS: usize = 512;

struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullMask,
    scratch: Vec<u8>,
    level: Level,
}

impl<T: Number> Numbers<T> {
    fn new(nullable: bool) -> Self {
        Self { values: vec![], nulls: NullMask::new(nullable), scratch: vec![], level: Level::detect() }
    }

    /// A field that is null, quoted, or wrong.
    #[cold]
    #[inline(never)]
    fn push_unusual(&mut self, chunk: &Chunk<'_>, column: usize, row: usize) -> Result<(), Wrong> {
        let (bytes, start, end) = match chunk.field(row, column, &mut self.scratch) {
            Field::Plain(start, end) if start == end || chunk.nulls.contains(&chunk.bytes[start..end]) => {
                self.nulls.set(self.values.len(), row)?;
                self.values.push(T::Native::default());
                return Ok(());
            }
            Field::Plain(start, end) => (chunk.bytes, start, end),
            Field::Quoted(start, end) if start == end => {
                self.nulls.set(self.values.len(), row)?;
                self.values.push(T::Native::default());
                return Ok(());
            }
            Field::Quoted(start, end) => (chunk.bytes, start, end),
            Field::Unescaped(bytes, length) => (bytes, 0, length),
        };
        self.values.push(T::parse_field(bytes, start, end).ok_or(Wrong::at(row, Reason::Value))?);
        Ok(())
    }
}

impl<T: Number> Column for Numbers<T> {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        self.values.reserve(rows);
        // A spelling of null may be a number, so it comes first.
        let words = !chunk.nulls.words.is_empty();
        let mut row = 0;
        // Where runs are short, fewer of them are tried.
        let mut pause = MIN_PAUSE_ROWS;
        while row < rows {
            if !words {
                let run = T::parse_run(self.level, Run { chunk, column, row, rows }, &mut self.values);
                row += run;
                pause = if run > pause { MIN_PAUSE_ROWS } else { (2 * pause).min(MAX_PAUSE_ROWS) };
            }
            let until = rows.min(row + pause);
            while row < until {
                let (start, end) = chunk.raw(row, column);
                if start < end
                    && !words
                    && let Some(value) = T::parse_field(chunk.bytes, start, end)
                {
                    self.values.push(value);
                } else {
                    self.push_unusual(chunk, column, row)?;
                }
                row += 1;
            }
        }
        Ok(())
    }

    fn reserve(&mut self, rows: usize, _long_bytes: usize) {
        self.values.reserve_exact(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = trim(std::mem::take(&mut self.values));
        let nulls = self.nulls.finish(values.len());
        Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?))
    }
}

/// The text of a field that is not null, for parsers that want one.
pub(crate) fn text_of<'a>(
    chunk: &Chunk<'a>,
    row: usize,
    column: usize,
    scratch: &'a mut Vec<u8>,
) -> Result<Option<&'a str>, Wrong> {
    let bytes = match chunk.field(row, column, scratch) {
        Field::Plain(start, end) if start == end || chunk.nulls.contains(&chunk.bytes[start..end]) => return Ok(None),
        Field::Quoted(start, end) if start == end => return Ok(None),
        Field::Plain(start, end) | Field::Quoted(start, end) => &chunk.bytes[start..end],
        Field::Unescaped(bytes, length) => &bytes[..length],
    };
    simdutf8::basic::from_utf8(bytes).map(Some).map_err(|_| Wrong::at(row, Reason::Utf8))
}

struct Booleans {
    values: BooleanBufferBuilder,
    nulls: NullMask,
}

impl Column for Booleans {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        let mut scratch = vec![];
        for row in 0..rows {
            let value = match text_of(chunk, row, column, &mut scratch)? {
                Some(text) if text.eq_ignore_ascii_case("true") => true,
                Some(text) if text.eq_ignore_ascii_case("false") => false,
                Some(_) => return Err(Wrong::at(row, Reason::Value)),
                None => {
                    self.nulls.set(self.values.len(), row)?;
                    false
                }
            };
            self.values.append(value);
        }
        Ok(())
    }

    fn reserve(&mut self, rows: usize, _long_bytes: usize) {
        self.values.reserve(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = self.values.finish();
        let nulls = self.nulls.finish(values.len());
        Ok(Arc::new(BooleanArray::new(values, nulls)))
    }
}

type ParseText<V> = Box<dyn Fn(&str) -> Option<V> + Send>;

/// Values of a type that needs more than the text to be parsed.
struct Parsed<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullMask,
    kind: DataType,
    parse: ParseText<T::Native>,
}

impl<T: ArrowPrimitiveType> Column for Parsed<T> {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        let mut scratch = vec![];
        for row in 0..rows {
            let value = match text_of(chunk, row, column, &mut scratch)? {
                Some(text) => (self.parse)(text).ok_or(Wrong::at(row, Reason::Value))?,
                None => {
                    self.nulls.set(self.values.len(), row)?;
                    T::Native::default()
                }
            };
            self.values.push(value);
        }
        Ok(())
    }

    fn reserve(&mut self, rows: usize, _long_bytes: usize) {
        self.values.reserve_exact(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = trim(std::mem::take(&mut self.values));
        let nulls = self.nulls.finish(values.len());
        Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?.with_data_type(self.kind.clone())))
    }
}

/// A column of nothing.
struct Empty {
    rows: usize,
}

impl Column for Empty {
    fn push(&mut self, _chunk: &Chunk<'_>, _column: usize, rows: usize) -> Result<(), Wrong> {
        self.rows += rows;
        Ok(())
    }

    fn reserve(&mut self, _rows: usize, _long_bytes: usize) {}

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(NullArray::new(std::mem::take(&mut self.rows))))
    }
}

/// A rare type: strings that one of arrow's kernels converts, chunk by chunk.
struct Cast {
    text: Text<i32>,
    kind: DataType,
    nullable: bool,
    parts: Vec<ArrayRef>,
    bytes: usize,
}

impl Column for Cast {
    fn push(&mut self, chunk: &Chunk<'_>, column: usize, rows: usize) -> Result<(), Wrong> {
        self.text.push(chunk, column, rows)?;
        let text = self.text.finish().map_err(|_| Wrong::at(0, Reason::Value))?;
        let first = |wrong: &dyn Fn(usize) -> bool| (0..rows).find(|row| wrong(*row));
        if !self.nullable
            && let Some(row) = first(&|row| text.is_null(row))
        {
            return Err(Wrong::at(row, Reason::Null));
        }
        let options = CastOptions { safe: true, ..Default::default() };
        let values = cast_with_options(&text, &self.kind, &options).map_err(|_| Wrong::at(0, Reason::Value))?;
        if let Some(row) = first(&|row| values.is_null(row) && text.is_valid(row)) {
            return Err(Wrong::at(row, Reason::Value));
        }
        self.bytes += values.get_array_memory_size();
        self.parts.push(values);
        Ok(())
    }

    fn reserve(&mut self, _rows: usize, _long_bytes: usize) {}

    fn long_bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.bytes = 0;
        let parts = std::mem::take(&mut self.parts);
        concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }
}

/// Arrays of strings with offsets of one width.
pub(crate) trait Offset: OffsetSizeTrait {
    /// Makes the array.
    fn array(offsets: Vec<Self>, data: Vec<u8>, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError>;
}

macro_rules! offsets {
    ($($width:ty => $array:ty),*) => { $(
        impl Offset for $width {
            fn array(offsets: Vec<Self>, data: Vec<u8>, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
                let offsets = arrow::buffer::OffsetBuffer::new(offsets.into());
                Ok(Arc::new(<$array>::try_new(offsets, Buffer::from_vec(data), nulls)?))
            }
        }
    )* };
}
offsets!(i32 => StringArray, i64 => LargeStringArray);
