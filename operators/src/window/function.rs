//! A window function as a query has it, and the way in which it is computed.

use std::sync::Arc;

use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::{NullTreatment, WindowFunctionParams};
use datafusion_expr::function::{ExpressionArgs, WindowUDFFieldArgs};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr, WindowFrame, WindowFunctionDefinition, WindowUDF};
use datafusion_functions_window::cume_dist::CumeDist;
use datafusion_functions_window::lead_lag::WindowShift;
use datafusion_functions_window::nth_value::{NthValue, NthValueKind};
use datafusion_functions_window::ntile::Ntile;
use datafusion_functions_window::rank::Rank;
use datafusion_functions_window::row_number::RowNumber;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_expr::{PhysicalSortExpr, create_physical_expr, create_physical_sort_exprs};

use super::aggregate::Aggregated;
use super::frame::{End, Shape};
use super::held::Evaluated;
use super::pick::Picked;
use super::rank::Place;
use crate::expression::{Expression, failed};

/// One function over the windows of a [`Window`](super::Window).
#[derive(Debug, Clone)]
pub struct WindowFunction {
    /// A window function or an aggregate.
    pub definition: WindowFunctionDefinition,
    /// Over the columns of the input. Types are what the function expects: the planner has cast them.
    pub arguments: Vec<Expression>,
    /// The rows that an aggregate counts, as `FILTER (WHERE …)` says.
    pub filter: Option<Expression>,
    /// Offsets have the types that DataFusion's coercion gives them: `UInt64` for ROWS and GROUPS; for RANGE that of
    /// the order column, or an interval.
    pub frame: Arc<WindowFrame>,
    /// Whether nulls are left out, as `IGNORE NULLS` says.
    pub ignore_nulls: bool,
    /// Whether equal values count once.
    pub distinct: bool,
    /// Name of the column that it yields.
    pub name: String,
}

/// A window expression of a logical plan: the function, and the window that it is over.
///
/// Functions over the same window go into one [`Window`](super::Window). Keys that are not columns of the input are to
/// be projected before it.
#[derive(Debug, Clone)]
pub struct LoweredWindowFunction {
    /// The function.
    pub function: WindowFunction,
    /// The keys of partitions, but for constants.
    pub partition_by: Vec<Expression>,
    /// The order within a partition, but for constants.
    pub order_by: Vec<PhysicalSortExpr>,
}

impl WindowFunction {
    /// A function over the whole of each partition, with nothing special about it.
    pub fn new(
        definition: impl Into<WindowFunctionDefinition>,
        arguments: Vec<Expression>,
        frame: WindowFrame,
        name: impl Into<String>,
    ) -> Self {
        Self {
            definition: definition.into(),
            arguments,
            filter: None,
            frame: Arc::new(frame),
            ignore_nulls: false,
            distinct: false,
            name: name.into(),
        }
    }

    /// Lowers `expr`, a window expression or an alias of one, over rows of `input`, whose batches have `schema`.
    /// The column is named as the logical plan names it.
    ///
    /// # Errors
    ///
    /// DataFusion's own, and if `expr` is something else.
    pub fn lower(
        expr: &Expr,
        input: &DFSchema,
        schema: &Schema,
        props: &ExecutionProps,
    ) -> Result<LoweredWindowFunction, DataFusionError> {
        let name = expr.schema_name().to_string();
        let mut inner = expr;
        while let Expr::Alias(alias) = inner {
            inner = &alias.expr;
        }
        let Expr::WindowFunction(function) = inner else {
            return Err(DataFusionError::Internal(format!("{expr} is not a window function")));
        };
        let WindowFunctionParams { args, partition_by, order_by, window_frame, filter, null_treatment, distinct } =
            &function.params;
        let context = PhysicalPlanningContext::default();
        let physical = |expr: &Expr| create_physical_expr(expr, input, props, &context);
        let arguments = args.iter().map(physical).collect::<Result<Vec<_>, _>>()?;
        // The batches may have fewer columns than the plan.
        arguments.iter().try_for_each(|argument| argument.data_type(schema).map(drop))?;
        // What is the same for all rows neither parts nor orders them: DataFusion orders a RANGE without ORDER BY by 1.
        let varies = |key: &Expression| key.downcast_ref::<Literal>().is_none();
        let mut partition_by = partition_by.iter().map(physical).collect::<Result<Vec<_>, _>>()?;
        partition_by.retain(varies);
        let mut order_by = create_physical_sort_exprs(order_by, input, props, &context)?;
        order_by.retain(|by| varies(&by.expr));
        Ok(LoweredWindowFunction {
            function: WindowFunction {
                definition: function.fun.clone(),
                arguments,
                filter: filter.as_deref().map(physical).transpose()?,
                frame: Arc::new(window_frame.clone()),
                ignore_nulls: *null_treatment == Some(NullTreatment::IgnoreNulls),
                distinct: *distinct,
                name,
            },
            partition_by,
            order_by,
        })
    }

    /// How it is computed over rows of `schema` that are sorted by `order_by`, and the field that it yields.
    pub(super) fn plan(&self, schema: &Schema, order_by: &[SortColumn]) -> Result<(Plan, FieldRef)> {
        match &self.definition {
            WindowFunctionDefinition::AggregateUDF(function) => {
                let builder = AggregateExprBuilder::new(Arc::clone(function), self.arguments.clone());
                let builder = builder.schema(Arc::new(schema.clone())).alias(&self.name);
                let builder = builder.with_ignore_nulls(self.ignore_nulls).with_distinct(self.distinct);
                let expression = Arc::new(builder.build().map_err(failed)?);
                let field = expression.field();
                let arguments = expression.expressions();
                let types = arguments.iter().map(|argument| argument.data_type(schema).map_err(failed));
                let types = types.collect::<Result<_>>()?;
                let aggregated = Aggregated { expression, arguments, types, filter: self.filter.clone() };
                let shape = Shape::of(&self.frame, order_by, schema)?;
                Ok((aggregate(aggregated, shape, order_by.is_empty()), field))
            }
            WindowFunctionDefinition::WindowUDF(function) => {
                if self.filter.is_some() || self.distinct {
                    let name = function.name();
                    return Err(OperatorError::new(format!("{name} takes no FILTER and no DISTINCT: no aggregate")));
                }
                self.window_function(function, schema, order_by)
            }
        }
    }

    fn window_function(
        &self,
        function: &Arc<WindowUDF>,
        schema: &Schema,
        order_by: &[SortColumn],
    ) -> Result<(Plan, FieldRef)> {
        let fields = self.arguments.iter().map(|argument| argument.return_field(schema).map_err(failed));
        let fields = fields.collect::<Result<Vec<_>>>()?;
        let field = function.field(WindowUDFFieldArgs::new(&fields, &self.name)).map_err(failed)?;
        let arguments = function.expressions(ExpressionArgs::new(&self.arguments, &fields));
        let evaluated = Evaluated {
            function: Arc::clone(function),
            given: self.arguments.clone(),
            fields,
            arguments,
            frame: Arc::clone(&self.frame),
            order_by: order_by.to_vec(),
            ignore_nulls: self.ignore_nulls,
        };
        // Its evaluator knows which arguments it refuses.
        evaluated.evaluator()?;
        let inner = function.inner();
        let plan = if inner.is::<RowNumber>() {
            Plan::Place(Place::RowNumber)
        } else if inner.is::<Rank>() {
            Plan::Place(match function.name() {
                "dense_rank" => Place::DenseRank,
                "percent_rank" => Place::PercentRank,
                _ => Place::Rank,
            })
        } else if inner.is::<CumeDist>() {
            Plan::CumeDist
        } else if inner.is::<Ntile>() {
            let tiles = self.constant(0, schema)?.map_or(Ok(0), |tiles| integer(&tiles))?;
            Plan::Place(Place::Ntile(u64::try_from(tiles).unwrap_or(0).max(1)))
        } else if inner.is::<WindowShift>() {
            self.shift(function.name() == "lag", &evaluated, &field, schema)?
        } else if let Some(nth) = inner.downcast_ref::<NthValue>() {
            let nth = match nth.kind() {
                NthValueKind::First => 1,
                NthValueKind::Last => -1,
                NthValueKind::Nth => self.constant(1, schema)?.map_or(Ok(0), |nth| integer(&nth))?,
            };
            let Some(argument) = evaluated.arguments.first() else {
                return Err(OperatorError::new(format!("{} needs an argument", function.name())));
            };
            Plan::Pick(Picked {
                argument: Arc::clone(argument),
                shape: Shape::of(&self.frame, order_by, schema)?,
                nth,
                ignore_nulls: self.ignore_nulls,
                default: None,
            })
        } else {
            Plan::Evaluate(Box::new(evaluated))
        };
        Ok((plan, field))
    }

    /// `lag` and `lead`.
    fn shift(&self, lag: bool, evaluated: &Evaluated, field: &FieldRef, schema: &Schema) -> Result<Plan> {
        let Some(argument) = evaluated.arguments.first() else {
            return Err(OperatorError::new("lag and lead need an argument"));
        };
        let offset = self.constant(1, schema)?.map_or(Ok(1), |offset| integer(&offset))?;
        let most = i64::MAX / 2;
        let back = if lag { offset } else { offset.saturating_neg() }.clamp(-most, most);
        let nulls = self.ignore_nulls && back != 0;
        let (start, end, nth) = match back {
            0 => (End::Rows(0), End::Rows(0), 1),
            back if back > 0 && nulls => (End::Unbounded, End::Rows(-1), -back),
            back if back > 0 => (End::Rows(-back), End::Rows(-1), -back),
            back if nulls => (End::Rows(1), End::Unbounded, -back),
            back => (End::Rows(1), End::Rows(-back), -back),
        };
        let default = self.constant(2, schema)?.filter(|default| !default.is_null());
        let default = default
            .map(|default| default.cast_to(field.data_type()).and_then(|default| default.to_array()).map_err(failed));
        Ok(Plan::Pick(Picked {
            argument: Arc::clone(argument),
            shape: Shape::rows(start, end),
            nth,
            ignore_nulls: nulls,
            default: default.transpose()?,
        }))
    }

    /// The value of a constant argument, if there is that argument.
    fn constant(&self, index: usize, schema: &Schema) -> Result<Option<ScalarValue>> {
        let Some(argument) = self.arguments.get(index) else { return Ok(None) };
        let none = RecordBatch::new_empty(Arc::new(schema.clone()));
        match argument.evaluate(&none).map_err(failed)? {
            ColumnarValue::Scalar(value) => Ok(Some(value)),
            ColumnarValue::Array(_) => {
                let name = self.definition.name();
                Err(OperatorError::new(format!("argument {} of {name} has to be a constant", index + 1)))
            }
        }
    }

    /// What `explain` shows.
    pub(super) fn text(&self) -> String {
        let list = |arguments: &[Expression]| arguments.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let distinct = if self.distinct { "distinct " } else { "" };
        let filter = self.filter.as_ref().map_or(String::new(), |filter| format!(" where {filter}"));
        let nulls = if self.ignore_nulls { " ignore nulls" } else { "" };
        let (name, frame) = (self.definition.name(), &self.frame);
        format!("{name}({distinct}{}){nulls}{filter} {frame}", list(&self.arguments))
    }
}

fn integer(value: &ScalarValue) -> Result<i64> {
    match value.cast_to(&DataType::Int64).map_err(failed)? {
        ScalarValue::Int64(Some(integer)) => Ok(integer),
        _ => Err(OperatorError::new(format!("{value} is not a whole number"))),
    }
}

/// How a function is computed.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    Place(Place),
    CumeDist,
    Pick(Picked),
    Running(Aggregated),
    /// A result for each partition, or for each group of peers.
    Runs(Aggregated, bool),
    Sliding(Aggregated, Shape),
    Evaluate(Box<Evaluated>),
}

fn aggregate(aggregated: Aggregated, shape: Shape, unordered: bool) -> Plan {
    match (&shape.start, &shape.end) {
        (End::Unbounded, End::Unbounded) => Plan::Runs(aggregated, true),
        (End::Unbounded, End::Rows(0)) => Plan::Running(aggregated),
        (End::Unbounded, End::Groups(0)) => Plan::Runs(aggregated, unordered),
        // Without an order all rows are peers.
        (End::Groups(0), End::Unbounded | End::Groups(0)) if unordered => Plan::Runs(aggregated, true),
        _ => Plan::Sliding(aggregated, shape),
    }
}

/// Bytes of a row of a column of `data_type`, as far as they can be told.
fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean | DataType::Null => 1,
        other => other.primitive_width().unwrap_or(64),
    }
}

impl Plan {
    /// Whether rows wait for the end of their partition.
    pub(super) fn needs_size(&self) -> bool {
        match self {
            Plan::Place(place) => place.needs_size(),
            Plan::CumeDist => true,
            _ => false,
        }
    }

    /// Bytes of memory that it works with, a piece of work being `rows` rows.
    pub(super) fn floor_bytes(&self, field: &FieldRef, rows: usize) -> usize {
        let result = width(field.data_type());
        // A batch on its way from disk is there twice.
        let blocks = |count: usize, width: usize| 2 * count * width * rows;
        let keys = |shape: &Shape| blocks(shape.blocks(), 50);
        // What is remembered of batches on three tapes.
        let least = 24 << 10;
        least
            + match self {
                Plan::Place(_) => blocks(1, result),
                Plan::CumeDist => blocks(2, 16),
                Plan::Pick(picked) => {
                    let counts = if picked.ignore_nulls { blocks(2, 50) } else { 0 };
                    blocks(2, result) + keys(&picked.shape) + counts + blocks(2, result)
                }
                Plan::Running(_) => blocks(2, result),
                Plan::Runs(aggregated, _) => arguments_width(aggregated) * rows + blocks(2, result + 8),
                Plan::Sliding(aggregated, shape) => {
                    blocks(2, arguments_width(aggregated)) + keys(shape) + blocks(2, result)
                }
                Plan::Evaluate(_) => blocks(4, result),
            }
    }
}

fn arguments_width(aggregated: &Aggregated) -> usize {
    aggregated.types.iter().map(width).sum::<usize>() + 1
}
