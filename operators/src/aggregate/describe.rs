//! What is grouped by and computed: one description for both halves of an aggregation.
//!
//! Between the halves a row is a group's key columns and the states of its aggregates. Dictionaries and
//! run-ends are unpacked in keys on the way, and packed again in the output.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_common::ScalarValue;
use datafusion_expr::GroupsAccumulator;
use datafusion_functions_aggregate::nth_value::nth_value_udaf;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::expressions::Literal;

use super::keys::GroupKeys;
use super::order_key::with_order_keys;
use super::per_group::PerGroup;
use crate::expression::{Expression, evaluate, evaluate_mask, failed, field, named_text, own_array, same_types};

/// A grouping and the aggregates of each group.
#[derive(Debug)]
pub struct Aggregate {
    input_schema: SchemaRef,
    group: Vec<(Expression, String)>,
    functions: Vec<Function>,
    state_schema: SchemaRef,
    output_schema: SchemaRef,
    /// Types of the key columns between the halves.
    key_types: Vec<DataType>,
}

/// One aggregate: what it is, what it is computed of, and where its states are.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) expression: Arc<AggregateFunctionExpr>,
    /// Its arguments and what it is ordered by.
    pub(crate) arguments: Vec<Expression>,
    pub(crate) filter: Option<Expression>,
    state_types: Vec<DataType>,
    /// Bytes of state that a new group needs at the least.
    group_bytes: usize,
    /// What its accumulator does not say of its size.
    unsaid: Unsaid,
    /// Whether it has an implementation for many groups at once, and gains by it.
    vectorised: bool,
    /// Whether single rows can be turned into states at once.
    pub(crate) converts: bool,
}

impl Aggregate {
    /// Groups rows of `input_schema` by the values of `group` (one group of all rows if there are none) and
    /// computes `aggregates` for each group.
    ///
    /// # Errors
    ///
    /// What cannot be grouped by or computed, by name.
    pub fn try_new(
        input_schema: SchemaRef,
        group: Vec<(Expression, String)>,
        aggregates: Vec<Arc<AggregateFunctionExpr>>,
    ) -> Result<Self> {
        if group.is_empty() && aggregates.is_empty() {
            return Err(OperatorError::new("there is neither a column to group by nor an aggregate to compute"));
        }
        let outputs = group
            .iter()
            .map(|(expression, name)| field(expression.as_ref(), name, &input_schema))
            .collect::<Result<Vec<_>>>()?;
        let key_types: Vec<_> = outputs.iter().map(|field| unpacked(field.data_type()).clone()).collect();
        // Refuses types that cannot be grouped by, before anything runs.
        GroupKeys::new(&key_types, false)?;
        let mut states: Vec<FieldRef> = Vec::new();
        for (index, (output, key_type)) in outputs.iter().zip(&key_types).enumerate() {
            let twin = outputs[..index].iter().any(|other| other.name() == output.name());
            let name = if twin { format!("{}#{index}", output.name()) } else { output.name().clone() };
            states.push(Arc::new(Field::new(name, key_type.clone(), output.is_nullable())));
        }
        let functions = aggregates
            .into_iter()
            .map(|expression| Function::try_new(expression, &input_schema, !group.is_empty()))
            .collect::<Result<Vec<_>>>()?;
        let mut outputs = outputs;
        for (index, function) in functions.iter().enumerate() {
            for (number, state_type) in function.state_types.iter().enumerate() {
                let name = format!("{}#{index}.{number}", function.expression.name());
                states.push(Arc::new(Field::new(name, state_type.clone(), true)));
            }
            outputs.push(function.expression.field());
        }
        Ok(Self {
            input_schema,
            group,
            functions,
            state_schema: Arc::new(Schema::new(states)),
            output_schema: Arc::new(Schema::new(outputs)),
            key_types,
        })
    }

    /// Restricts aggregate *i* to the rows for which `filters[i]` is true, as `FILTER (WHERE …)` does.
    ///
    /// # Errors
    ///
    /// When there is not one entry for each aggregate, or a filter is not boolean.
    pub fn with_filters(mut self, filters: Vec<Option<Expression>>) -> Result<Self> {
        if filters.len() != self.functions.len() {
            let (filters, functions) = (filters.len(), self.functions.len());
            return Err(OperatorError::new(format!("{filters} filters were given for {functions} aggregates")));
        }
        for (function, filter) in self.functions.iter_mut().zip(filters) {
            if let Some(filter) = &filter {
                let data_type = filter.data_type(&self.input_schema).map_err(failed)?;
                if !matches!(data_type, DataType::Boolean | DataType::Null) {
                    return Err(OperatorError::new(format!("the filter {filter} yields {data_type}, not Boolean")));
                }
            }
            function.filter = filter;
        }
        Ok(self)
    }

    /// Names of the key columns between the halves: what the exchange hashes by. None means a gather.
    pub fn group_column_names(&self) -> Vec<String> {
        self.state_schema.fields()[..self.group.len()].iter().map(|field| field.name().clone()).collect()
    }

    /// Schema of the rows that are aggregated.
    pub fn input_schema(&self) -> SchemaRef {
        Arc::clone(&self.input_schema)
    }

    /// Schema between the halves: key columns, then the state columns of each aggregate.
    pub fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.state_schema)
    }

    /// Schema of the result: the group columns under their names, then a column for each aggregate.
    pub fn output_schema(&self) -> SchemaRef {
        Arc::clone(&self.output_schema)
    }

    /// What `explain` shows.
    pub fn detail(&self) -> String {
        let one = |function: &Function| {
            let expression = &function.expression;
            let text = expression.human_display().unwrap_or(expression.name());
            match &function.filter {
                Some(filter) => format!("{text} where {filter}"),
                None => text.to_string(),
            }
        };
        let functions = self.functions.iter().map(one).collect::<Vec<_>>().join(", ");
        match (self.group.is_empty(), functions.is_empty()) {
            (true, _) => functions,
            (false, true) => format!("distinct {}", named_text(&self.group)),
            (false, false) => format!("{functions} by {}", named_text(&self.group)),
        }
    }

    pub(crate) fn functions(&self) -> &[Function] {
        &self.functions
    }

    pub(crate) fn key_types(&self) -> &[DataType] {
        &self.key_types
    }

    /// Bytes of a new group's states, at the least.
    pub(crate) fn group_bytes(&self) -> usize {
        self.functions.iter().map(Function::least_bytes).sum()
    }

    /// Bytes of the states of a table that is worth having: of some hundred groups, or of a few large ones.
    pub(crate) fn small_table_bytes(&self) -> usize {
        let group = self.group_bytes();
        (384 * group).min((64 << 10).max(8 * group))
    }

    /// Whether states may be lists or texts of all rows of a group.
    pub(crate) fn has_lists(&self) -> bool {
        let text = |state: &DataType| state.is_string() || matches!(state, DataType::List(_) | DataType::LargeList(_));
        self.functions.iter().any(|function| function.state_types.first().is_some_and(text))
    }

    /// Bytes that it takes to merge one row of keys and states of `row_bytes`, copied once.
    pub(crate) fn row_floor(&self, row_bytes: usize) -> usize {
        let percent = self.functions.iter().map(|function| function.unsaid.percent).max().unwrap_or(100);
        // What `Table::growth` says of it, twice.
        if self.has_lists() { 2 * row_bytes * (4 * percent / 100 + 2) } else { 2 * row_bytes }
    }

    /// Refuses functions that only sorted rows will do for: what a hash aggregation is asked for.
    pub(crate) fn check_unordered(&self) -> Result<()> {
        let ordered = self.functions.iter().find(|function| needs_order(&function.expression));
        ordered.map_or(Ok(()), |function| Err(needs_sorted_input(&function.expression)))
    }

    /// Refuses an input of other types than planned for.
    pub(crate) fn check_input(&self, found: &Schema, partial: bool) -> Result<()> {
        let expected = if partial { &self.input_schema } else { &self.state_schema };
        if same_types(expected, found) {
            return Ok(());
        }
        Err(OperatorError::new(format!("the aggregation was planned over {expected} and its input has {found}")))
    }

    /// The key columns of raw rows.
    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.group
            .iter()
            .zip(&self.key_types)
            .map(|((expression, _), key_type)| {
                let column = evaluate(expression.as_ref(), batch)?;
                let column = if column.data_type() == key_type { column } else { cast(&column, key_type)? };
                Ok(normalised(column))
            })
            .collect()
    }

    /// A batch between the halves. States of another shade of type than declared are cast.
    pub(crate) fn state_batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        shaped(&self.state_schema, columns, rows)
    }

    /// A batch of results.
    pub(crate) fn output_batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        shaped(&self.output_schema, columns, rows)
    }
}

pub(crate) fn shaped(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(
            |(column, field)| {
                if column.data_type() == field.data_type() { Ok(column) } else { cast(&column, field.data_type()) }
            },
        )
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

impl Function {
    fn try_new(expression: Arc<AggregateFunctionExpr>, input: &Schema, grouped: bool) -> Result<Self> {
        let name = expression.name();
        if expression.fun().name() == "grouping" {
            return Err(OperatorError::new(format!(
                "{name}: `grouping` has to be replaced by a number when the query is planned"
            )));
        }
        if needs_order(&expression) && ordered_place(&expression).is_none() {
            return Err(needs_sorted_input(&expression));
        }
        let expression = with_order_keys(expression, input).map_err(failed)?;
        let mut arguments = expression.expressions();
        arguments.extend(expression.order_bys().iter().map(|order| Arc::clone(&order.expr)));
        let state_types = expression.state_fields().map_err(failed)?;
        let state_types: Vec<_> = state_types.iter().map(|field| field.data_type().clone()).collect();
        // The accumulator of many groups that `bit_xor` has takes equal values as often as they come.
        let once = expression.is_distinct() && expression.fun().name() == "bit_xor";
        // One group's numbers are added up faster by themselves, without looking up for each row whose they are.
        let several = grouped || grow(&state_types);
        let vectorised = expression.groups_accumulator_supported() && !once && several;
        let mut function = Self {
            expression,
            arguments,
            filter: None,
            state_types,
            group_bytes: 0,
            unsaid: Unsaid { percent: 100, group_bytes: 0 },
            vectorised,
            converts: false,
        };
        function.measure(input)?;
        Ok(function)
    }

    /// Finds out what the accumulator can do and costs, by trying it; fails for one that does not exist.
    fn measure(&mut self, input: &Schema) -> Result<()> {
        const GROUPS: usize = 256;
        let mut accumulator = self.accumulator()?;
        let empty = accumulator.size();
        let nulls = self
            .arguments
            .iter()
            .map(|argument| Ok(new_null_array(&argument.data_type(input).map_err(failed)?, GROUPS)))
            .collect::<Result<Vec<_>>>()?;
        let groups: Vec<_> = (0..GROUPS).collect();
        // An accumulator may refuse a column of nothing but nulls; then its states tell their size.
        let declared: usize = self.state_types.iter().map(|state| state.primitive_width().unwrap_or(32)).sum();
        let measured = match accumulator.update_batch(&nulls, &groups, None, GROUPS) {
            Ok(()) => accumulator.size().saturating_sub(empty).div_ceil(GROUPS),
            Err(_) => 0,
        };
        self.unsaid = self.unsaid();
        self.group_bytes = measured.max(declared).max(8);
        // Others have a list for every row, or insist on fewer arguments here than they were given.
        self.converts = self.vectorised
            && !self.grows()
            && self.accumulator()?.convert_to_state(&nulls[..], None).is_ok_and(|states| {
                states.len() == self.state_types.len() && states.iter().all(|state| state.len() == GROUPS)
            });
        Ok(())
    }

    /// A new accumulator for any number of groups.
    pub(crate) fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        if self.vectorised {
            self.expression.create_groups_accumulator().map_err(failed)
        } else {
            // Fails now for a function that has neither.
            self.expression.create_accumulator().map_err(failed)?;
            Ok(Box::new(PerGroup::new(Arc::clone(&self.expression), self.state_types.clone())))
        }
    }

    /// Its arguments for the rows of `batch`, and which rows count.
    pub(crate) fn evaluate(&self, batch: &RecordBatch) -> Result<(Vec<ArrayRef>, Option<BooleanArray>)> {
        let arguments =
            self.arguments.iter().map(|argument| evaluate(argument.as_ref(), batch)).collect::<Result<_>>()?;
        let filter = self.filter.as_ref().map(|filter| evaluate_mask(filter.as_ref(), batch)).transpose()?;
        // Accumulators are slower with a mask, even one that leaves nothing out.
        Ok((arguments, filter.filter(|mask| mask.null_count() > 0 || mask.has_false())))
    }

    pub(crate) fn state_columns(&self) -> usize {
        self.state_types.len()
    }

    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// Bytes of one group's state and of what it takes to move it, for floors.
    pub(crate) fn least_bytes(&self) -> usize {
        self.group_bytes + self.unsaid.group_bytes
    }

    pub(crate) fn unsaid_size(&self) -> Unsaid {
        self.unsaid
    }

    /// What the allocator has counted beyond what the accumulators say: `tests/aggregate_memory.rs` judges it.
    fn unsaid(&self) -> Unsaid {
        let (name, distinct) = (self.expression.fun().name(), self.expression.is_distinct());
        let value = match &self.state_types[..] {
            [DataType::List(value), ..] => Some(value.data_type()),
            _ => None,
        };
        match (name, value) {
            // A set of views for each group, with room for 512 from the start, and a builder.
            ("count", Some(DataType::Utf8View | DataType::BinaryView)) => {
                Unsaid { percent: 150, group_bytes: 34 << 10 }
            }
            ("count", Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary)) => {
                Unsaid { percent: 120, group_bytes: 2 << 10 }
            }
            // Each list of views brings a block of 8 KiB or two along when it is emitted, however short it is.
            ("array_agg", Some(DataType::Utf8View | DataType::BinaryView)) if distinct => {
                Unsaid { percent: 300, group_bytes: 16 << 10 }
            }
            ("array_agg" | "string_agg", _) if distinct => Unsaid { percent: 300, group_bytes: 512 },
            // Strings that double, counted by their length.
            ("string_agg", _) => Unsaid { percent: 200, group_bytes: 64 },
            _ => Unsaid { percent: if self.grows() { 150 } else { 100 }, group_bytes: 0 },
        }
    }

    /// Whether a group's state may grow with its rows: it is not a few numbers.
    pub(crate) fn grows(&self) -> bool {
        grow(&self.state_types)
    }

    /// Its result over no rows.
    pub(crate) fn of_nothing(&self) -> Result<ArrayRef> {
        let mut accumulator = self.expression.create_accumulator().map_err(failed)?;
        own_array(&accumulator.evaluate().map_err(failed)?, 1)
    }
}

/// Whether states of these types are more than a few numbers.
fn grow(state_types: &[DataType]) -> bool {
    state_types.iter().any(|state| state.primitive_width().is_none() && *state != DataType::Boolean)
}

/// Whether the function is right for sorted rows alone.
fn needs_order(expression: &AggregateFunctionExpr) -> bool {
    expression.order_sensitivity().hard_requires() && !orders_itself(expression)
}

fn needs_sorted_input(expression: &AggregateFunctionExpr) -> OperatorError {
    OperatorError::new(format!(
        "{}: `{}` with an ORDER BY inside needs sorted input, which a hash aggregation does not have",
        expression.name(),
        expression.fun().name()
    ))
}

/// Whether the function sorts by the values of its ORDER BY itself, though it says that it needs sorted input.
fn orders_itself(expression: &AggregateFunctionExpr) -> bool {
    // The first collects its strings through `array_agg`, which does. WITHIN GROUP (ORDER BY …) only says which
    // end of the values a percentile counts from.
    expression.fun().name() == "string_agg" || expression.fun().supports_within_group_clause()
}

/// The place of the row that `nth_value` with an order takes, from the first one if positive, from the last one
/// otherwise. It is always taken of sorted rows.
pub(crate) fn ordered_place(expression: &AggregateFunctionExpr) -> Option<i64> {
    if *expression.fun() != *nth_value_udaf() || expression.order_bys().is_empty() || expression.is_distinct() {
        return None;
    }
    match expression.expressions().get(1)?.downcast_ref::<Literal>()?.value() {
        ScalarValue::Int64(place) => place.filter(|place| *place != 0),
        _ => None,
    }
}

/// How much larger an accumulator is than it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsaid {
    /// Real bytes for each hundred that it says.
    pub(crate) percent: usize,
    /// Bytes of each group on top.
    pub(crate) group_bytes: usize,
}

/// The type of the values of a dictionary or of runs.
pub(crate) fn unpacked(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => unpacked(values),
        DataType::RunEndEncoded(_, values) => unpacked(values.data_type()),
        other => other,
    }
}

/// Makes equal floats equal in bits: SQL groups 0 with -0, and every NaN with every other.
pub(crate) fn normalised(column: ArrayRef) -> ArrayRef {
    fn with<T: ArrowPrimitiveType>(
        column: &ArrayRef,
        odd: impl Fn(T::Native) -> bool,
        usual: impl Fn(T::Native) -> T::Native,
    ) -> ArrayRef {
        let array: &PrimitiveArray<T> = column.as_primitive();
        if array.values().iter().any(|value| odd(*value)) {
            Arc::new(array.unary::<_, T>(usual))
        } else {
            Arc::clone(column)
        }
    }
    type F16 = <Float16Type as ArrowPrimitiveType>::Native;
    match column.data_type() {
        DataType::Float16 => with::<Float16Type>(
            &column,
            |value| value.is_nan() || value == F16::NEG_ZERO,
            |value| {
                if value.is_nan() {
                    F16::NAN
                } else if value == F16::ZERO {
                    F16::ZERO
                } else {
                    value
                }
            },
        ),
        DataType::Float32 => with::<Float32Type>(
            &column,
            |value| value.is_nan() || value.to_bits() == (-0.0f32).to_bits(),
            |value| if value.is_nan() { f32::NAN } else { value + 0.0 },
        ),
        DataType::Float64 => with::<Float64Type>(
            &column,
            |value| value.is_nan() || value.to_bits() == (-0.0f64).to_bits(),
            |value| if value.is_nan() { f64::NAN } else { value + 0.0 },
        ),
        _ => column,
    }
}
