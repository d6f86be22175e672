//! A stable sorter of more batches than memory holds.
//!
//! Batches gather in chunks, which are sorted by themselves. When memory is short, the oldest chunks are merged
//! into a run on disk, about 4 MiB at a time; runs stay in the order of their rows' arrival, and only neighbours
//! are merged, which keeps equal keys in that order. At the end runs are merged, as many at once as the memory
//! has room for, in as many passes as that takes. What a merge will ever need is reserved before it begins.
//!
//! With a `fetch`, rows that cannot be among the first are left out as soon as that is known: a few are kept in
//! memory alone, and many make each run no longer than that.

mod chunk;
mod fill;
mod keys;
mod lanes;
mod merge;
mod picker;
mod tree;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

pub use lanes::{LaneMerge, LaneStep};

use self::chunk::Chunk;
use self::keys::{Key, Keys, MAX_PLACES};
use self::merge::{DiskSource, MAX_RETIRED, Merge, MergeStep, Run, RunFile, Source};
use self::picker::{Bounds, Merged};
use super::{Next, PIECE_BYTES, budget_bytes, for_each_piece, pause};
use crate::batch::batch_bytes;
use crate::error::Result;
use crate::memory::{Account, Reservation};
use crate::spill::SpillSpace;

/// Most rows that are kept in memory because they may be among the first: more are sorted as if all were wanted,
/// so that no step takes long.
const MOST_FIRST_ROWS: usize = 1 << 17;

/// A column to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortColumn {
    /// Index of the column.
    pub column: usize,
    /// Descending or ascending, nulls first or last.
    pub options: SortOptions,
}

/// Sorts batches that do not fit in memory.
#[derive(Debug)]
pub struct ExternalSorter {
    account: Account,
    space: SpillSpace,
    schema: SchemaRef,
    keys: Keys,
    piece_bytes: usize,
    /// Bytes that one step writes: what waits for the disk is to fit in the workspace.
    step_bytes: usize,
    frame: Bounds,
    output: Bounds,
    /// What comes goes in here until it is full. Not sorted yet.
    open: Chunk,
    /// Sorted, the oldest first.
    buffered: VecDeque<Chunk>,
    buffered_bytes: usize,
    /// Rows in `open` and `buffered`.
    buffered_rows: usize,
    /// The first rows alone are wanted.
    fetch: Option<usize>,
    /// Rows that come from now on are among the first only if they come before this key.
    bound: Option<Key>,
    /// Rows that are still to be given out.
    left: usize,
    runs: VecDeque<Run>,
    /// The oldest chunks on their way to the disk as one run, while the input goes on.
    writing: Option<(Merge, NewRun)>,
    /// Merges keep to the floor: what one took beyond it was asked for.
    keeps_to_floor: bool,
    /// Where runs of the pass under way go.
    file: Option<RunFile>,
    phase: Phase,
    /// For a batch whose merge is gone.
    given: Reservation,
    passes: usize,
}

#[derive(Debug)]
enum Phase {
    Filling,
    /// What is in memory becomes the last run.
    Writing,
    /// Neighbours of `runs` are merged into fewer, longer ones.
    Pass {
        done: VecDeque<Run>,
        merge: Option<(Merge, NewRun)>,
    },
    Output(Merge),
    /// A batch that had to be completed before the merge under it could be changed.
    After(RecordBatch, Box<Phase>),
    End,
}

#[derive(Debug, Default)]
struct NewRun {
    rows: usize,
    frames: VecDeque<crate::spill::SpilledBatch>,
    cost_bytes: usize,
}

impl ExternalSorter {
    /// A sorter whose batches count in `account` and whose output has at most `batch_rows` rows a batch and
    /// about `batch_bytes` bytes.
    ///
    /// It relies on the account's whole floor: where others count there too, it needs a
    /// [part](Account::part) of [`ExternalSorter::min_memory`] for itself.
    ///
    /// # Errors
    ///
    /// If a column is not there or has a type that cannot be compared.
    pub fn new(
        account: &Account,
        space: &SpillSpace,
        schema: SchemaRef,
        columns: &[SortColumn],
        batch_rows: usize,
        batch_bytes: usize,
    ) -> Result<Self> {
        let budget = budget_bytes(account);
        let frame_bytes = (budget / 32).clamp(2 << 10, 1 << 20);
        let batch_rows = batch_rows.max(1);
        Ok(Self {
            account: account.clone(),
            space: space.clone(),
            keys: Keys::try_new(&schema, columns)?,
            schema,
            piece_bytes: (budget / 4).min(PIECE_BYTES),
            step_bytes: (2 * batch_bytes).clamp(1, PIECE_BYTES),
            frame: Bounds { rows: batch_rows, bytes: frame_bytes },
            output: Bounds { rows: batch_rows, bytes: batch_bytes.clamp(1, (budget / 8).max(frame_bytes)) },
            open: Chunk::new(account),
            buffered: VecDeque::new(),
            buffered_bytes: 0,
            buffered_rows: 0,
            fetch: None,
            bound: None,
            left: usize::MAX,
            runs: VecDeque::new(),
            writing: None,
            keeps_to_floor: false,
            file: None,
            phase: Phase::Filling,
            given: account.reservation(),
            passes: 0,
        })
    }

    /// Gives out the first `fetch` rows alone, all of them if `None`. To be called before the first batch.
    #[must_use]
    pub fn with_fetch(self, fetch: Option<usize>) -> Self {
        Self { fetch, left: fetch.unwrap_or(usize::MAX), ..self }
    }

    /// Bytes that it takes to sort batches of `batch_bytes` with all else spilled: two frames of one such row
    /// each and their keys, and the output.
    pub fn min_memory(batch_bytes: usize) -> usize {
        8 * batch_bytes + (128 << 10)
    }

    /// Adds `batch`. Its memory counts here from now on.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    ///
    /// # Panics
    ///
    /// After [`ExternalSorter::next`] has been called.
    pub fn push(&mut self, batch: RecordBatch) -> Result<()> {
        assert!(matches!(self.phase, Phase::Filling), "rows cannot be added once the output has begun");
        if self.fetch == Some(0) {
            return Ok(());
        }
        let piece_bytes = self.piece_bytes;
        // Given on as it is, nobody else has it, and it is kept without a copy.
        if batch.num_rows() <= MAX_PLACES {
            return for_each_piece(batch, piece_bytes, &mut |piece| self.push_piece(piece));
        }
        for start in (0..batch.num_rows()).step_by(MAX_PLACES) {
            let part = batch.slice(start, MAX_PLACES.min(batch.num_rows() - start));
            for_each_piece(part, piece_bytes, &mut |piece| self.push_piece(piece))?;
        }
        Ok(())
    }

    /// The next batch in order; the first call ends the input. The sorter pays for the batch until the next call.
    ///
    /// # Errors
    ///
    /// What reading and writing say; [`OperatorError::RowTooLarge`](crate::OperatorError::RowTooLarge) if two rows cannot
    /// be held side by side.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not say that it waits")]
    pub fn next(&mut self) -> Result<Next> {
        if !matches!(self.phase, Phase::After(..)) {
            self.given.shrink(usize::MAX);
        }
        loop {
            if self.left == 0 {
                self.phase = Phase::End;
            }
            match std::mem::replace(&mut self.phase, Phase::End) {
                Phase::Filling if self.runs.is_empty() && self.writing.is_none() => {
                    self.close_chunk()?;
                    let sources = self.take_buffered();
                    self.phase = Phase::Output(Merge::new(sources, self.account.reservation()));
                }
                Phase::Filling => self.phase = Phase::Writing,
                Phase::Writing => {
                    if self.writing.is_none() && self.buffered_rows > 0 {
                        self.write_all()?;
                    }
                    self.go_on_writing(self.step_bytes)?;
                    if self.writing.is_none() && self.buffered_rows == 0 {
                        self.file = None;
                        self.phase = Phase::Pass { done: VecDeque::new(), merge: None };
                    } else {
                        self.phase = Phase::Writing;
                    }
                    return Ok(Next::Blocked(pause(&self.space)));
                }
                Phase::Pass { done, merge: Some((merge, run)) } => return self.go_on(done, merge, run),
                Phase::Pass { done, merge: None } => self.next_group(done)?,
                Phase::Output(mut merge) => {
                    if !merge.is_paid(self.spare_bytes()) {
                        self.phase = Phase::Output(merge);
                        self.make_room()?;
                        return Ok(Next::Blocked(pause(&self.space)));
                    }
                    let next = match merge.next(&self.keys, self.output.at_most(self.left))? {
                        MergeStep::Batch(Merged { batch, .. }) => self.give_out(batch),
                        MergeStep::Blocked(ticket) => Next::Blocked(ticket),
                        MergeStep::End => return Ok(Next::End),
                    };
                    self.phase = Phase::Output(merge);
                    return Ok(next);
                }
                Phase::After(batch, then) => {
                    self.phase = *then;
                    return Ok(self.give_out(batch));
                }
                Phase::End => return Ok(Next::End),
            }
        }
    }

    fn give_out(&mut self, batch: RecordBatch) -> Next {
        let batch = if batch.num_rows() > self.left { batch.slice(0, self.left) } else { batch };
        self.left -= batch.num_rows();
        Next::Batch(batch)
    }

    /// Room for the output: as it is made, and as it is held by who was given it.
    fn spare_bytes(&self) -> usize {
        2 * self.output.bytes
    }

    /// Finds room for an output under way: rows in memory go to disk, and where none are left, fewer runs are
    /// to be read at once.
    fn make_room(&mut self) -> Result<()> {
        let freed = self.spill(self.piece_bytes)?;
        self.phase = match std::mem::replace(&mut self.phase, Phase::End) {
            Phase::Output(merge) if freed == 0 && !merge.holds_memory() => {
                self.runs = merge.into_runs()?;
                self.file = None;
                Phase::Pass { done: VecDeque::new(), merge: None }
            }
            phase => phase,
        };
        Ok(())
    }

    /// Number of times that all rows were merged before the output began.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Writes up to `bytes` to disk, at most 4 MiB; returns the bytes that it freed.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn spill(&mut self, bytes: usize) -> Result<usize> {
        let bytes = bytes.min(PIECE_BYTES);
        let held = self.account.held();
        match std::mem::replace(&mut self.phase, Phase::End) {
            Phase::Output(mut merge) if merge.holds_memory() => {
                let picked = merge.take_picked()?;
                if let Some((at, sources)) = merge.take_memory(bytes) {
                    let run = self.write_run(sources)?;
                    merge.put_run(at, run);
                }
                self.after(picked, Phase::Output(merge));
            }
            Phase::Output(mut merge) if self.gives_way() => {
                self.keeps_to_floor = true;
                let picked = merge.take_picked()?;
                self.runs = merge.into_runs()?;
                self.after(picked, Phase::Pass { done: VecDeque::new(), merge: None });
            }
            Phase::Pass { done, merge: Some((mut merge, mut run)) } if self.gives_way() => {
                self.keeps_to_floor = true;
                if let Some(picked) = merge.take_picked()? {
                    self.append(&mut run, &picked)?;
                }
                // What is merged comes before the rest.
                let merged = (!run.frames.is_empty()).then(|| self.finished(run));
                let later = std::mem::take(&mut self.runs);
                self.runs.extend(merged.into_iter().chain(merge.into_runs()?).chain(later));
                self.phase = Phase::Pass { done, merge: None };
            }
            Phase::After(batch, then) => {
                self.phase = *then;
                let freed = self.spill(bytes)?;
                let then = std::mem::replace(&mut self.phase, Phase::End);
                self.phase = Phase::After(batch, Box::new(then));
                return Ok(freed);
            }
            phase => {
                self.phase = phase;
                if self.writing.is_none() {
                    return self.write_oldest(bytes);
                }
                // Memory is given back at the end of the run, which comes closer.
                let written = self.go_on_writing(bytes)?;
                return Ok(held.saturating_sub(self.account.held()).max(written));
            }
        }
        Ok(held.saturating_sub(self.account.held()))
    }

    /// Whether a merge has begun that could do with less. It is begun anew once at the most, so that it gets on.
    fn gives_way(&self) -> bool {
        !self.keeps_to_floor && self.account.excess() > 0
    }

    /// Goes on with `phase` once `picked` has been given out.
    fn after(&mut self, picked: Option<Merged>, phase: Phase) {
        self.phase = match picked {
            Some(Merged { batch, .. }) => {
                self.given.set(batch_bytes(&batch));
                Phase::After(batch, Box::new(phase))
            }
            None => phase,
        };
    }

    /// Writes the oldest batches in memory, of up to `bytes`, as one run.
    fn write_oldest(&mut self, bytes: usize) -> Result<usize> {
        let held = self.account.held();
        // A run that was begun is finished first: its rows are older.
        while self.writing.is_some() {
            self.go_on_writing(PIECE_BYTES)?;
        }
        let freed = held.saturating_sub(self.account.held());
        if freed > 0 {
            return Ok(freed);
        }
        if self.buffered.is_empty() {
            self.close_chunk()?;
        }
        let (mut sources, mut taken) = (Vec::new(), 0);
        while let Some(chunk) = self.buffered.pop_front_if(|chunk| taken == 0 || taken + chunk.bytes() <= bytes) {
            taken += chunk.bytes();
            self.buffered_rows -= chunk.left();
            sources.push(Source::Memory(chunk));
        }
        if sources.is_empty() {
            return Ok(0);
        }
        self.buffered_bytes = self.buffered_bytes.saturating_sub(taken);
        let run = self.write_run(sources)?;
        self.runs.push_back(run);
        Ok(held.saturating_sub(self.account.held()))
    }

    fn write_run(&mut self, sources: Vec<Source>) -> Result<Run> {
        let mut merge = Merge::new(sources, self.account.reservation());
        let mut run = NewRun::default();
        // Sources in memory never block.
        while self.wants_more(&run)
            && let MergeStep::Batch(merged) = merge.next(&self.keys, self.frame)?
        {
            self.append(&mut run, &merged)?;
        }
        Ok(self.finished(run))
    }

    /// Whether rows behind those in `run` may be among the first.
    fn wants_more(&self, run: &NewRun) -> bool {
        self.fetch.is_none_or(|fetch| run.rows < fetch)
    }

    fn file(&mut self) -> &RunFile {
        let create = || Arc::new(Mutex::new(self.space.create("runs", SchemaRef::clone(&self.schema))));
        self.file.get_or_insert_with(create)
    }

    fn append(&mut self, run: &mut NewRun, merged: &Merged) -> Result<()> {
        let mut file = self.file().lock();
        let frame = file.append(&merged.batch)?;
        run.cost_bytes = run.cost_bytes.max(file.fetch_bytes(frame) + merged.key_bytes);
        run.rows += merged.batch.num_rows();
        run.frames.push_back(frame);
        Ok(())
    }

    fn finished(&mut self, run: NewRun) -> Run {
        Run { file: Arc::clone(self.file()), frames: run.frames, cost_bytes: run.cost_bytes }
    }

    /// Merges a little of the group under way.
    fn go_on(&mut self, mut done: VecDeque<Run>, mut merge: Merge, mut run: NewRun) -> Result<Next> {
        let mut written = 0;
        let ticket = loop {
            let step = if self.wants_more(&run) { merge.next(&self.keys, self.frame)? } else { MergeStep::End };
            match step {
                MergeStep::Batch(merged) => {
                    written += batch_bytes(&merged.batch);
                    self.append(&mut run, &merged)?;
                    if written >= self.step_bytes || self.space.backlog().is_some() {
                        break pause(&self.space);
                    }
                }
                MergeStep::Blocked(ticket) => break ticket,
                MergeStep::End => {
                    let run = self.finished(run);
                    done.push_back(run);
                    self.phase = Phase::Pass { done, merge: None };
                    return Ok(Next::Blocked(pause(&self.space)));
                }
            }
        };
        self.phase = Phase::Pass { done, merge: Some((merge, run)) };
        Ok(Next::Blocked(ticket))
    }

    /// Begins with the next neighbours; the output, if they are all there is.
    fn next_group(&mut self, mut done: VecDeque<Run>) -> Result<()> {
        if self.runs.is_empty() {
            self.passes += 1;
            self.file = None;
            self.phase = Phase::Pass { done: VecDeque::new(), merge: None };
            self.runs = done;
            return Ok(());
        }
        let largest = self.runs.iter().map(|run| run.cost_bytes).max().unwrap_or(0);
        let made = if done.is_empty() { self.output.bytes } else { self.frame.bytes };
        // Frames read to their end, and the output twice: as it is made, and as it is held by who was given it. One row
        // may be larger than any bound.
        let beside = (MAX_RETIRED + 1) * largest / 2 + 2 * made.max(largest / 2);
        let two = self.runs.iter().take(2).map(|run| run.cost_bytes).sum::<usize>();
        let mut paid = super::reserve_needed(&self.account, beside + two)?;
        let mut most = self.account.floor().saturating_sub(self.account.held());
        if !self.keeps_to_floor {
            most += self.account.pool().available();
        }
        let mut fits = self.runs.len().min(2);
        while let Some(run) = self.runs.get(fits)
            && run.cost_bytes <= most
            && paid.try_grow(run.cost_bytes)
        {
            most -= run.cost_bytes;
            fits += 1;
        }
        let all = fits == self.runs.len();
        if fits == 1 && !done.is_empty() {
            done.extend(self.runs.drain(..));
            self.phase = Phase::Pass { done, merge: None };
            return Ok(());
        }
        let sources = self.runs.drain(..fits).map(|run| {
            let held = paid.split(run.cost_bytes);
            Source::Disk(DiskSource::new(run, held))
        });
        let sources = sources.collect();
        let merge = Merge::new(sources, paid).reading_ahead(!self.keeps_to_floor);
        self.phase = if all && done.is_empty() {
            Phase::Output(merge)
        } else {
            Phase::Pass { done, merge: Some((merge, NewRun::default())) }
        };
        Ok(())
    }
}
