//! Where records begin and end, quotes included: what splits are cut by.
//!
//! A quote is special only as the first byte of a field, as in RFC 4180 and csv-core; anywhere else it is
//! text. A record ends with `\n`; a `\r` before it belongs to the line end.

use memchr::{memchr, memchr2};

use super::options::Dialect;

/// Where the first record at or behind a bound begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// Here.
    At(usize),
    /// The bytes end within the record that begins here.
    Within(usize),
    /// The input ends within a quoted field of the record that begins here.
    Unclosed(usize),
}

impl Dialect {
    /// Whether any byte of `bytes` could be special as a quote.
    pub(crate) fn has_quotes(self, bytes: &[u8]) -> bool {
        self.quote.is_some_and(|quote| memchr(quote, bytes).is_some())
    }

    /// The first record start at or behind `bound`, if a record starts at `start`. `eof` says that nothing
    /// follows `bytes`.
    pub(crate) fn boundary(self, bytes: &[u8], start: usize, bound: usize, eof: bool) -> Boundary {
        if start >= bound {
            return Boundary::At(start);
        }
        if !self.has_quotes(&bytes[start.min(bytes.len())..]) {
            // Outside quotes every newline ends a record, so the search may begin at the bound.
            return match bytes.get(bound - 1..).and_then(|rest| memchr(b'\n', rest)) {
                Some(distance) => Boundary::At(bound + distance),
                None if eof => Boundary::At(bytes.len()),
                None => {
                    let line = bytes
                        .get(start..)
                        .and_then(|rest| memchr::memrchr(b'\n', rest))
                        .map_or(start, |at| start + at + 1);
                    Boundary::Within(line)
                }
            };
        }
        let mut record = start;
        while record < bound {
            if record >= bytes.len() {
                return if eof { Boundary::At(bytes.len()) } else { Boundary::Within(record) };
            }
            match self.record_end(bytes, record) {
                RecordEnd::At(end) => record = end,
                RecordEnd::Outside if eof => return Boundary::At(bytes.len()),
                RecordEnd::Quoted if eof => return Boundary::Unclosed(record),
                RecordEnd::Outside | RecordEnd::Quoted => return Boundary::Within(record),
            }
        }
        Boundary::At(record)
    }

    /// Where the record that begins at `start` ends.
    fn record_end(self, bytes: &[u8], start: usize) -> RecordEnd {
        let Some(quote) = self.quote else {
            return memchr(b'\n', &bytes[start..]).map_or(RecordEnd::Outside, |at| RecordEnd::At(start + at + 1));
        };
        let mut at = start;
        while let Some(distance) = memchr2(quote, b'\n', &bytes[at..]) {
            let found = at + distance;
            if bytes[found] == b'\n' {
                return RecordEnd::At(found + 1);
            }
            at = if found == start || bytes[found - 1] == self.delimiter {
                match self.closing_quote(bytes, found) {
                    Some(close) => close + 1,
                    None => return RecordEnd::Quoted,
                }
            } else {
                found + 1
            };
        }
        RecordEnd::Outside
    }

    /// The quote that closes the field that was opened at `open`.
    pub(crate) fn closing_quote(self, bytes: &[u8], open: usize) -> Option<usize> {
        let quote = self.quote?;
        let mut at = open + 1;
        loop {
            let found = at + memchr(quote, bytes.get(at..)?)?;
            if bytes.get(found + 1) != Some(&quote) {
                return Some(found);
            }
            at = found + 2;
        }
    }
}

enum RecordEnd {
    At(usize),
    Outside,
    Quoted,
}

/// Finds record starts in a stream of pieces, holding none of them: how a split is resolved whose reader
/// has gone, and how far a text goes that nobody needs to keep.
#[derive(Debug)]
pub(crate) struct Walk {
    dialect: Dialect,
    state: WalkState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalkState {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote within a quoted field: the field's end, or half of a doubled quote.
    AfterQuote,
}

impl Walk {
    /// A walk that begins at a record's start.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, state: WalkState::FieldStart }
    }

    /// The first record start in `piece` at or behind `bound`, as the offset behind a newline of the piece.
    pub(crate) fn advance(&mut self, piece: &[u8], bound: usize) -> Option<usize> {
        for (at, &byte) in piece.iter().enumerate() {
            let quote = Some(byte) == self.dialect.quote;
            self.state = match self.state {
                WalkState::Quoted if quote => WalkState::AfterQuote,
                WalkState::Quoted => WalkState::Quoted,
                WalkState::AfterQuote if quote => WalkState::Quoted,
                WalkState::FieldStart if quote => WalkState::Quoted,
                _ if byte == b'\n' => {
                    self.state = WalkState::FieldStart;
                    if at + 1 >= bound {
                        return Some(at + 1);
                    }
                    WalkState::FieldStart
                }
                _ if byte == self.dialect.delimiter => WalkState::FieldStart,
                _ => WalkState::Plain,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { delimiter: b',', quote: Some(b'"') };

    fn starts(bytes: &[u8]) -> Vec<usize> {
        let mut starts = vec![0];
        while let Boundary::At(next) =
            DIALECT.boundary(bytes, starts[starts.len() - 1], starts[starts.len() - 1] + 1, true)
            && next < bytes.len()
        {
            starts.push(next);
        }
        starts
    }

    #[test]
    fn newlines_within_quotes_do_not_end_a_record() {
        assert_eq!(starts(b"a,b\nc,\"d\ne\"\nf\n"), [0, 4, 12]);
        assert_eq!(starts(b"a\"\nb\n\"\"\"\n\"\nc"), [0, 3, 5, 11]);
        assert_eq!(starts(b"\"x\"y\"\nz\n"), [0, 6]);
    }

    #[test]
    fn a_bound_within_a_record_gives_the_next_one() {
        let bytes = b"ab,c\nd,\"e\nf\"\ng";
        assert_eq!(DIALECT.boundary(bytes, 0, 3, false), Boundary::At(5));
        assert_eq!(DIALECT.boundary(bytes, 0, 5, false), Boundary::At(5));
        assert_eq!(DIALECT.boundary(bytes, 0, 6, false), Boundary::At(13));
        assert_eq!(DIALECT.boundary(bytes, 0, 14, false), Boundary::Within(13));
        assert_eq!(DIALECT.boundary(bytes, 0, 14, true), Boundary::At(14));
        assert_eq!(DIALECT.boundary(b"x\n\"y", 0, 3, true), Boundary::Unclosed(2));
    }

    #[test]
    fn a_walk_over_pieces_finds_what_one_look_finds() {
        let bytes = b"a\"b,\"c\"\"\n,\"\nd,\"\"\n\"\n\"x,\"\"\"\"\n";
        for bound in 1..bytes.len() {
            let Boundary::At(whole) = DIALECT.boundary(bytes, 0, bound, true) else { panic!("closed") };
            for cut in 0..bytes.len() {
                let mut walk = Walk::new(DIALECT);
                let found = walk
                    .advance(&bytes[..cut], bound)
                    .or_else(|| walk.advance(&bytes[cut..], bound.saturating_sub(cut)).map(|at| at + cut));
                assert_eq!(found.unwrap_or(bytes.len()), whole, "bound {bound}, cut {cut}");
            }
        }
    }
}
