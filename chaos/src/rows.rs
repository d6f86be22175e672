//! What rows come to in one number, in any order of theirs or in the one that they have.

use std::hash::{DefaultHasher, Hash, Hasher};

use aqueduct::arrow::record_batch::RecordBatch;
use aqueduct::arrow::row::{RowConverter, SortField};

/// Rows in short: equal for equal rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    sum: u64,
    ordered: bool,
}

impl Digest {
    /// Of no rows, whose order counts if they are `ordered`.
    pub fn new(ordered: bool) -> Self {
        Self { rows: 0, sum: 0, ordered }
    }

    /// Adds rows.
    ///
    /// # Panics
    ///
    /// If arrow cannot put them into its row format.
    pub fn add(&mut self, batch: &RecordBatch) {
        let fields = batch.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).expect("types that can be compared");
        let rows = converter.convert_columns(batch.columns()).expect("columns of these types");
        for row in &rows {
            let mut hasher = DefaultHasher::new();
            row.as_ref().hash(&mut hasher);
            if self.ordered {
                self.rows.hash(&mut hasher);
            }
            self.sum = self.sum.wrapping_add(hasher.finish());
            self.rows += 1;
        }
    }
}
