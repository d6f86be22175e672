//! One hash table of groups: their keys, and the states of all aggregates.
//!
//! `bytes` is what it is accounted for. Before rows are added, `growth` says what that may need at once;
//! afterwards `bytes` says what it came to.

use std::ops::Range;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion_expr::{EmitTo, GroupsAccumulator};

use super::describe::{Aggregate, Unsaid};
use super::keys::GroupKeys;
use crate::expression::failed;

pub(crate) struct Table {
    pub(crate) keys: GroupKeys,
    states: Vec<State>,
}

struct State {
    accumulator: Box<dyn GroupsAccumulator>,
    /// Groups that the accumulator's vectors have room for, if they grow as vectors do.
    room: usize,
    /// Bytes of a group at the least, whatever the accumulator says.
    group_bytes: usize,
    unsaid: Unsaid,
    /// Groups there are.
    groups: usize,
    columns: usize,
    /// Whether a group's state grows with its rows, as a median's does.
    grows: bool,
    /// What the accumulator said when last asked, and what it was given since. Asking may cost time
    /// proportional to the number of groups.
    measured: usize,
    since: usize,
}

impl State {
    fn bytes(&self) -> usize {
        let said = self.measured / 100 * self.unsaid.percent + self.since;
        said.max(self.room * self.group_bytes) + self.groups * self.unsaid.group_bytes
    }

    /// Rows came, with values of `bytes`; there are `groups` groups now.
    fn took(&mut self, groups: usize, bytes: usize) {
        self.groups = groups;
        let grown = groups > self.room;
        if grown {
            self.room = groups.max(2 * self.room);
        }
        self.since += bytes;
        if grown || self.since > self.measured / 8 + 512 {
            self.measured = self.accumulator.size();
            self.since = 0;
        }
    }
}

/// Raw rows as one aggregate sees them.
pub(crate) type Arguments = (Vec<ArrayRef>, Option<BooleanArray>);

impl Table {
    pub(crate) fn new(aggregate: &Aggregate, cached: bool) -> Result<Self> {
        let states = aggregate
            .functions()
            .iter()
            .map(|function| {
                Ok(State {
                    accumulator: function.accumulator()?,
                    room: 0,
                    group_bytes: function.group_bytes(),
                    unsaid: function.unsaid_size(),
                    groups: 0,
                    columns: function.state_columns(),
                    grows: function.grows(),
                    measured: 0,
                    since: 0,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { keys: GroupKeys::new(aggregate.key_types(), cached)?, states })
    }

    pub(crate) fn groups(&self) -> usize {
        self.keys.len()
    }

    /// Bytes that this table is accounted for.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.states.iter().map(State::bytes).sum::<usize>()
    }

    /// Bytes that `rows` rows, of `key_bytes` in key columns and `kept_bytes` in values that states may keep,
    /// can need at once on top of [`Table::bytes`].
    pub(crate) fn growth(&self, rows: usize, keys: &[ArrayRef], kept_bytes: usize) -> usize {
        let groups = self.groups() + rows;
        let states: usize = self
            .states
            .iter()
            .map(|state| {
                let per_group = (state.bytes() / state.room.max(1)).clamp(state.group_bytes, 64 * state.group_bytes);
                let more_groups = if groups > state.room { groups.max(2 * state.room) * per_group } else { 0 };
                let more_groups = more_groups + rows * state.unsaid.group_bytes;
                // What one group keeps may double, and that may be nearly all there is.
                more_groups + if state.grows { state.bytes() } else { 0 }
            })
            .sum();
        // A value of 8 bytes takes up to 16 in a set that has just doubled, next to its old half.
        self.keys.growth(rows, keys) + states + 4 * kept_bytes
    }

    /// Bytes of raw values that the states may keep.
    pub(crate) fn kept_arguments(&self, arguments: &[Arguments]) -> usize {
        let growing = self.states.iter().zip(arguments).filter(|(state, _)| state.grows);
        growing.map(|(state, (values, _))| bytes_of(values) * state.unsaid.percent / 100).sum()
    }

    /// Bytes of states that the states of this table may keep.
    pub(crate) fn kept_states(&self, states: &[ArrayRef]) -> usize {
        let mut rest = states;
        let mut kept = 0;
        for state in &self.states {
            let (values, others) = rest.split_at(state.columns);
            rest = others;
            if state.grows {
                kept += bytes_of(values) * state.unsaid.percent / 100;
            }
        }
        kept
    }

    /// Adds raw rows.
    pub(crate) fn update(
        &mut self,
        keys: &[ArrayRef],
        arguments: &[Arguments],
        rows: usize,
        groups: &mut Vec<usize>,
    ) -> Result<()> {
        self.keys.intern(keys, rows, groups)?;
        let total = self.keys.len();
        for (state, (values, filter)) in self.states.iter_mut().zip(arguments) {
            state.accumulator.update_batch(values, groups, filter.as_ref(), total).map_err(failed)?;
            let kept = if state.grows { bytes_of(values) } else { 0 };
            state.took(total, kept);
        }
        Ok(())
    }

    /// Adds rows of keys and states.
    pub(crate) fn merge(&mut self, keys: &[ArrayRef], states: &[ArrayRef], groups: &mut Vec<usize>) -> Result<()> {
        let rows = keys.iter().chain(states).next().map_or(0, |column| column.len());
        self.keys.intern(keys, rows, groups)?;
        let total = self.keys.len();
        let mut rest = states;
        for state in &mut self.states {
            let (values, others) = rest.split_at(state.columns);
            rest = others;
            state.accumulator.merge_batch(values, groups, total).map_err(failed)?;
            let kept = if state.grows { bytes_of(values) } else { 0 };
            state.took(total, kept);
        }
        Ok(())
    }

    /// Turns the table into the columns of its states, or, `finally`, of its results. The keys stay.
    pub(crate) fn emit(mut self, finally: bool) -> Result<Emitted> {
        self.keys.seal();
        let mut columns = Vec::new();
        for mut state in self.states {
            if finally {
                columns.push(state.accumulator.evaluate(EmitTo::All).map_err(failed)?);
            } else {
                columns.extend(state.accumulator.state(EmitTo::All).map_err(failed)?);
            }
        }
        Ok(Emitted { keys: self.keys, columns })
    }
}

/// What a table held, to be taken in pieces.
pub(crate) struct Emitted {
    keys: GroupKeys,
    columns: Vec<ArrayRef>,
}

impl Emitted {
    pub(crate) fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of all rows.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>()
    }

    /// Columns of `range`: keys newly allocated, all others slices of what the table held.
    pub(crate) fn piece(&self, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        let mut columns = self.keys.emit(range.clone())?;
        columns.extend(self.columns.iter().map(|column| column.slice(range.start, range.len())));
        Ok(columns)
    }
}

/// Bytes of the values of `columns`.
pub(crate) fn bytes_of(columns: &[ArrayRef]) -> usize {
    columns.iter().map(aqueduct_runtime::batch::array_bytes).sum()
}
