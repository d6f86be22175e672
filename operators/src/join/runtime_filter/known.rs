//! All keys of a join's held side: how far they reach, and which they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use aqueduct_runtime::Result;
use aqueduct_runtime::memory::Account;
use arrow::array::{Array, ArrayRef, BooleanArray, BooleanBufferBuilder};
use arrow::buffer::BooleanBuffer;
use arrow::compute::and;
use arrow::compute::kernels::cmp::{gt_eq, lt_eq};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Accumulator;
use datafusion_functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use parking_lot::Mutex;

use super::bloom::Bloom;
use super::{MOST_KEYS, Part};
use crate::expression::failed;
use crate::join::keys::KeyEncoder;

/// Rows whose keys are made together.
const SLICE_ROWS: usize = 1024;
/// Rows that are looked at before it is said that looking is of no use.
const TRIAL_ROWS: usize = 1 << 16;

/// The least and the largest value of a key, where that can be told.
#[derive(Debug)]
pub(super) struct Bound {
    values: Option<(MinAccumulator, MaxAccumulator)>,
}

impl Bound {
    /// Of no values yet. Of floats there is none: bounds do not know which of them are equal.
    pub(super) fn new(kind: &DataType, nulls_equal: bool) -> Self {
        let is_plain = match kind {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
            DataType::Interval(_) => false,
            kind => kind.primitive_width().is_some() && !kind.is_floating(),
        };
        let new = || Some((MinAccumulator::try_new(kind).ok()?, MaxAccumulator::try_new(kind).ok()?));
        Self { values: if is_plain && !nulls_equal { new() } else { None } }
    }

    pub(super) fn update(&mut self, column: &ArrayRef) {
        let Some((min, max)) = &mut self.values else { return };
        let values = std::slice::from_ref(column);
        if min.update_batch(values).is_err() || max.update_batch(values).is_err() {
            self.values = None;
        }
    }

    fn get(&mut self) -> Option<(ScalarValue, ScalarValue)> {
        let (min, max) = self.values.as_mut()?;
        Some((min.evaluate().ok()?, max.evaluate().ok()?))
    }
}

#[derive(Debug)]
pub(super) struct Known {
    encoder: Arc<KeyEncoder>,
    /// Of each key, where they can be told. Null if there are only null keys.
    pub(super) bounds: Vec<Option<(ScalarValue, ScalarValue)>>,
    is_empty: bool,
    keys: Mutex<Option<Arc<Bloom>>>,
    looked: AtomicUsize,
    passed: AtomicUsize,
}

impl Known {
    /// What `parts`, all there are, have told.
    pub(super) fn new(mut parts: Vec<Part>, encoder: Arc<KeyEncoder>, memory: &Account) -> Self {
        let is_empty = parts.iter().all(|part| part.rows == 0);
        let mut bounds: Vec<Option<(ScalarValue, ScalarValue)>> = Vec::new();
        for part in &mut parts {
            let of_part: Vec<_> = part.bounds.iter_mut().map(Bound::get).collect();
            if bounds.is_empty() {
                bounds = of_part;
                continue;
            }
            for (all, one) in bounds.iter_mut().zip(of_part) {
                *all = all.take().zip(one).and_then(|(all, one)| wider(all, one));
            }
        }
        let hashes: Option<Vec<&[u64]>> =
            parts.iter().map(|part| part.hashes.as_ref().map(|(hashes, _)| hashes.as_slice())).collect();
        let hashes = hashes.filter(|parts| parts.iter().map(|part| part.len()).sum::<usize>() <= MOST_KEYS);
        let keys = hashes.and_then(|parts| Bloom::of(parts.into_iter(), memory)).map(Arc::new);
        let (looked, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { encoder, bounds, is_empty, keys: Mutex::new(keys), looked, passed }
    }

    /// Whether no row can pass.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Lets go of the keys; the bytes that this frees.
    pub(super) fn forget_keys(&self) -> usize {
        self.keys.lock().take().map_or(0, |keys| keys.bytes())
    }

    /// Whether nearly all rows have passed, so that looking at more costs more than it saves.
    fn is_useless(&self) -> bool {
        let (looked, passed) = (self.looked.load(Relaxed), self.passed.load(Relaxed));
        looked >= TRIAL_ROWS && passed >= looked / 8 * 7
    }

    /// Which rows may have a key that is held; nothing if all may.
    pub(super) fn mask(&self, columns: &[ArrayRef], rows: usize) -> Result<Option<BooleanArray>> {
        if self.is_useless() {
            return Ok(None);
        }
        let keys = self.keys.lock().clone();
        let mask = match keys {
            Some(bloom) => BooleanArray::new(self.found(&bloom, columns, rows)?, None),
            None => {
                let mut all: Option<BooleanArray> = None;
                for (column, bounds) in columns.iter().zip(&self.bounds) {
                    let Some((min, max)) = bounds else { continue };
                    let (min, max) = (min.to_scalar().map_err(failed)?, max.to_scalar().map_err(failed)?);
                    let within = and(&gt_eq(column, &min)?, &lt_eq(column, &max)?)?;
                    all = Some(match all {
                        Some(all) => and(&all, &within)?,
                        None => within,
                    });
                }
                match all {
                    Some(all) => all,
                    None => return Ok(None),
                }
            }
        };
        self.looked.fetch_add(rows, Relaxed);
        // A null is not true.
        self.passed.fetch_add(mask.true_count(), Relaxed);
        Ok(Some(mask))
    }
}

impl Known {
    /// Which rows have a key that is in `bloom`: a few rows at a time, so that their hashes take no memory to speak of.
    fn found(&self, bloom: &Bloom, columns: &[ArrayRef], rows: usize) -> Result<BooleanBuffer> {
        let mut found = BooleanBufferBuilder::new(rows);
        let mut hashes = Vec::new();
        for start in (0..rows).step_by(SLICE_ROWS) {
            let count = SLICE_ROWS.min(rows - start);
            let columns: Vec<ArrayRef> = columns.iter().map(|column| column.slice(start, count)).collect();
            let keys = self.encoder.encode(&columns, count)?;
            keys.hash(&mut hashes);
            let slice = BooleanBuffer::collect_bool(count, |row| bloom.has(hashes[row]));
            found.append_buffer(&match &keys.valid {
                Some(valid) => &slice & valid.inner(),
                None => slice,
            });
        }
        Ok(found.finish())
    }
}

/// Bounds around both.
fn wider(a: (ScalarValue, ScalarValue), b: (ScalarValue, ScalarValue)) -> Option<(ScalarValue, ScalarValue)> {
    // A partition without keys has no bounds.
    if a.0.is_null() || b.0.is_null() {
        return Some(if a.0.is_null() { b } else { a });
    }
    let (mut min, mut max) = a;
    if b.0.partial_cmp(&min)?.is_lt() {
        min = b.0;
    }
    if b.1.partial_cmp(&max)?.is_gt() {
        max = b.1;
    }
    Some((min, max))
}
