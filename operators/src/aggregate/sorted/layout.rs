//! What a sort-based aggregation needs of each row, and by what it is sorted.
//!
//! Every lane has all rows: their keys, the arguments that it sorts by, what its functions make lists of, and on the
//! first lane the arguments of the functions that need no order. So all lanes yield the same groups in the same order.

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
    array_agg::array_agg_udaf, average::avg_udaf, bit_and_or_xor::bit_xor_udaf, count::count_udaf, median::median_udaf,
    percentile_cont::percentile_cont_udaf, string_agg::string_agg_udaf, sum::sum_udaf, variance,
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
    /// What each function of the aggregate takes of rows that are not sorted; none if they have to be.
    pub(super) direct: Option<Vec<DirectFunction>>,
}

/// What a function takes of rows as they come.
#[derive(Debug)]
pub(super) struct DirectFunction {
    /// Columns of the layout.
    pub(super) arguments: Vec<Argument>,
    pub(super) mask: Option<usize>,
}

/// A column of arguments.
#[derive(Debug, Clone)]
struct Column {
    expression: Expression,
    /// Null wherever this is not true.
    only_where: Option<Expression>,
    data_type: DataType,
}

/// Rows sorted by their keys and some arguments, and what is computed of them.
#[derive(Debug)]
pub(super) struct Lane {
    /// Columns of the layout: the keys, what the rows are sorted by, others.
    pub(super) columns: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) functions: Vec<LaneFunction>,
    /// How rows of equal keys are sorted, by the columns behind the keys.
    pub(super) by: Vec<SortOptions>,
}

/// A function as a lane computes it.
#[derive(Debug)]
pub(super) struct LaneFunction {
    /// Its place among the functions of the aggregate.
    pub(super) index: usize,
    pub(super) way: Way,
    /// Whether equal values count once.
    pub(super) distinct: bool,
    /// Whether distinct values may be a null, too.
    pub(super) nulls: bool,
    /// Whether the result is a list of what the accumulator is given.
    pub(super) lists: bool,
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
            let Some(Sorted { by, way, nulls, lists }) = sorted_way(function, &input)? else {
                unsorted.push((index, None, makes_lists(function)));
                continue;
            };
            let distinct = function.expression.is_distinct();
            // Where rows are only put in order, those that a filter leaves out may stay.
            let only_where = function.filter.as_ref().filter(|_| distinct || !lists);
            let sorted = by.iter().map(|(expression, _)| {
                let (expression, only_where) = (Arc::clone(expression), only_where.cloned());
                let data_type = unpacked(&expression.data_type(&input).map_err(failed)?).clone();
                Ok(column(Column { expression, only_where, data_type }))
            });
            let sorted = sorted.collect::<Result<Vec<_>>>()?;
            let by: Vec<_> = by.iter().map(|(_, options)| *options).collect();
            let same = |lane: &Lane| lane.columns[keys..].starts_with(&sorted) && lane.by == by;
            let lane = lanes.iter().position(same).unwrap_or_else(|| {
                let columns = (0..keys).chain(sorted).collect();
                lanes.push(Lane { columns, schema: Arc::clone(&input), functions: Vec::new(), by });
                lanes.len() - 1
            });
            match way {
                Way::Accumulate { expression, .. } if lists && !distinct => {
                    unsorted.push((index, Some((lane, expression)), true))
                }
                way => lanes[lane].functions.push(LaneFunction { index, way, distinct, nulls, lists }),
            }
        }
        if lanes.is_empty() {
            if !unsorted.iter().any(|(_, _, lists)| *lists) {
                return Ok(None);
            }
            // Rows of a key in the order in which they come.
            let constant = ScalarValue::Boolean(Some(true));
            let expression: Expression = Arc::new(Literal::new(constant));
            let sorted = column(Column { expression, only_where: None, data_type: DataType::Boolean });
            let columns = (0..keys).chain([sorted]).collect();
            lanes.push(Lane { columns, schema: Arc::clone(&input), functions: Vec::new(), by: vec![ASCENDING] });
        }
        for (index, ordered, lists) in unsorted {
            let function = &aggregate.functions()[index];
            // What needs no order goes along with the first lane.
            let (lane, expression) = ordered.unwrap_or_else(|| (0, Arc::clone(&function.expression)));
            let first = &mut lanes[lane];
            // The others are what the rows are sorted by.
            let arguments = if lists { expression.expressions() } else { function.arguments.clone() };
            let mut of_lane = |wanted: Column| {
                let wanted = column(wanted);
                let known = first.columns.iter().position(|column| *column == wanted);
                known.unwrap_or_else(|| {
                    first.columns.push(wanted);
                    first.columns.len() - 1
                })
            };
            let arguments = arguments.iter().map(|expression| {
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
            let way = Way::Accumulate { expression, arguments, mask };
            first.functions.push(LaneFunction { index, way, distinct: false, nulls: false, lists });
        }
        let mut fields = aggregate.state_schema().fields()[..keys].to_vec();
        fields.extend(columns.iter().enumerate().map(|(index, column)| {
            Arc::new(Field::new(format!("{}#argument.{index}", column.expression), column.data_type.clone(), true))
        }));
        let schema = Arc::new(Schema::new(fields));
        for lane in &mut lanes {
            lane.schema = Arc::new(schema.project(&lane.columns)?);
            let by = lane.schema.fields().iter().take(keys + lane.by.len());
            let fields: Vec<_> = by.map(|field| SortField::new(field.data_type().clone())).collect();
            if !RowConverter::supports_fields(&fields) {
                return Ok(None);
            }
        }
        let direct = direct(aggregate, keys, &columns, &lanes);
        Ok(Some(Self { schema, columns, lanes, direct }))
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
        let keys = std::iter::repeat_n(ASCENDING, keys);
        keys.chain(self.by.iter().copied())
            .enumerate()
            .map(|(column, options)| SortColumn { column, options })
            .collect()
    }

    /// What the first column behind the `keys` columns of sorted rows has but for nulls.
    pub(super) fn values(&self, rows: &RecordBatch, keys: usize) -> ArrayRef {
        let argument = rows.column(keys);
        let nulls = argument.logical_null_count();
        argument.slice(if self.nulls_first() { nulls } else { 0 }, argument.len() - nulls)
    }

    /// Whether nulls of the first column behind the keys come before its values.
    pub(super) fn nulls_first(&self) -> bool {
        self.by.first().is_some_and(|options| options.nulls_first)
    }
}

/// Nulls last, where they are easily left out.
const ASCENDING: SortOptions = SortOptions { descending: false, nulls_first: false };

/// How a function is computed of sorted rows.
struct Sorted {
    /// What the rows are to be sorted by.
    by: Vec<(Expression, SortOptions)>,
    way: Way,
    nulls: bool,
    lists: bool,
}

/// Whether `function` lists all values of a group, as they come.
fn makes_lists(function: &Function) -> bool {
    let (expression, name) = (&function.expression, function.expression.fun());
    let lists = *name == *array_agg_udaf() || *name == *string_agg_udaf();
    lists && !expression.is_distinct() && expression.order_bys().is_empty()
}

/// How `function` is computed of sorted rows, if it profits from it.
fn sorted_way(function: &Function, input: &SchemaRef) -> Result<Option<Sorted>> {
    let expression = &function.expression;
    let (name, arguments) = (expression.fun(), expression.expressions());
    let Some(value) = arguments.first() else { return Ok(None) };
    let lists = *name == *array_agg_udaf() || *name == *string_agg_udaf();
    let order = expression.order_bys();
    // Packed values are unpacked to be compared, which only a count and an order do not mind.
    let may_be_packed = *name == *count_udaf() || (lists && !expression.is_distinct());
    let data_type = value.data_type(input).map_err(failed)?;
    if data_type.is_null() || (unpacked(&data_type) != &data_type && !may_be_packed) {
        return Ok(None);
    }
    let by_value = |options| vec![(Arc::clone(value), options)];
    let picked = |way| Ok(Some(Sorted { by: by_value(ASCENDING), way, nulls: false, lists: false }));
    if *name == *median_udaf() && arguments.len() == 1 {
        return picked(Way::Median(Arc::clone(expression)));
    }
    if *name == *percentile_cont_udaf() && arguments.len() == 2 {
        let fraction = match constant(&arguments[1]) {
            Some(ScalarValue::Float64(Some(fraction))) => fraction,
            Some(ScalarValue::Float32(Some(fraction))) => f64::from(fraction),
            _ => return Ok(None),
        };
        let descending = order.first().is_some_and(|order| order.options.descending);
        return picked(Way::Percentile(if descending { 1.0 - fraction } else { fraction }));
    }
    // Functions to which it is all the same in which order distinct values come, and that skip nulls.
    let known =
        [count_udaf(), sum_udaf(), avg_udaf(), bit_xor_udaf(), variance::var_samp_udaf(), variance::var_pop_udaf()];
    let nulls = *name == *array_agg_udaf() && !expression.ignore_nulls();
    let by = match (expression.is_distinct(), order) {
        (true, []) if lists || (arguments.len() == 1 && known.iter().any(|known| *name == **known)) => {
            by_value(ASCENDING)
        }
        (true, [one]) if lists && one.expr.as_ref() == value.as_ref() => by_value(one.options),
        (false, [_, ..]) if lists => order.iter().map(|order| (Arc::clone(&order.expr), order.options)).collect(),
        _ => return Ok(None),
    };
    // A null that a filter has made is none of the values.
    if expression.is_distinct() && nulls && function.filter.is_some() {
        return Ok(None);
    }
    let plain = AggregateExprBuilder::new(Arc::new(name.clone()), arguments)
        .schema(Arc::clone(input))
        .alias(expression.name())
        .with_ignore_nulls(expression.ignore_nulls())
        .build()
        .map_err(failed)?;
    if plain.field().data_type() != expression.field().data_type() || plain.create_accumulator().is_err() {
        return Ok(None);
    }
    let way = Way::Accumulate { expression: Arc::new(plain), arguments: Vec::new(), mask: None };
    Ok(Some(Sorted { by, way, nulls, lists }))
}

/// What the functions of `aggregate` take of rows that are not sorted.
fn direct(aggregate: &Aggregate, keys: usize, columns: &[Column], lanes: &[Lane]) -> Option<Vec<DirectFunction>> {
    let of = |index: usize, function: &Function| {
        let (lane, found) =
            lanes.iter().find_map(|lane| Some((lane, lane.functions.iter().find(|found| found.index == index)?)))?;
        if found.lists {
            // Ordered lists are slow to make any other way, and all are in order of arrival.
            return None;
        }
        if let Way::Accumulate { arguments, mask, .. } = &found.way
            && !found.distinct
        {
            let arguments = arguments.iter().map(|argument| match argument {
                Argument::Column(column) => Argument::Column(lane.columns[*column]),
                constant => constant.clone(),
            });
            return Some(DirectFunction { arguments: arguments.collect(), mask: mask.map(|mask| lane.columns[mask]) });
        }
        let sorted = lane.columns[keys];
        let value = &columns[sorted - keys];
        if value.data_type != value.expression.data_type(&aggregate.input_schema()).ok()? {
            return None;
        }
        let arguments = function.arguments.iter().map(|argument| match constant(argument) {
            Some(value) => Some(Argument::Constant(value)),
            None => (argument.as_ref() == value.expression.as_ref()).then_some(Argument::Column(sorted)),
        });
        Some(DirectFunction { arguments: arguments.collect::<Option<_>>()?, mask: None })
    };
    aggregate.functions().iter().enumerate().map(|(index, function)| of(index, function)).collect()
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
