//! How a table is made, a piece at a time: rows become chunks, chunks get keys, keys get slots and chains.

use std::collections::VecDeque;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::{batch_bytes, copied};
use aqueduct_runtime::memory::Reservation;
use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;

use super::flags::Flags;
use super::home::Home;
use super::keys::{Keys, Values};
use super::table::{Chain, Direct, END, Slots, Table};

/// Most bytes of a chunk of larger tables.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows whose slots are read before any is written, so that the processor waits for many of them at once.
const TOUCHED_ROWS: usize = 64;

/// Rows that are linked in about the time that the system takes to hand out a page.
const ROWS_OF_A_PAGE: usize = 8;

/// A table that is being made.
pub(super) struct Making {
    home: Home,
    pieces: VecDeque<RecordBatch>,
    /// Rows in `pieces`.
    left: usize,
    shift: u32,
    chunks: Vec<RecordBatch>,
    matched: Flags,
    keys: Vec<Keys>,
    linker: Option<Linker>,
    rows: usize,
    /// It will be the only one of its level.
    alone: bool,
    memory: Reservation,
}

impl Making {
    /// Of `pieces`, stored rows that are claimed. `memory` is for [`Home::table_bytes`].
    pub(super) fn new(home: &Home, pieces: Vec<RecordBatch>, alone: bool, memory: Reservation) -> Self {
        let rows: usize = pieces.iter().map(RecordBatch::num_rows).sum();
        let bytes: usize = pieces.iter().map(batch_bytes).sum();
        let shift = if bytes <= home.unspread_bytes {
            32
        } else {
            let chunk_bytes = (bytes / 16).clamp(home.frame_bytes, CHUNK_BYTES);
            (chunk_bytes * rows / bytes.max(1)).max(64).ilog2()
        };
        Self {
            home: home.clone(),
            pieces: pieces.into(),
            left: rows,
            shift,
            chunks: Vec::new(),
            matched: Flags::default(),
            keys: Vec::new(),
            linker: None,
            rows,
            alone,
            memory,
        }
    }

    /// Goes on until about `most` rows have been looked at, which are taken from it; the table, once it is made.
    pub(super) fn step(&mut self, most: &mut usize) -> Result<Option<Table>> {
        while self.left > 0 {
            let rows = self.gather()?;
            if spent(most, rows) {
                return Ok(None);
            }
        }
        let (shape, encoder) = (&self.home.shape, &self.home.encoder);
        while let Some(chunk) = self.chunks.get(self.keys.len()) {
            let columns: Vec<_> = shape.build_keys.iter().map(|&key| Arc::clone(chunk.column(key))).collect();
            self.keys.push(encoder.encode(&columns, chunk.num_rows())?);
            if spent(most, chunk.num_rows() / 4) {
                return Ok(None);
            }
        }
        if encoder.has_keys() {
            let linker = self.linker.get_or_insert_with(|| Linker::new(self.rows, self.shift, &self.keys, self.alone));
            if !linker.link(&self.keys, most) {
                return Ok(None);
            }
        }
        let (slots, chain) = match self.linker.take() {
            Some(linker) => (linker.slots, if linker.several { Chain::Linked(linker.next) } else { Chain::Single }),
            None => (Slots::None, Chain::All),
        };
        // Words are in the slots.
        let keys = std::mem::take(&mut self.keys).into_iter().map(|keys| keys.values);
        let keys = if matches!(slots, Slots::Words(_) | Slots::Direct(_)) { Vec::new() } else { keys.collect() };
        let memory = self.memory.split(usize::MAX);
        let chunks = std::mem::take(&mut self.chunks);
        let matched = std::mem::take(&mut self.matched);
        Ok(Some(Table::new(shape, (chunks, self.shift, self.rows), keys, (slots, chain), matched, memory)))
    }

    /// Goes on to the end.
    pub(super) fn finish(mut self) -> Result<Table> {
        loop {
            if let Some(table) = self.step(&mut { usize::MAX })? {
                return Ok(table);
            }
        }
    }

    /// Makes the next chunk; its rows.
    fn gather(&mut self) -> Result<usize> {
        let rows = self.left.min(1 << self.shift);
        self.left -= rows;
        let schema = &self.home.shape.build_schema;
        let columns: Vec<usize> = (0..schema.fields().len()).collect();
        let (mut taken, mut missing) = (Vec::new(), rows);
        while missing > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            if piece.num_rows() > missing {
                self.pieces.push_front(piece.slice(missing, piece.num_rows() - missing));
                piece = piece.slice(0, missing);
            }
            missing -= piece.num_rows();
            if self.home.shape.flags() {
                self.matched.extend(piece.column(columns.len()).as_boolean());
            }
            taken.push(piece.project(&columns)?);
        }
        let mut chunk = match taken.as_slice() {
            [one] => one.clone(),
            several => concatenated(schema, several)?,
        };
        // What it shares with the rows that it is made of is paid for twice for a moment, and then given free: more than
        // a copy of it takes would be missing for what finds the rows.
        if chunk.get_array_memory_size() > Home::copy_bytes(batch_bytes(&chunk)) {
            chunk = copied(&chunk);
        }
        self.home.memory.claim_from(&chunk, &mut self.memory);
        self.chunks.push(chunk);
        Ok(rows)
    }
}

/// Whether nothing is left once `rows` were looked at.
fn spent(most: &mut usize, rows: usize) -> bool {
    *most = most.saturating_sub(rows);
    *most == 0
}

/// As `concat_batches`, which does not take rows without columns.
fn concatenated(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    if schema.fields().is_empty() {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        return Ok(RecordBatch::try_new_with_options(Arc::clone(schema), Vec::new(), &options)?);
    }
    Ok(concat_batches(schema, batches)?)
}

/// Fills the slots and chains, from the last row to the first, so that chains are in order.
struct Linker {
    slots: Slots,
    /// Pages of `slots` that were written to.
    pages: usize,
    next: Vec<u32>,
    several: bool,
    shift: u32,
    /// The rows of the chunks before `chunk`, and `left` rows of that, have none yet.
    chunk: usize,
    left: usize,
    /// Of the rows of that chunk.
    hashes: Vec<u64>,
}

impl Linker {
    fn new(rows: usize, shift: u32, keys: &[Keys], alone: bool) -> Self {
        let slots = match keys.first().map(|keys| &keys.values) {
            Some(Values::Word(_)) => match alone.then(|| Direct::new(rows, keys)).flatten() {
                Some(direct) => Slots::Direct(direct),
                None => Slots::Words(vec![[0; 2]; Slots::count(rows)]),
            },
            _ => Slots::Tagged(vec![0; Slots::count(rows)]),
        };
        let next = vec![END; rows];
        Self { slots, pages: 0, next, several: false, shift, chunk: keys.len(), left: 0, hashes: Vec::new() }
    }

    /// Goes on with as many rows as `most` says, which are taken from it; whether all are done.
    fn link(&mut self, keys: &[Keys], most: &mut usize) -> bool {
        while self.slots.write_page(self.pages) {
            self.pages += 1;
            if spent(most, ROWS_OF_A_PAGE) {
                return false;
            }
        }
        loop {
            if self.left == 0 {
                let Some(chunk) = self.chunk.checked_sub(1) else { return true };
                self.chunk = chunk;
                self.left = keys[chunk].rows;
                if !matches!(self.slots, Slots::Direct(_)) {
                    keys[chunk].hash(&mut self.hashes);
                }
            }
            if *most == 0 {
                return false;
            }
            let rows = self.left.min(*most);
            *most -= rows;
            let mut end = self.left;
            self.left -= rows;
            if let (Slots::Direct(_), Values::Word(words)) = (&self.slots, &keys[self.chunk].values) {
                self.link_direct(&keys[self.chunk], words, self.left..end);
                continue;
            }
            while end > self.left {
                let start = self.left.max(end.saturating_sub(TOUCHED_ROWS));
                self.slots.touch(&self.hashes[start..end]);
                match &keys[self.chunk].values {
                    Values::All => {}
                    Values::Word(words) => self.link_words(&keys[self.chunk], words, start..end),
                    Values::Wide(_) => self.link_tagged(keys, start..end, |values, row| match values {
                        Values::Wide(wide) => wide[row],
                        _ => 0,
                    }),
                    _ => self.link_tagged(keys, start..end, |values, row| values.value(row)),
                }
                end = start;
            }
        }
    }

    fn link_direct(&mut self, keys: &Keys, words: &[u64], rows: std::ops::Range<usize>) {
        let Slots::Direct(direct) = &mut self.slots else { return };
        for row_of_chunk in rows.rev() {
            if !keys.is_valid(row_of_chunk) {
                continue;
            }
            let row = (self.chunk << self.shift) + row_of_chunk;
            let first = &mut direct.firsts[(words[row_of_chunk] - direct.least) as usize];
            if *first != 0 {
                self.next[row] = *first - 1;
                self.several = true;
            }
            *first = row as u32 + 1;
        }
    }

    fn link_words(&mut self, keys: &Keys, words: &[u64], rows: std::ops::Range<usize>) {
        let Slots::Words(slots) = &mut self.slots else { return };
        let mask = slots.len() - 1;
        for row_of_chunk in rows.rev() {
            if !keys.is_valid(row_of_chunk) {
                continue;
            }
            let (word, row) = (words[row_of_chunk], (self.chunk << self.shift) + row_of_chunk);
            let mut at = self.hashes[row_of_chunk] as usize & mask;
            loop {
                let [key, first] = slots[at];
                if first == 0 || key == word {
                    slots[at] = [word, row as u64 + 1];
                    if first != 0 {
                        self.next[row] = first as u32 - 1;
                        self.several = true;
                    }
                    break;
                }
                at = (at + 1) & mask;
            }
        }
    }

    fn link_tagged<'a, T: PartialEq + 'a>(
        &mut self,
        keys: &'a [Keys],
        rows: std::ops::Range<usize>,
        value: impl Fn(&'a Values, usize) -> T,
    ) {
        let Slots::Tagged(slots) = &mut self.slots else { return };
        let (mask, chunk_mask) = (slots.len() - 1, (1usize << self.shift) - 1);
        let own = &keys[self.chunk];
        for row_of_chunk in rows.rev() {
            if !own.is_valid(row_of_chunk) {
                continue;
            }
            let (hash, row) = (self.hashes[row_of_chunk], (self.chunk << self.shift) + row_of_chunk);
            let tag = hash >> 32;
            let new = tag << 32 | (row as u64 + 1);
            let mut at = hash as usize & mask;
            loop {
                let slot = slots[at];
                if slot == 0 {
                    slots[at] = new;
                    break;
                }
                if slot >> 32 == tag {
                    let first = slot as u32 as usize - 1;
                    let other = value(&keys[first >> self.shift].values, first & chunk_mask);
                    if other == value(&own.values, row_of_chunk) {
                        self.next[row] = first as u32;
                        slots[at] = new;
                        self.several = true;
                        break;
                    }
                }
                at = (at + 1) & mask;
            }
        }
    }
}
