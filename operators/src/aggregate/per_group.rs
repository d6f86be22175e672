//! An accumulator for each group, for functions that have none for many groups at once, and for one group alone.
//!
//! Rows reach a group's accumulator in their order. Work is proportional to the rows and groups of a batch,
//! never to all groups there are.

use std::sync::Arc;

use aqueduct_runtime::batch::array_bytes;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::{cast, concat, filter, take};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

pub(crate) struct PerGroup {
    expression: Arc<AggregateFunctionExpr>,
    state_types: Vec<DataType>,
    groups: Vec<Group>,
    /// Sum of what the groups hold.
    bytes: usize,
    /// Group and row of a batch, packed: sorted, they bring each group's rows together and keep their order.
    order: Vec<u64>,
}

struct Group {
    accumulator: Box<dyn Accumulator>,
    /// As its accumulator said when last asked. Asking may cost time proportional to the state.
    measured: usize,
    /// Bytes of the values it was given since.
    since: usize,
}

/// What an allocator needs beside each of the few allocations of an accumulator.
const BOX_BYTES: usize = 32;

impl Group {
    fn bytes(&self) -> usize {
        self.measured + self.since
    }

    fn measure(&mut self) {
        self.measured = self.accumulator.size() + BOX_BYTES;
        self.since = 0;
    }
}

impl PerGroup {
    pub(crate) fn new(expression: Arc<AggregateFunctionExpr>, state_types: Vec<DataType>) -> Self {
        Self { expression, state_types, groups: Vec::new(), bytes: 0, order: Vec::new() }
    }

    fn group(&self) -> Result<Group> {
        let accumulator = self.expression.create_accumulator()?;
        let mut group = Group { accumulator, measured: 0, since: 0 };
        group.measure();
        Ok(group)
    }

    fn for_each(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
        update: impl Fn(&mut dyn Accumulator, &[ArrayRef]) -> Result<()>,
    ) -> Result<()> {
        while self.groups.len() < total_num_groups {
            let group = self.group()?;
            self.bytes += group.bytes();
            self.groups.push(group);
        }
        if group_indices.is_empty() {
            return Ok(());
        }
        if total_num_groups == 1 {
            let masked = |column: &ArrayRef| opt_filter.map_or(Ok(Arc::clone(column)), |mask| filter(column, mask));
            let columns = values.iter().map(masked).collect::<Result<Vec<_>, _>>()?;
            return self.update(0, &columns, &update);
        }
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(group_indices.iter().enumerate().map(|(row, group)| (*group as u64) << 32 | row as u64));
        order.sort_unstable();
        let one_group = order.first().map(|first| first >> 32) == order.last().map(|last| last >> 32);
        let rows: UInt32Array = order.iter().map(|entry| *entry as u32).collect();
        let (values, mask) = if one_group {
            (values.to_vec(), opt_filter.cloned())
        } else {
            let values = values.iter().map(|column| take(column, &rows, None)).collect::<Result<Vec<_>, _>>()?;
            let mask = opt_filter.map(|mask| take(mask, &rows, None)).transpose()?;
            (values, mask.map(|mask| mask.as_boolean().clone()))
        };
        let mut start = 0;
        for run in order.chunk_by(|a, b| a >> 32 == b >> 32) {
            let columns = values
                .iter()
                .map(|column| {
                    let column = column.slice(start, run.len());
                    match &mask {
                        Some(mask) => filter(&column, &mask.slice(start, run.len())),
                        None => Ok(column),
                    }
                })
                .collect::<Result<Vec<_>, _>>()?;
            self.update((run[0] >> 32) as usize, &columns, &update)?;
            start += run.len();
        }
        order.shrink_to(8192);
        self.order = order;
        Ok(())
    }

    /// Gives all rows of `columns` to one group.
    fn update(
        &mut self,
        group: usize,
        columns: &[ArrayRef],
        update: impl Fn(&mut dyn Accumulator, &[ArrayRef]) -> Result<()>,
    ) -> Result<()> {
        let group = &mut self.groups[group];
        let before = group.bytes();
        update(group.accumulator.as_mut(), columns)?;
        group.since += columns.iter().map(array_bytes).sum::<usize>();
        if group.since > group.measured / 2 {
            group.measure();
        }
        self.bytes = self.bytes + group.bytes() - before;
        Ok(())
    }

    fn emitted(&mut self, emit_to: EmitTo) -> Vec<Group> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.bytes -= groups.iter().map(Group::bytes).sum::<usize>();
        groups
    }
}

/// Groups whose results are turned into arrays at once. A single list of strings may take 16 KiB on its way,
/// whatever is in it.
const AT_ONCE: usize = 16;

/// Columns of `types` with a row for each group, of what `emit` says of it.
fn columns_of(
    groups: Vec<Group>,
    types: &[DataType],
    mut emit: impl FnMut(&mut dyn Accumulator) -> Result<Vec<ScalarValue>>,
) -> Result<Vec<ArrayRef>> {
    let mut pieces: Vec<Vec<ArrayRef>> = types.iter().map(|_| Vec::new()).collect();
    let mut groups = groups.into_iter().peekable();
    while groups.peek().is_some() {
        let mut columns: Vec<Vec<ScalarValue>> = types.iter().map(|_| Vec::with_capacity(AT_ONCE)).collect();
        for mut group in groups.by_ref().take(AT_ONCE) {
            for (column, value) in columns.iter_mut().zip(emit(group.accumulator.as_mut())?) {
                column.push(value);
            }
        }
        for ((pieces, values), data_type) in pieces.iter_mut().zip(columns).zip(types) {
            let array = ScalarValue::iter_to_array(values)?;
            // A column of nulls alone does not know its type.
            pieces.push(if array.data_type() == data_type { array } else { cast(&array, data_type)? });
        }
    }
    let whole = |(pieces, data_type): (Vec<ArrayRef>, &DataType)| match &pieces[..] {
        [] => Ok(new_empty_array(data_type)),
        many => Ok(concat(&many.iter().map(|piece| piece.as_ref()).collect::<Vec<_>>())?),
    };
    pieces.into_iter().zip(types).map(whole).collect()
}

impl GroupsAccumulator for PerGroup {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let update = |accumulator: &mut dyn Accumulator, values: &[ArrayRef]| accumulator.update_batch(values);
        self.for_each(values, group_indices, opt_filter, total_num_groups, update)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emitted(emit_to);
        let types = [self.expression.field().data_type().clone()];
        let mut columns = columns_of(groups, &types, |accumulator| Ok(vec![accumulator.evaluate()?]))?;
        Ok(columns.swap_remove(0))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.emitted(emit_to);
        columns_of(groups, &self.state_types, |accumulator| accumulator.state())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        let merge = |accumulator: &mut dyn Accumulator, values: &[ArrayRef]| accumulator.merge_batch(values);
        self.for_each(values, group_indices, None, total_num_groups, merge)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |column| column.len());
        let mut single = Self::new(Arc::clone(&self.expression), self.state_types.clone());
        let groups: Vec<_> = (0..rows).collect();
        single.update_batch(values, &groups, opt_filter, rows)?;
        single.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.bytes + self.groups.capacity() * size_of::<Group>() + self.order.capacity() * 8
    }
}
