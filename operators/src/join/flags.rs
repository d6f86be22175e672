//! Bits that say which rows have had a match: of a table, in memory, and of probe rows, from pass to pass, on disk
//! where memory is short.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use arrow::array::{Array, AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::home::Home;

/// Flags that are written together.
const FLAG_ROWS: usize = 64 << 10;

/// A bit for each row.
#[derive(Default, Clone)]
pub(super) struct Flags {
    words: Vec<u64>,
    rows: usize,
}

impl Flags {
    /// `rows` bits that are not set.
    pub(super) fn new(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(64)], rows }
    }

    /// Number of bits.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn get(&self, row: usize) -> bool {
        self.words[row / 64] >> (row % 64) & 1 == 1
    }

    #[inline]
    pub(super) fn set(&mut self, row: usize) {
        self.words[row / 64] |= 1 << (row % 64);
    }

    /// Adds the bits of `more` at the end.
    pub(super) fn extend(&mut self, more: &BooleanArray) {
        let from = self.rows;
        self.rows += more.len();
        self.words.resize(self.rows.div_ceil(64), 0);
        more.values().set_indices().for_each(|row| self.set(from + row));
    }

    /// Bits `from..from + rows` as an array.
    pub(super) fn slice(&self, from: usize, rows: usize) -> BooleanArray {
        BooleanArray::new(BooleanBuffer::collect_bool(rows, |row| self.get(from + row)), None)
    }

    pub(super) fn bytes(&self) -> usize {
        8 * self.words.capacity()
    }
}

fn flag_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("matched", DataType::Boolean, false)]))
}

/// Writes a flag for each probe row.
pub(super) struct FlagWriter {
    pub(super) rows: SpillingVec,
    waiting: Flags,
}

impl FlagWriter {
    pub(super) fn new(home: &Home) -> Self {
        Self { rows: home.vec(&flag_schema()), waiting: Flags::default() }
    }

    pub(super) fn push(&mut self, flags: &Flags) -> Result<()> {
        self.waiting.extend(&flags.slice(0, flags.len()));
        if self.waiting.len() >= FLAG_ROWS {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let flags = std::mem::take(&mut self.waiting);
        if flags.len() > 0 {
            let column = flags.slice(0, flags.len());
            self.rows.push(RecordBatch::try_new(flag_schema(), vec![Arc::new(column)])?)?;
        }
        Ok(())
    }

    pub(super) fn into_reader(self) -> FlagReader {
        FlagReader { rows: self.rows.drain(), last: Some(self.waiting), read: Vec::new() }
    }
}

/// Reads them again, in the pieces that are asked for.
pub(super) struct FlagReader {
    rows: SpillingVecReader,
    /// What was not written behind the others.
    last: Option<Flags>,
    /// Read, and not taken yet.
    read: Vec<BooleanArray>,
}

impl FlagReader {
    /// Reads until `rows` can be taken, or there are no more; what to wait for, if it must.
    pub(super) fn fill(&mut self, rows: usize) -> Result<Option<Ticket>> {
        while self.read.iter().map(Array::len).sum::<usize>() < rows && self.last.is_some() {
            match self.rows.next()? {
                Next::Batch(batch) => self.read.push(batch.column(0).as_boolean().clone()),
                Next::Blocked(ticket) => return Ok(Some(ticket)),
                Next::End => {
                    let last = self.last.take().unwrap_or_default();
                    self.read.push(last.slice(0, last.len()));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn take(&mut self, rows: usize) -> Flags {
        let mut flags = Flags::default();
        while flags.len() < rows && !self.read.is_empty() {
            let first = self.read.remove(0);
            let taken = first.len().min(rows - flags.len());
            flags.extend(&first.slice(0, taken));
            if taken < first.len() {
                self.read.insert(0, first.slice(taken, first.len() - taken));
            }
        }
        flags
    }
}
