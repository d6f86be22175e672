//! Page headers: what a page is and how large, read before the page is decoded.
//!
//! The bytes are of a file and trusted in nothing: every length is checked, and nesting is bounded.

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageKind {
    Data,
    DataV2,
    Dictionary,
    /// Anything else, which readers skip.
    Other,
}

/// The header of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) kind: PageKind,
    /// Bytes of the header itself.
    pub(crate) header_bytes: usize,
    /// Bytes of the page once decompressed.
    pub(crate) uncompressed_bytes: usize,
    /// Bytes of the page behind its header.
    pub(crate) compressed_bytes: usize,
    /// Values in it, nulls included.
    pub(crate) values: u64,
    /// Rows in it, where the header tells.
    pub(crate) rows: Option<u64>,
    /// Repetition levels are run-length encoded, as all writers of today do it.
    pub(crate) levels_are_runs: bool,
}

/// Why no header could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It goes on behind the bytes that were given.
    Truncated,
    /// It is no page header.
    Malformed(&'static str),
}

type Parsed<T> = Result<T, HeaderError>;

/// Structs within structs that are skipped at the most.
const MAX_DEPTH: usize = 16;

impl PageHeader {
    /// Reads the header that `bytes` begin with.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut input = Input { bytes, at: 0 };
        let (mut kind, mut uncompressed, mut compressed) = (None, None, None);
        let (mut values, mut rows, mut levels_are_runs) = (None, None, true);
        let mut last = 0;
        while let Some((id, wire)) = input.field(&mut last)? {
            match (id, wire) {
                (1, I32) => {
                    kind = Some(match input.int()? {
                        0 => PageKind::Data,
                        2 => PageKind::Dictionary,
                        3 => PageKind::DataV2,
                        _ => PageKind::Other,
                    });
                }
                (2, I32) => uncompressed = Some(input.length()?),
                (3, I32) => compressed = Some(input.length()?),
                // Data page, dictionary page, and data page of version 2: the number of values is always first.
                (5 | 7 | 8, STRUCT) => {
                    let mut last = 0;
                    while let Some((inner, wire)) = input.field(&mut last)? {
                        match (inner, wire) {
                            (1, I32) => values = Some(input.length()? as u64),
                            (3, I32) if id == 8 => rows = Some(input.length()? as u64),
                            (4, I32) if id == 5 => levels_are_runs = input.int()? == RLE,
                            _ => input.skip(wire, MAX_DEPTH)?,
                        }
                    }
                }
                _ => input.skip(wire, MAX_DEPTH)?,
            }
        }
        let missing = |what| HeaderError::Malformed(what);
        let kind = kind.ok_or(missing("it has no type"))?;
        if kind != PageKind::Other && values.is_none() {
            return Err(missing("it has no number of values"));
        }
        if kind == PageKind::DataV2 && rows.is_none() {
            return Err(missing("it has no number of rows"));
        }
        Ok(Self {
            kind,
            header_bytes: input.at,
            uncompressed_bytes: uncompressed.ok_or(missing("it has no size"))?,
            compressed_bytes: compressed.ok_or(missing("it has no compressed size"))?,
            values: values.unwrap_or(0),
            rows,
            levels_are_runs,
        })
    }
}

/// Bytes of a bloom filter and its header, by the header that `bytes` begin with.
pub(crate) fn bloom_bytes(bytes: &[u8]) -> Option<usize> {
    let mut input = Input { bytes, at: 0 };
    let first = input.field(&mut 0).ok()??;
    (first == (1, I32)).then(|| input.length().ok()).flatten()?.checked_add(bytes.len())
}

/// The encoding of levels as runs.
const RLE: i64 = 3;

/// Types of Thrift's compact protocol.
const I32: u8 = 5;
const STRUCT: u8 = 12;

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Parsed<u8> {
        let byte = *self.bytes.get(self.at).ok_or(HeaderError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn unsigned(&mut self) -> Parsed<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HeaderError::Malformed("a number in it is too long"))
    }

    fn int(&mut self) -> Parsed<i64> {
        let raw = self.unsigned()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A length or a number of things.
    fn length(&mut self) -> Parsed<usize> {
        let value = self.int()?;
        let value = i32::try_from(value).ok().and_then(|value| usize::try_from(value).ok());
        value.ok_or(HeaderError::Malformed("a length in it is negative or too large"))
    }

    /// The next field's number and type; `None` behind the last one.
    fn field(&mut self, last: &mut i64) -> Parsed<Option<(i64, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let id = match head >> 4 {
            0 => self.int()?,
            delta => last.saturating_add(i64::from(delta)),
        };
        *last = id;
        Ok(Some((id, head & 0x0f)))
    }

    fn advance(&mut self, bytes: u64) -> Parsed<()> {
        let bytes = usize::try_from(bytes).map_err(|_| HeaderError::Malformed("a length in it is too large"))?;
        self.at = self.at.checked_add(bytes).ok_or(HeaderError::Malformed("a length in it is too large"))?;
        if self.at > self.bytes.len() { Err(HeaderError::Truncated) } else { Ok(()) }
    }

    fn skip(&mut self, wire: u8, depth: usize) -> Parsed<()> {
        let depth = depth.checked_sub(1).ok_or(HeaderError::Malformed("it is nested too deeply"))?;
        match wire {
            // A boolean's value is its type.
            1 | 2 => Ok(()),
            3 => self.advance(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let length = self.unsigned()?;
                self.advance(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.unsigned()?,
                    count => u64::from(count),
                };
                for _ in 0..count {
                    match head & 0x0f {
                        1 | 2 => self.advance(1)?,
                        wire => self.skip(wire, depth)?,
                    }
                }
                Ok(())
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, wire)) = self.field(&mut last)? {
                    self.skip(wire, depth)?;
                }
                Ok(())
            }
            _ => Err(HeaderError::Malformed("a field in it has no known type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// type 0, uncompressed 100, compressed 50, data page of 7 values, PLAIN, RLE, RLE, with statistics.
    const DATA: [u8; 23] =
        [0x15, 0, 0x15, 200, 1, 0x15, 100, 0x2c, 0x15, 14, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c, 0x28, 1, 65, 0, 0, 0];

    #[test]
    fn a_header_tells_kind_and_sizes() {
        let header = PageHeader::parse(&DATA).expect("a header");
        assert_eq!((header.kind, header.header_bytes), (PageKind::Data, DATA.len()));
        assert_eq!((header.uncompressed_bytes, header.compressed_bytes, header.values), (100, 50, 7));
        assert!(header.rows.is_none() && header.levels_are_runs);
    }

    #[test]
    fn a_header_that_is_cut_or_broken_is_an_error() {
        for length in 0..DATA.len() {
            assert_eq!(PageHeader::parse(&DATA[..length]), Err(HeaderError::Truncated), "{length}");
        }
        for at in 0..DATA.len() {
            for bit in 0..8 {
                let mut bytes = DATA;
                bytes[at] ^= 1 << bit;
                // Any answer will do, but no panic and no endless loop.
                let _ = PageHeader::parse(&bytes);
            }
        }
        assert!(matches!(PageHeader::parse(&[0]), Err(HeaderError::Malformed(_))));
        let deep: Vec<u8> = std::iter::repeat_n(0x1c, 100).collect();
        assert!(matches!(PageHeader::parse(&deep), Err(HeaderError::Malformed(_))));
    }
}
