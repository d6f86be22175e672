//! The store: rows that a job wrote to spill files, for other jobs to read. They are on disk from the start, so they take
//! no memory between jobs, and are gone with the last who holds them.
//!
//! ```text
//! job 1   ... ──▶ StoreSink ──commit──▶ Store { Part, Part, .. }     a part is one file: what one partition wrote
//! job 2                                   └──▶ StoreSource ──▶ ...   a split is some batches of a part
//! ```

mod sink;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use aqueduct_runtime::spill::{Fetch, SpillFile, SpilledBatch};
use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;

pub use sink::StoreSink;
pub use source::StoreSource;

/// Files of a store at the most: each is open.
const MOST_FILES: usize = 64;

/// Rows on disk, in spill files of the cluster that wrote them.
pub struct Store {
    schema: SchemaRef,
    parts: Vec<Arc<Part>>,
}

/// What one partition wrote: a file, and where in it the batches are.
struct Part {
    batches: Vec<SpilledBatch>,
    rows: u64,
    bytes: u64,
    /// What reading the largest batch takes.
    fetch_bytes: usize,
    /// None once it was cleared.
    file: Mutex<Option<SpillFile>>,
}

impl Store {
    /// Names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The rows of this store and, behind them, those of `more`, of the same columns. Both stay as they are; the files
    /// belong to whoever holds one of the three.
    ///
    /// # Errors
    ///
    /// If the types differ.
    pub fn with(&self, more: &Store) -> Result<Store> {
        if !crate::expression::same_types(&self.schema, &more.schema) {
            return Err(OperatorError::new(format!(
                "rows of {} do not go behind rows of {}",
                more.schema, self.schema
            )));
        }
        let parts = self.parts.iter().chain(&more.parts).map(Arc::clone).collect();
        Ok(Store { schema: SchemaRef::clone(&self.schema), parts })
    }

    /// Where it has very many files: the first ones, which are large, and the last ones, which are better made one. Each
    /// row is copied a few times at the most, however often some are added.
    pub fn split_for_merging(&self) -> Option<(Store, Store)> {
        if self.parts.len() <= MOST_FILES {
            return None;
        }
        let (mut first, mut bytes) = (self.parts.len(), 0);
        while first > 0 && (first + MOST_FILES / 2 > self.parts.len() || self.parts[first - 1].bytes <= bytes) {
            first -= 1;
            bytes += self.parts[first].bytes;
        }
        let of = |parts: &[Arc<Part>]| Store { schema: SchemaRef::clone(&self.schema), parts: parts.to_vec() };
        let (head, tail) = self.parts.split_at(first);
        Some((of(head), of(tail)))
    }

    /// Removes the files, whoever holds the store: the cluster closes. Reading them is an error from now on.
    pub fn clear(&self) {
        self.parts.iter().for_each(|part| drop(part.file.lock().take()));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} rows in {} files)", self.rows(), self.parts.len())
    }
}

impl Part {
    fn new(file: SpillFile, batches: Vec<SpilledBatch>) -> Self {
        let fetch_bytes = batches.iter().map(|batch| file.fetch_bytes(*batch)).max().unwrap_or(0);
        let rows = batches.iter().map(|batch| batch.rows as u64).sum();
        Self { rows, bytes: file.bytes(), fetch_bytes, batches, file: Mutex::new(Some(file)) }
    }

    fn with_file<T>(&self, read: impl FnOnce(&SpillFile) -> T) -> Result<T> {
        match &*self.file.lock() {
            Some(file) => Ok(read(file)),
            None => Err(OperatorError::new("the rows that were kept are gone: their cluster is closed")),
        }
    }

    fn fetch(&self, batch: SpilledBatch) -> Result<Fetch> {
        self.with_file(|file| file.fetch(batch))
    }

    fn fetch_bytes(&self, batch: SpilledBatch) -> Result<usize> {
        self.with_file(|file| file.fetch_bytes(batch))
    }
}
