//! Where batches of a tape are on disk, itself on disk: what is remembered of each would add up.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::spill::{Fetch, SpillFile, SpilledBatch};
use arrow::array::{ArrayRef, AsArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use super::super::desk::Desk;
use super::{Entry, Written};

const COLUMNS: [&str; 5] = ["rows", "file", "offset", "length", "memory_bytes"];

/// Many neighbouring batches.
pub(super) struct Folded {
    place: Written,
    /// The files that they are in.
    files: Vec<Arc<Mutex<SpillFile>>>,
}

/// `entries`, all of which are on disk, as one.
pub(super) fn folded(entries: Vec<Entry>, index: &mut Option<Arc<Mutex<SpillFile>>>, desk: &mut Desk) -> Result<Entry> {
    let mut files: Vec<Arc<Mutex<SpillFile>>> = Vec::new();
    let mut columns: [Vec<u64>; 5] = Default::default();
    let (start, mut rows) = (entries.first().map_or(0, |entry| entry.start), 0);
    for entry in entries {
        let Some((file, place)) = entry.disk else { continue };
        let number = files.iter().position(|known| Arc::ptr_eq(known, &file)).unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        rows += entry.rows;
        let values = [entry.rows, number as u64, place.offset, place.length, place.memory_bytes as u64];
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let schema = Arc::new(Schema::new(COLUMNS.map(|name| Field::new(name, DataType::UInt64, false)).to_vec()));
    let columns = columns.map(|column| Arc::new(UInt64Array::from(column)) as ArrayRef).to_vec();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let create = || Arc::new(Mutex::new(desk.spill.create("window-index", schema)));
    let file = Arc::clone(index.get_or_insert_with(create));
    let place = file.lock().append(&batch)?;
    let folded = Some(Box::new(Folded { place: (file, place), files }));
    Ok(Entry { start, rows, batch: None, disk: None, folded, fetch: None })
}

impl Folded {
    /// Bytes that it takes to read it.
    pub(super) fn bytes(&self) -> usize {
        self.place.0.lock().fetch_bytes(self.place.1)
    }

    pub(super) fn fetch(&self) -> Fetch {
        self.place.0.lock().fetch(self.place.1)
    }

    /// The entries that `batch` has of it, from position `start` on.
    pub(super) fn entries(&self, start: u64, batch: &RecordBatch) -> Vec<Entry> {
        let column = |index: usize| batch.column(index).as_primitive::<UInt64Type>();
        let mut start = start;
        let entry = |row: usize| {
            let [rows, file, offset, length, memory_bytes] = [0, 1, 2, 3, 4].map(|index| column(index).value(row));
            let place = SpilledBatch { offset, length, rows: rows as usize, memory_bytes: memory_bytes as usize };
            let disk = Some((Arc::clone(&self.files[file as usize]), place));
            let entry = Entry { start, rows, batch: None, disk, folded: None, fetch: None };
            start += rows;
            entry
        };
        (0..batch.num_rows()).map(entry).collect()
    }
}
