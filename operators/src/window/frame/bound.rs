//! One end of the frames of consecutive rows.
//!
//! Within a partition an end never goes back. So a bound is two cursors over the sorted rows: one at the row whose
//! frame is sought, one at the end of that frame; both go forward only.

use aqueduct_runtime::Result;
use aqueduct_runtime::io::Ticket;
use arrow::array::AsArray;
use arrow::datatypes::Decimal128Type;

use super::super::desk::Desk;
use super::super::tape::{At, Block, Tape};
use super::parts::Parts;

/// What an end goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The end of the partition on this side.
    Unbounded,
    /// So many rows after the row, or before if negative.
    Rows(i64),
    /// So many groups of peers after the row's, or before if negative.
    Groups(i64),
    /// The keys of this column of the tape, against the row's value of that column.
    Range { keys: usize, target: usize },
}

impl Reach {
    pub(super) fn reads(self) -> bool {
        matches!(self, Reach::Groups(_) | Reach::Range { .. })
    }
}

/// Finds one end for row after row.
pub(super) struct Bound {
    reach: Reach,
    /// Whether it is where frames start.
    starts: bool,
    /// Cursors of the tape: at the row, and at the end of its frame.
    cursors: Option<(usize, usize)>,
    /// The next row that needs its end, and the partition that it is in.
    row: u64,
    part: u64,
    position: u64,
    /// Groups of the partition that begin before the position.
    groups: i64,
    /// The group of the row before.
    row_group: i64,
}

/// Column of the tape that says where peers begin.
pub(super) const PEERS: usize = 0;

impl Bound {
    pub(super) fn new(reach: Reach, starts: bool, cursors: Option<(usize, usize)>) -> Self {
        Self { reach, starts, cursors, row: 0, part: 0, position: 0, groups: 0, row_group: -1 }
    }

    /// The partition of the next row.
    pub(super) fn part(&self) -> u64 {
        self.part
    }

    /// Finds the ends of rows before `until`, as far as they are known; what it waits for, if anything.
    pub(super) fn extend(
        &mut self,
        parts: &Parts,
        tape: Option<&mut Tape>,
        until: u64,
        found: &mut Vec<u64>,
        desk: &mut Desk,
    ) -> Result<Option<Ticket>> {
        let until = until.min(parts.arrived());
        let mut reader = match (tape, self.cursors) {
            (Some(tape), Some((row, position))) => {
                Some(Reader { tape, row: Side::new(row), position: Side::new(position) })
            }
            _ => None,
        };
        let mut blocked = None;
        while self.row < until {
            while let Some(next) = parts.start(self.part + 1).filter(|next| *next <= self.row) {
                self.part += 1;
                (self.position, self.groups, self.row_group) = (next, 0, -1);
            }
            let start = parts.start(self.part).unwrap_or(0);
            let end = parts.start(self.part + 1);
            // Rows that are there: of the partition, and at all.
            let known = end.unwrap_or(parts.arrived());
            let rows_end = until.min(known);
            let before = self.row;
            match self.reach {
                Reach::Unbounded => {
                    let Some(value) = (if self.starts { Some(start) } else { end }) else { break };
                    found.resize(found.len() + (rows_end - self.row) as usize, value);
                    self.row = rows_end;
                }
                Reach::Rows(offset) => {
                    let offset = offset.saturating_add(i64::from(!self.starts));
                    while self.row < rows_end {
                        let value = self.row.saturating_add_signed(offset);
                        if value > known && end.is_none() {
                            break;
                        }
                        found.push(value.clamp(start, known));
                        self.row += 1;
                    }
                }
                Reach::Groups(_) | Reach::Range { .. } => {
                    let Some(reader) = &mut reader else { break };
                    blocked = self.read(reader, rows_end, known, end.is_some(), found, desk)?;
                }
            }
            if blocked.is_some() || self.row == before {
                break;
            }
        }
        if let Some(Reader { tape, row, position }) = reader {
            tape.seek(row.cursor, self.row);
            tape.seek(position.cursor, self.position.max(tape.position(position.cursor)));
        }
        Ok(blocked)
    }

    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        rows_end: u64,
        known: u64,
        ended: bool,
        found: &mut Vec<u64>,
        desk: &mut Desk,
    ) -> Result<Option<Ticket>> {
        while self.row < rows_end {
            if let Some(ticket) = reader.row.load(reader.tape, self.row, desk)? {
                return Ok(Some(ticket));
            }
            let Some(rows) = &reader.row.block else { return Ok(None) };
            let at = (self.row - rows.start) as usize;
            let (limit, group, key) = match self.reach {
                Reach::Groups(offset) => {
                    let group = self.row_group + i64::from(rows.batch.column(PEERS).as_boolean().value(at));
                    (group.saturating_add(offset), group, 0)
                }
                Reach::Range { target, .. } => {
                    (0, 0, rows.batch.column(target).as_primitive::<Decimal128Type>().value(at))
                }
                Reach::Unbounded | Reach::Rows(_) => return Ok(None),
            };
            loop {
                if self.position >= known {
                    if ended {
                        break;
                    }
                    // It may lie among rows that are still to come.
                    return Ok(None);
                }
                if let Some(ticket) = reader.position.load(reader.tape, self.position, desk)? {
                    return Ok(Some(ticket));
                }
                let Some(block) = &reader.position.block else { return Ok(None) };
                let stop = match self.reach {
                    Reach::Range { keys, .. } => self.by_key(block, keys, key, known),
                    _ => self.by_group(block, limit, known),
                };
                if stop {
                    break;
                }
            }
            self.row_group = group;
            self.row += 1;
            found.push(self.position);
        }
        Ok(None)
    }

    /// Goes on in `block`; whether the end was found.
    fn by_group(&mut self, block: &Block, limit: i64, known: u64) -> bool {
        let peers = block.batch.column(PEERS).as_boolean().values();
        let end = known.min(block.end);
        while self.position < end {
            let begins = i64::from(peers.value((self.position - block.start) as usize));
            let group = self.groups + begins - 1;
            if if self.starts { group >= limit } else { group > limit } {
                return true;
            }
            self.groups += begins;
            self.position += 1;
        }
        false
    }

    fn by_key(&mut self, block: &Block, keys: usize, target: i128, known: u64) -> bool {
        let keys = block.batch.column(keys).as_primitive::<Decimal128Type>().values();
        let from = (self.position - block.start) as usize;
        let end = (known.min(block.end) - block.start) as usize;
        let passed = keys[from..end].iter().position(|key| if self.starts { *key >= target } else { *key > target });
        self.position += passed.unwrap_or(end - from) as u64;
        passed.is_some()
    }
}

struct Reader<'a> {
    tape: &'a mut Tape,
    row: Side,
    position: Side,
}

/// A cursor and the batch that it is in.
pub(super) struct Side {
    cursor: usize,
    pub(super) block: Option<Block>,
}

impl Side {
    pub(super) fn new(cursor: usize) -> Self {
        Self { cursor, block: None }
    }

    /// Makes the batch of `position` the present one.
    pub(super) fn load(&mut self, tape: &mut Tape, position: u64, desk: &mut Desk) -> Result<Option<Ticket>> {
        if self.block.as_ref().is_some_and(|block| block.has(position)) {
            return Ok(None);
        }
        self.block = None;
        tape.seek(self.cursor, position.max(tape.position(self.cursor)));
        match tape.at(self.cursor, desk)? {
            At::Block(block) => self.block = Some(block),
            At::Blocked(ticket) => return Ok(Some(ticket)),
            At::End => {}
        }
        Ok(None)
    }
}

/// Counts the rows up to a position that a column of the tape has as true; positions only go forward.
pub(super) struct Counter {
    column: usize,
    cursor: usize,
    position: u64,
    count: u64,
}

impl Counter {
    pub(super) fn new(column: usize, cursor: usize) -> Self {
        Self { column, cursor, position: 0, count: 0 }
    }

    /// Appends the counts before each of `positions`, as far as they can be read.
    pub(super) fn extend(
        &mut self,
        tape: &mut Tape,
        positions: &[u64],
        counts: &mut Vec<u64>,
        desk: &mut Desk,
    ) -> Result<Option<Ticket>> {
        let mut side = Side::new(self.cursor);
        let mut blocked = None;
        'positions: for position in positions {
            while self.position < *position {
                blocked = side.load(tape, self.position, desk)?;
                let Some(block) = &side.block else { break 'positions };
                let to = block.end.min(*position);
                let (from, rows) = ((self.position - block.start) as usize, (to - self.position) as usize);
                let bits = block.batch.column(self.column).as_boolean().values();
                self.count += match rows {
                    1 => u64::from(bits.value(from)),
                    _ => bits.slice(from, rows).count_set_bits() as u64,
                };
                self.position = to;
            }
            counts.push(self.count);
        }
        tape.seek(self.cursor, self.position.max(tape.position(self.cursor)));
        Ok(blocked)
    }
}
