//! What a sort-based aggregation needs of each row, and by what it is sorted.
//!
//! Every lane has all rows: their keys, the argument that it sorts by, and on the first lane the arguments of
//! the functions that need no order. So all lanes yield the same groups in the same order.

use std::sync::Arc;

use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{SortOptions, cast, not, nullif, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion_common::ScalarValue;
use datafusion_functions_aggregate::{
    average::avg_udaf, bit_and_or_xor::bit_xor_udaf, count::count_udaf, median::median_udaf,
    percentile_cont::percentile_cont_udaf, sum::sum_udaf, variance,
};
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::Literal;

use super::super::describe::{Aggregate, Function, unpacked};
use crate::expression::{Expression, evaluate, evaluate_mask, failed};

/// The columns of rows on their way to the sort, and the lanes that they take.
#[derive(Debug)]
pub(super) struct Layout {
    /// The key columns, then `columns`.
    pub(super) schema: SchemaRef,
    columns: Vec<Column>,
    pub(super) lanes: Vec<Lane>,
}

/// A column of arguments.
#[derive(Debug, Clone)]
struct Column {
    expression: Expression,
    /// Null wherever this is not true.
    only_where: Option<Expression>,
    data_type: DataType,
}

/// Rows sorted by their keys and one argument, and what is computed of them.
#[derive(Debug)]
pub(super) struct Lane {
    /// Columns of the layout: the keys, the argument, others.
    pub(super) columns: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) functions: Vec<LaneFunction>,
}

/// A function as a lane computes it.
#[derive(Debug)]
pub(super) struct LaneFunction {
    /// Its place among the functions of the aggregate.
    pub(super) index: usize,
    pub(super) way: Way,
    /// Whether equal values count once.
    pub(super) distinct: bool,
}

/// How a function is computed of sorted rows.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// The value in the middle, or what the function makes of the two around it.
    Median(Arc<AggregateFunctionExpr>),
    /// The value at this fraction of the ranks.
    Percentile(f64),
    /// An accumulator that is given the values of these arguments where the mask is true.
    Accumulate { expression: Arc<AggregateFunctionExpr>, arguments: Vec<Argument>, mask: Option<usize> },
}

/// Where an accumulator has an argument from.
#[derive(Debug, Clone)]
pub(super) enum Argument {
    /// A column of the lane.
    Column(usize),
    Constant(ScalarValue),
}

impl Layout {
    /// The layout of `aggregate`; `None` if no function of it profits from sorted rows.
    pub(super) fn of(aggregate: &Aggregate) -> Result<Option<Self>> {
        let keys = aggregate.key_types().len();
        let input = aggregate.input_schema();
        let mut columns: Vec<Column> = Vec::new();
        let mut column = |column: Column| {
            let known = columns.iter().position(|other| other.is(&column));
            keys + known.unwrap_or_else(|| {
                columns.push(column);
                columns.len() - 1
            })
        };
        let (mut lanes, mut unsorted) = (Vec::<Lane>::new(), Vec::new());
        for (index, function) in aggregate.functions().iter().enumerate() {
            let Some((way, argument)) = sorted_way(function, &input)? else {
                unsorted.push(index);
                continue;
            };
            let distinct = function.expression.is_distinct();
            let data_type = unpacked(&argument.data_type(&input).map_err(failed)?).clone();
            let sorted = column(Column { expression: argument, only_where: function.filter.clone(), data_type });
            let function = LaneFunction { index, way, distinct };
            match lanes.iter_mut().find(|lane| lane.columns[keys] == sorted) {
                Some(lane) => lane.functions.push(function),
                None => lanes.push(Lane {
                    columns: (0..keys).chain([sorted]).collect(),
                    schema: Arc::clone(&input),
                    functions: vec![function],
                }),
            }
        }
        let Some(first) = lanes.first_mut() else { return Ok(None) };
        for index in unsorted {
            let function = &aggregate.functions()[index];
            let mut of_lane = |wanted: Column| {
                let wanted = column(wanted);
                let known = first.columns.iter().position(|column| *column == wanted);
                known.unwrap_or_else(|| {
                    first.columns.push(wanted);
                    first.columns.len() - 1
                })
            };
            let arguments = function.arguments.iter().map(|expression| {
                if let Some(value) = constant(expression) {
                    return Ok(Argument::Constant(value));
                }
                let data_type = expression.data_type(&input).map_err(failed)?;
                Ok(Argument::Column(of_lane(Column {
                    expression: Arc::clone(expression),
                    only_where: None,
                    data_type,
                })))
            });
            let arguments = arguments.collect::<Result<Vec<_>>>()?;
            let mask = function.filter.as_ref().map(|filter| {
                let expression = Arc::clone(filter);
                of_lane(Column { expression, only_where: None, data_type: DataType::Boolean })
            });
            let expression = Arc::clone(&function.expression);
            let way = Way::Accumulate { expression, arguments, mask };
            first.functions.push(LaneFunction { index, way, distinct: false });
        }
        let mut fields = aggregate.state_schema().fields()[..keys].to_vec();
        fields.extend(columns.iter().enumerate().map(|(index, column)| {
            Arc::new(Field::new(format!("{}#argument.{index}", column.expression), column.data_type.clone(), true))
        }));
        let schema = Arc::new(Schema::new(fields));
        for lane in &mut lanes {
            lane.schema = Arc::new(schema.project(&lane.columns)?);
            let by = lane.schema.fields().iter().take(keys + 1);
            let fields: Vec<_> = by.map(|field| SortField::new(field.data_type().clone())).collect();
            if !RowConverter::supports_fields(&fields) {
                return Ok(None);
            }
        }
        Ok(Some(Self { schema, columns, lanes }))
    }

    /// The columns behind the keys for the rows of `batch`.
    pub(super) fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.columns.iter().map(|column| column.evaluate(batch)).collect()
    }
}

impl Column {
    fn is(&self, other: &Self) -> bool {
        let filters = match (&self.only_where, &other.only_where) {
            (Some(one), Some(other)) => one.as_ref() == other.as_ref(),
            (one, other) => one.is_none() && other.is_none(),
        };
        filters && self.expression.as_ref() == other.expression.as_ref() && self.data_type == other.data_type
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let values = evaluate(self.expression.as_ref(), batch)?;
        let values = if *values.data_type() == self.data_type { values } else { cast(&values, &self.data_type)? };
        let Some(filter) = &self.only_where else { return Ok(values) };
        let mask: BooleanArray = evaluate_mask(filter.as_ref(), batch)?;
        // The kernel insists on nulls.
        let mask = if mask.null_count() > 0 { prep_null_mask_filter(&mask) } else { mask };
        Ok(if mask.has_false() { nullif(&values, &not(&mask)?)? } else { values })
    }
}

impl Lane {
    /// What the rows of the lane are sorted by, given the number of keys.
    pub(super) fn sort_columns(&self, keys: usize) -> Vec<SortColumn> {
        // Nulls last, where they are easily left out.
        let options = SortOptions { descending: false, nulls_first: false };
        (0..=keys).map(|column| SortColumn { column, options }).collect()
    }
}

/// How `function` is computed of sorted rows and by which argument they are to be sorted, if it profits from it.
fn sorted_way(function: &Function, input: &SchemaRef) -> Result<Option<(Way, Expression)>> {
    let expression = &function.expression;
    let (name, arguments) = (expression.fun(), expression.expressions());
    let Some(value) = arguments.first() else { return Ok(None) };
    let data_type = value.data_type(input).map_err(failed)?;
    // Packed values are unpacked to be compared, which only a count does not mind.
    let comparable = !data_type.is_null() && (unpacked(&data_type) == &data_type || *name == *count_udaf());
    if !comparable {
        return Ok(None);
    }
    let way = if *name == *median_udaf() && arguments.len() == 1 {
        Way::Median(Arc::clone(expression))
    } else if *name == *percentile_cont_udaf() && arguments.len() == 2 {
        let fraction = match constant(&arguments[1]) {
            Some(ScalarValue::Float64(Some(fraction))) => fraction,
            Some(ScalarValue::Float32(Some(fraction))) => f64::from(fraction),
            _ => return Ok(None),
        };
        let descending = expression.order_bys().first().is_some_and(|order| order.options.descending);
        Way::Percentile(if descending { 1.0 - fraction } else { fraction })
    } else if expression.is_distinct() && arguments.len() == 1 && expression.order_bys().is_empty() {
        // Functions to which it is all the same in which order distinct values come, and that skip nulls.
        let known =
            [count_udaf(), sum_udaf(), avg_udaf(), bit_xor_udaf(), variance::var_samp_udaf(), variance::var_pop_udaf()];
        if !known.iter().any(|known| *name == **known) {
            return Ok(None);
        }
        let plain = AggregateExprBuilder::new(Arc::new(name.clone()), arguments.clone())
            .schema(Arc::clone(input))
            .alias(expression.name())
            .with_ignore_nulls(expression.ignore_nulls())
            .build()
            .map_err(failed)?;
        if plain.field().data_type() != expression.field().data_type() || plain.create_accumulator().is_err() {
            return Ok(None);
        }
        Way::Accumulate { expression: Arc::new(plain), arguments: Vec::new(), mask: None }
    } else {
        return Ok(None);
    };
    Ok(Some((way, Arc::clone(value))))
}

/// The value of a literal.
fn constant(expression: &Expression) -> Option<ScalarValue> {
    expression.downcast_ref::<Literal>().map(|literal| literal.value().clone())
}

/// `value` as one of `data_type`.
pub(super) fn of_type(value: ScalarValue, data_type: &DataType) -> Result<ScalarValue> {
    if value.data_type() == *data_type { Ok(value) } else { value.cast_to(data_type).map_err(failed) }
}

/// What is wrong when lanes disagree, which they cannot.
pub(super) fn lanes_disagree() -> OperatorError {
    OperatorError::new("the sorted rows of one aggregation have different groups")
}
