//! Reads byte ranges of uncompressed files: each split is read whole, cut at records, then parsed.
//!
//! ```text
//! start ──> Reading ──> Cutting ──> Parsing ──> Done
//!             ^            │ ^
//!             └── more ────┘ └── predecessor
//! ```
//!
//! Reading happens on an I/O thread, which also guesses where the split's records begin and end. Cutting
//! waits until the predecessor's end confirms the guess or corrects it; where a split ends is published
//! before its first row is emitted.

use std::sync::Arc;

use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::{OperatorError, Outbox, Result, Source, SourceContext, SourceStep, Split};

use super::batch::{Broken, Rest, What};
use super::confirm::Start;
use super::files::short_name;
use super::index::{PADDING_BYTES, skip_blank_lines};
use super::reader::{MAX_RECORD_BYTES, Reader, blocked, has_failed, poll};
use super::records::{Boundary, Walk};
use super::scan::{Shared, SplitRange, check_header};

/// Bytes behind a split that are read with it: most records that begin in it end there.
pub(crate) const TAIL_BYTES: usize = 4 * 1024;

/// One partition of a scan over plain files.
pub(crate) struct Plain {
    reader: Reader,
    state: State,
    /// The buffer, when no block is in use and nothing is being read to it.
    spare: Vec<u8>,
    ended: bool,
}

/// Bytes of a file in memory.
struct Block {
    /// Padded.
    bytes: Vec<u8>,
    filled: usize,
    /// Of the first byte in the file.
    offset: u64,
    /// The file ends with the block.
    eof: bool,
}

enum State {
    Idle,
    Reading(Pending<Result<Block>>),
    Cutting(Block),
    /// An abandoned predecessor is walked through in its place.
    Resolving(Block, u64, Pending<Result<u64>>),
    Parsing {
        block: Block,
        at: usize,
        limit: usize,
    },
    Failing(Pending<OperatorError>),
}

impl Plain {
    pub(crate) fn open(shared: Arc<Shared>, context: SourceContext) -> Result<Self> {
        let mut reader = Reader::open(shared, context)?;
        let index_bytes = reader.index_bytes();
        if reader.reserve(index_bytes)?.is_some() {
            return Err(reader.context.memory.row_too_large(index_bytes));
        }
        Ok(Self { reader, state: State::Idle, spare: vec![], ended: true })
    }

    /// Makes a buffer hold `length` bytes and padding, or says what to wait for.
    fn enlarge(&mut self, bytes: &mut Vec<u8>, length: usize) -> Result<Option<Ticket>> {
        let needed = length + PADDING_BYTES;
        if bytes.len() < needed {
            // While it grows the old buffer and the new one are both there.
            let total = self.reader.index_bytes() + needed;
            if let Some(ticket) = self.reader.reserve(total + bytes.capacity())? {
                return Ok(Some(ticket));
            }
            bytes.reserve_exact(needed - bytes.len());
            bytes.resize(needed, 0);
            self.reader.reservation.set(total);
        }
        Ok(None)
    }

    /// Reads on behind what `block` holds, up to `length` bytes in total. Gives the block back if memory is to be
    /// waited for.
    fn extend(&mut self, mut block: Block, length: usize) -> Result<Option<(Block, Ticket)>> {
        let range = self.reader.range()?;
        let size = self.reader.shared.files[range.file].size;
        let available = usize::try_from(size - block.offset).unwrap_or(usize::MAX);
        let length = length.min(available);
        if let Some(ticket) = self.enlarge(&mut block.bytes, length)? {
            return Ok(Some((block, ticket)));
        }
        block.eof = length == available;
        let shared = Arc::clone(&self.reader.shared);
        let first = block.filled == 0;
        let work = move || {
            let into = &mut block.bytes[block.filled..length];
            shared.read_at(range.file, block.offset + block.filled as u64, into)?;
            block.filled = length;
            if first {
                guess(&shared, range, &block);
            }
            Ok(block)
        };
        self.state = State::Reading(self.reader.context.io.run("reading", work));
        Ok(None)
    }

    /// Decides where the split's records begin and end, or says what is missing for that.
    fn cut(&mut self, block: Block) -> Result<Option<SourceStep>> {
        let range = self.reader.range()?;
        let (start, end) = match self.reader.shared.confirmations.start(range.index) {
            Start::Known(start, end) => (start, end),
            Start::Unknown(ticket) => {
                self.state = State::Cutting(block);
                return Ok(Some(SourceStep::Blocked(ticket)));
            }
            Start::Abandoned { split, from, bound } => {
                let shared = Arc::clone(&self.reader.shared);
                let work = move || shared.walk(range.file, from, bound);
                self.state = State::Resolving(block, split, self.reader.context.io.run("reading", work));
                return Ok(None);
            }
        };
        let end = match end {
            Some(end) => end,
            None => match self.find_end(block, range, start)? {
                Ok((block, end)) => {
                    self.reader.shared.confirmations.publish(range.index, end, range.last);
                    return self.begin(block, start, end).map(|()| None);
                }
                Err(step) => return Ok(step),
            },
        };
        self.begin(block, start, end).map(|()| None)
    }

    /// The end of the records that begin at `start`; the inner error says that more is being read.
    fn find_end(
        &mut self,
        block: Block,
        range: SplitRange,
        start: u64,
    ) -> Result<Result<(Block, u64), Option<SourceStep>>> {
        if start >= range.end && range.begin > 0 {
            return Ok(Ok((block, start)));
        }
        let relative = |offset: u64| (offset - block.offset) as usize;
        let (from, bound) = edges(range, &block, relative(start), relative(range.end));
        match self.reader.shared.layout.dialect.boundary(&block.bytes[..block.filled], from, bound, block.eof) {
            Boundary::At(end) => {
                let end = block.offset + end as u64;
                Ok(Ok((block, end)))
            }
            Boundary::Unclosed(record) => {
                self.fail(block.offset, Broken { record, what: What::Unclosed });
                Ok(Err(None))
            }
            Boundary::Within(record) => {
                let length = block.filled - record;
                if length > MAX_RECORD_BYTES {
                    self.fail(block.offset, Broken { record, what: What::Long });
                    return Ok(Err(None));
                }
                let more = length.max(16 * self.reader.shared.tail_bytes).max(1);
                let length = block.filled + more;
                Ok(Err(self.extend(block, length)?.map(|(block, ticket)| {
                    self.state = State::Cutting(block);
                    SourceStep::Blocked(ticket)
                })))
            }
        }
    }

    /// Begins to parse what lies between two record starts.
    fn begin(&mut self, block: Block, start: u64, end: u64) -> Result<()> {
        let range = self.reader.range()?;
        if start >= end {
            // Every byte of the split belongs to a record that began before it.
            return self.finish(block.bytes);
        }
        let (mut at, limit) = ((start - block.offset) as usize, (end - block.offset) as usize);
        debug_assert!(limit <= block.filled);
        if range.begin == 0 && self.reader.shared.header.is_some() {
            let eof = block.eof && limit == block.filled;
            match check_header(&self.reader.shared, range.file, &block.bytes, at, limit, eof) {
                Ok(Some(next)) => at = next,
                Ok(None) => at = limit,
                Err(Ok(broken)) => {
                    self.fail(block.offset, broken);
                    return Ok(());
                }
                Err(Err(error)) => return Err(error),
            }
        }
        self.state = State::Parsing { block, at, limit };
        Ok(())
    }

    /// The error is the next step's result.
    fn fail(&mut self, block_offset: u64, broken: Broken) {
        self.state = State::Failing(self.reader.locate(block_offset + broken.record as u64, broken));
    }

    fn finish(&mut self, bytes: Vec<u8>) -> Result<()> {
        let range = self.reader.range()?;
        self.reader.range = None;
        self.reader.shared.confirmations.release(range.index);
        self.ended = true;
        // A record that was longer than usual does not keep its memory.
        let usual = self.reader.shared.split_bytes + 17 * self.reader.shared.tail_bytes + PADDING_BYTES + 1;
        if bytes.capacity() > usual {
            drop(bytes);
            self.reader.reservation.set(self.reader.index_bytes());
        } else {
            self.spare = bytes;
        }
        self.state = State::Idle;
        Ok(())
    }
}

/// From where, and up to which bound, the records of a split are looked for: the first split of a file has
/// at least one record, the header, whatever stands before that.
fn edges(range: SplitRange, block: &Block, start: usize, bound: usize) -> (usize, usize) {
    if range.begin > 0 {
        return (start, bound);
    }
    let first = skip_blank_lines(&block.bytes[..block.filled], start, block.eof);
    (first, bound.max(first + 1))
}

/// Tells what the bytes alone say about a split's start and end.
fn guess(shared: &Shared, range: SplitRange, block: &Block) {
    let dialect = shared.layout.dialect;
    let bytes = &block.bytes[..block.filled];
    let bound = (range.end - block.offset) as usize;
    let start = if range.begin == 0 {
        let start = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        shared.confirmations.begin(range.index, start as u64);
        Some(start)
    } else {
        // The block begins one byte early, so that a record that begins with the split is seen.
        memchr::memchr(b'\n', &bytes[..bound]).map(|newline| newline + 1)
    };
    let Some(start) = start else { return };
    let (from, bound) = edges(range, block, start, bound);
    if let Boundary::At(end) = dialect.boundary(bytes, from, bound, block.eof) {
        let at = |offset: usize| block.offset + offset as u64;
        shared.confirmations.propose(range.index, at(start), at(end), range.last);
    }
}

impl Source for Plain {
    fn start(&mut self, split: &Split) -> Result<()> {
        let range = self.reader.start(split)?;
        self.ended = false;
        let offset = range.begin.saturating_sub(1);
        // Never less than a byte order mark has.
        let length = ((range.end - offset) as usize + self.reader.shared.tail_bytes).max(4);
        let bytes = std::mem::take(&mut self.spare);
        match self.extend(Block { bytes, filled: 0, offset, eof: false }, length)? {
            None => Ok(()),
            // The floor has room for a split.
            Some(_) => Err(self.reader.context.memory.row_too_large(length)),
        }
    }

    fn step_bytes(&self, budget_bytes: usize) -> usize {
        self.reader.step_bytes(budget_bytes)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle if self.ended => return Ok(SourceStep::Done),
                State::Idle => return Err(has_failed()),
                State::Reading(pending) => match poll(pending)? {
                    Ok(block) => self.state = State::Cutting(block?),
                    Err(pending) => {
                        let step = blocked(&pending);
                        self.state = State::Reading(pending);
                        return Ok(step);
                    }
                },
                State::Cutting(block) => {
                    if let Some(step) = self.cut(block)? {
                        return Ok(step);
                    }
                }
                State::Resolving(block, split, pending) => match poll(pending)? {
                    Ok(end) => {
                        self.reader.shared.confirmations.publish(split, end?, false);
                        self.state = State::Cutting(block);
                    }
                    Err(pending) => {
                        let step = blocked(&pending);
                        self.state = State::Resolving(block, split, pending);
                        return Ok(step);
                    }
                },
                State::Parsing { block, at, limit } => {
                    let eof = block.eof && limit == block.filled;
                    let parsed = match self.reader.parse(&block.bytes, (at, limit, eof), budget_bytes) {
                        Ok(parsed) => parsed,
                        Err(broken) => {
                            self.fail(block.offset, broken);
                            continue;
                        }
                    };
                    if let Some(batch) = parsed.batch {
                        out.push(batch);
                    }
                    if matches!(parsed.rest, Rest::More | Rest::Large(_)) && parsed.next < limit {
                        self.state = State::Parsing { block, at: parsed.next, limit };
                        return Ok(SourceStep::More);
                    }
                    self.finish(block.bytes)?;
                    return Ok(SourceStep::Done);
                }
                State::Failing(pending) => match poll(pending)? {
                    Ok(error) => return Err(error),
                    Err(pending) => {
                        let step = blocked(&pending);
                        self.state = State::Failing(pending);
                        return Ok(step);
                    }
                },
            }
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        if let Some(range) = self.reader.range {
            self.reader.shared.confirmations.abandon(range.index, range.end, range.last);
        }
    }
}

/// Finds the first record start at or behind `bound` in a file, from a record start before it.
pub(crate) fn walk(shared: &Shared, file: usize, from: u64, bound: u64) -> Result<u64> {
    let size = shared.files[file].size;
    let mut walk = Walk::new(shared.layout.dialect);
    let mut buffer = vec![0; 64 * 1024];
    let mut at = from;
    while at < size {
        if at >= bound && at == from {
            return Ok(from);
        }
        let length = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        shared.read_at(file, at, &mut buffer[..length])?;
        let ahead = usize::try_from(bound.saturating_sub(at)).unwrap_or(usize::MAX);
        if let Some(found) = walk.advance(&buffer[..length], ahead) {
            return Ok(at + found as u64);
        }
        at += length as u64;
    }
    Ok(size)
}

/// What `explain` and errors call a split.
pub(crate) fn describe(path: &std::path::Path, begin: u64, end: u64) -> String {
    format!("{} bytes {begin}..{end}", short_name(path))
}
