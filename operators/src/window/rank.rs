//! Functions of a row's place alone: `row_number`, `rank`, `dense_rank`, `percent_rank`, `cume_dist`, `ntile`.
//!
//! They are computed as rows leave. Those that need the size of the partition leave with its rows once it is known.

use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};

use super::ahead::{Ahead, Arrival, Results};
use super::desk::Desk;
use super::marks::Marks;

/// Rows of one partition within a batch that leaves.
pub(super) struct Segment {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Whether the partition begins here.
    pub(super) begins: bool,
    /// Rows of the whole partition, if somebody needs them.
    pub(super) size: u64,
}

/// Which function of the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    /// Into how many tiles.
    Ntile(u64),
}

impl Place {
    pub(super) fn needs_size(self) -> bool {
        matches!(self, Place::PercentRank | Place::Ntile(_))
    }
}

/// Numbers rows as they leave.
pub(super) struct Ranking {
    place: Place,
    /// Rows of the partition so far.
    rows: u64,
    /// Number of the first of the present peers.
    first: u64,
    /// Peers of the partition so far.
    groups: u64,
}

impl Ranking {
    pub(super) fn new(place: Place) -> Self {
        Self { place, rows: 0, first: 0, groups: 0 }
    }

    pub(super) fn column(&mut self, rows: usize, marks: &Marks, segments: &[Segment]) -> ArrayRef {
        let mut numbers = vec![0u64; rows];
        let mut peers = marks.peers.iter().map(|row| *row as usize).peekable();
        let mut fractions = (self.place == Place::PercentRank).then(|| vec![0f64; rows]);
        for segment in segments {
            if segment.begins {
                (self.rows, self.first, self.groups) = (0, 0, 0);
            }
            let numbers = &mut numbers[segment.from..segment.to];
            let before = self.rows;
            self.rows += numbers.len() as u64;
            match self.place {
                Place::RowNumber => {
                    numbers.iter_mut().zip(before + 1..).for_each(|(number, next)| *number = next);
                }
                Place::Ntile(tiles) => {
                    let (base, longer) = (segment.size / tiles, segment.size % tiles);
                    let in_longer = longer * (base + 1);
                    for (number, row) in numbers.iter_mut().zip(before..) {
                        *number = if row < in_longer {
                            row / (base + 1) + 1
                        } else {
                            longer + (row - in_longer) / base.max(1) + 1
                        };
                    }
                }
                Place::Rank | Place::DenseRank | Place::PercentRank => {
                    let mut at = segment.from;
                    while at < segment.to {
                        if peers.next_if_eq(&at).is_some() {
                            self.first = before + (at - segment.from) as u64 + 1;
                            self.groups += 1;
                        }
                        let end = peers.peek().copied().unwrap_or(segment.to).min(segment.to);
                        let number = if self.place == Place::DenseRank { self.groups } else { self.first };
                        numbers[at - segment.from..end - segment.from].fill(number);
                        at = end;
                    }
                }
            }
            if let Some(fractions) = &mut fractions {
                let others = segment.size.saturating_sub(1).max(1) as f64;
                for (fraction, number) in fractions[segment.from..segment.to].iter_mut().zip(numbers) {
                    *fraction = (*number - 1) as f64 / others;
                }
            }
        }
        match fractions {
            Some(fractions) => Arc::new(Float64Array::from(fractions)),
            None => Arc::new(UInt64Array::from(numbers)),
        }
    }
}

/// For each row the rows of its partition up to its last peer: what `cume_dist` divides by the partition's size.
pub(super) struct PeerEnds {
    results: Results,
    /// Rows of the open partition before its open peers, and of these.
    before: u64,
    open: u64,
}

impl PeerEnds {
    pub(super) fn new(desk: &Desk) -> Self {
        let field: FieldRef = Arc::new(Field::new("rows", DataType::UInt64, false));
        Self { results: Results::new(desk, &field, true), before: 0, open: 0 }
    }

    /// The fractions of rows that leave.
    pub(super) fn fractions(ends: &ArrayRef, segments: &[Segment]) -> ArrayRef {
        let mut fractions = vec![0f64; ends.len()];
        let ends = ends.as_primitive::<UInt64Type>().values();
        for Segment { from, to, size, .. } in segments {
            for (fraction, end) in fractions[*from..*to].iter_mut().zip(&ends[*from..*to]) {
                *fraction = *end as f64 / *size as f64;
            }
        }
        Arc::new(Float64Array::from(fractions))
    }
}

impl Ahead for PeerEnds {
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()> {
        let rows = arrival.rows.num_rows() as u64;
        let (mut values, mut runs) = (Vec::new(), Vec::new());
        let mut partitions = arrival.marks.partitions.iter().peekable();
        let mut at = 0u64;
        for peer in &arrival.marks.peers {
            self.open += u64::from(*peer) - at;
            at = u64::from(*peer);
            if self.open > 0 {
                self.before += self.open;
                values.push(self.before);
                runs.push(std::mem::take(&mut self.open));
            }
            if partitions.next_if_eq(&peer).is_some() {
                self.before = 0;
            }
        }
        self.open += rows - at;
        if values.is_empty() {
            return Ok(());
        }
        self.results.push_runs(Arc::new(UInt64Array::from(values)), runs, desk)
    }

    fn end(&mut self, desk: &mut Desk) -> Result<()> {
        if self.open == 0 {
            return Ok(());
        }
        let values = Arc::new(UInt64Array::from(vec![self.before + self.open]));
        self.results.push_runs(values, vec![std::mem::take(&mut self.open)], desk)
    }

    fn results(&mut self) -> &mut Results {
        &mut self.results
    }
}
