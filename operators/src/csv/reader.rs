//! What readers of plain and of compressed files have in common: the split, the parser, memory, and the search for
//! the line of what is broken.

use std::sync::Arc;

use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::{OperatorError, Result, SourceContext, SourceStep, Split};

use super::batch::{BatchParser, Broken, Parsed, Rest, Room};
use super::error::locate;
use super::index::index_bytes;
use super::scan::{Shared, SplitRange};

/// The longest record there may be.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// One partition's part in a scan.
pub(crate) struct Reader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) context: SourceContext,
    parser: BatchParser,
    /// What buffers and the index take.
    pub(crate) reservation: Reservation,
    /// The split that is being read.
    pub(crate) range: Option<SplitRange>,
    /// What the next record needs, if it is larger than usual.
    large_bytes: usize,
}

impl Reader {
    pub(crate) fn open(shared: Arc<Shared>, context: SourceContext) -> Result<Self> {
        let parser = BatchParser::new(Arc::clone(&shared.layout))?;
        let reservation = context.memory.reservation();
        Ok(Self { shared, context, parser, reservation, range: None, large_bytes: 0 })
    }

    /// Begins a split.
    pub(crate) fn start(&mut self, split: &Split) -> Result<SplitRange> {
        let range = SplitRange::decode(split)?;
        self.large_bytes = 0;
        Ok(*self.range.insert(range))
    }

    /// The split that is being read.
    pub(crate) fn range(&self) -> Result<SplitRange> {
        self.range.ok_or_else(|| OperatorError::new("a CSV source was read without a split"))
    }

    /// Bytes of the index.
    pub(crate) fn index_bytes(&self) -> usize {
        index_bytes(self.shared.layout.columns())
    }

    /// Makes the reservation `bytes` large, or says what to wait for.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<Option<Ticket>> {
        if self.reservation.try_set(bytes) {
            return Ok(None);
        }
        self.context.memory.wait_for(bytes - self.reservation.bytes()).map(Some)
    }

    /// Bytes of the batch that the next call of [`Reader::parse`] makes.
    pub(crate) fn step_bytes(&self, budget_bytes: usize) -> usize {
        (2 * budget_bytes).max(self.large_bytes)
    }

    /// One batch of the records in `bytes[from..limit]`.
    pub(crate) fn parse(
        &mut self,
        bytes: &[u8],
        (from, limit, eof): (usize, usize, bool),
        budget_bytes: usize,
    ) -> Result<Parsed, Broken> {
        let most_bytes = self.step_bytes(budget_bytes);
        let room = Room { budget_bytes, most_bytes, rows: self.context.batch_rows };
        let parsed = self.parser.parse(bytes, from, limit, eof, room)?;
        self.large_bytes = if let Rest::Large(needed_bytes) = parsed.rest { needed_bytes } else { 0 };
        Ok(parsed)
    }

    /// Looks for the line of what is broken in the record that begins at `offset` of the text. The error is what
    /// comes of it.
    pub(crate) fn locate(&self, offset: u64, broken: Broken) -> Pending<OperatorError> {
        let shared = Arc::clone(&self.shared);
        let file = self.range.map_or(0, |range| range.file);
        let work = move || locate(&shared.files[file], &shared.layout, offset, broken);
        self.context.io.run("reading", work)
    }
}

/// Takes the result of work on an I/O thread, or gives the work back to be waited for.
pub(crate) fn poll<T>(mut pending: Pending<T>) -> Result<std::result::Result<T, Pending<T>>> {
    // The order matters: a ticket that is done has its value in place.
    let done = pending.ticket().is_done();
    match pending.take() {
        Some(value) => Ok(Ok(value)),
        None if done => Err(pending.panicked()),
        None => Ok(Err(pending)),
    }
}

/// What to return while `pending` is waited for.
pub(crate) fn blocked<T>(pending: &Pending<T>) -> SourceStep {
    SourceStep::Blocked(pending.ticket().clone())
}

/// What a source answers that is read after it had failed.
pub(crate) fn has_failed() -> OperatorError {
    OperatorError::new("a CSV source was read after it had failed")
}
