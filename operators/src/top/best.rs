//! The best rows of each group so far, as far as it takes to tell that another row is not among them: their codes.

use aqueduct_runtime::Result;
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::TopKind;
use super::order::{Code, Order};
use crate::aggregate::{GroupKeys, doubling};

/// Codes of the best rows of each group.
pub(super) struct Best<C> {
    kind: TopKind,
    /// Rows of a group that are wanted.
    rows: usize,
    keys: GroupKeys,
    /// `rows` for each group in their order; [`Code::END`] where there are none yet.
    codes: Vec<C>,
}

impl<C: Code> Best<C> {
    pub(super) fn new(key_types: &[DataType], kind: TopKind, rows: usize) -> Result<Self> {
        Ok(Self { kind, rows, keys: GroupKeys::new(key_types, true)?, codes: Vec::new() })
    }

    pub(super) fn groups(&self) -> usize {
        self.codes.len() / self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + size_of::<C>() * self.codes.capacity()
    }

    /// Bytes that `rows` rows, those in `keys`, can need at once on top of [`Best::bytes`].
    pub(super) fn growth(&self, rows: usize, keys: &[ArrayRef]) -> usize {
        let codes = (self.groups() + rows) * self.rows;
        self.keys.growth(rows, keys) + doubling(size_of::<C>() * self.codes.capacity(), size_of::<C>() * codes)
    }

    /// Replaces `groups` by the group of each row, and `kept` by the rows that may be among the best of theirs.
    pub(super) fn take_in(
        &mut self,
        keys: &[ArrayRef],
        codes: &[C],
        order: &Order,
        groups: &mut Vec<usize>,
        kept: &mut Vec<u32>,
    ) -> Result<()> {
        self.keys.intern(keys, codes.len(), groups)?;
        self.codes.resize(self.keys.len() * self.rows, C::END);
        kept.clear();
        match self.kind {
            TopKind::RowNumber => self.compare(codes, groups, kept, |code| !code.is_exact(order), |_, _| false),
            TopKind::Rank => self.compare(codes, groups, kept, |_| true, |_, _| false),
            TopKind::DenseRank => self.compare(codes, groups, kept, |_| true, |best, code| best.contains(&code)),
        }
        Ok(())
    }

    /// A row that is behind the last of the best ones is not wanted; one beside it is if `peers` says so. It counts unless
    /// it `is_known`.
    fn compare(
        &mut self,
        codes: &[C],
        groups: &[usize],
        kept: &mut Vec<u32>,
        peers: impl Fn(C) -> bool,
        is_known: impl Fn(&[C], C) -> bool,
    ) {
        let last = self.rows - 1;
        for (row, (&group, &code)) in groups.iter().zip(codes).enumerate() {
            let best = &mut self.codes[group * self.rows..][..self.rows];
            if code > best[last] || (code == best[last] && !peers(code)) {
                continue;
            }
            kept.push(row as u32);
            if code < best[last] && !is_known(best, code) {
                let place = best.partition_point(|known| *known <= code);
                best.copy_within(place..last, place + 1);
                best[place] = code;
            }
        }
    }

    /// Whether a row that was kept may still be among the best.
    #[inline]
    pub(super) fn wants(&self, group: u32, code: C) -> bool {
        code <= self.codes[(group as usize + 1) * self.rows - 1]
    }
}
