//! A runtime filter as a predicate: true for all rows until the held side is known.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion_common::{DataFusionError, Result as QueryResult, ScalarValue};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, Literal};
use datafusion_physical_expr::{PhysicalExpr, conjunction_opt};

use super::Slot;
use crate::expression::Expression;

#[derive(Debug)]
pub(super) struct RuntimeFilterExpression {
    slot: Arc<Slot>,
    columns: Vec<Expression>,
}

impl RuntimeFilterExpression {
    pub(super) fn new(slot: Arc<Slot>, columns: Vec<Expression>) -> Self {
        Self { slot, columns }
    }
}

impl PartialEq for RuntimeFilterExpression {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot) && self.columns == other.columns
    }
}

impl Eq for RuntimeFilterExpression {}

impl Hash for RuntimeFilterExpression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.slot).hash(state);
        self.columns.hash(state);
    }
}

impl fmt::Display for RuntimeFilterExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.columns.iter().map(ToString::to_string).collect();
        write!(f, "{} held by the join", columns.join(", "))
    }
}

impl PhysicalExpr for RuntimeFilterExpression {
    fn data_type(&self, _input: &Schema) -> QueryResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _input: &Schema) -> QueryResult<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> QueryResult<ColumnarValue> {
        let always = |value: bool| Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(value))));
        let Some(known) = self.slot.known() else { return always(true) };
        if known.is_empty() {
            return always(false);
        }
        let rows = batch.num_rows();
        let columns = self.columns.iter().map(|column| column.evaluate(batch)?.into_array(rows));
        let columns = columns.collect::<QueryResult<Vec<ArrayRef>>>()?;
        let mask: Option<BooleanArray> =
            known.mask(&columns, rows).map_err(|error| DataFusionError::External(Box::new(error)))?;
        mask.map_or_else(|| always(true), |mask| Ok(ColumnarValue::Array(Arc::new(mask))))
    }

    fn children(&self) -> Vec<&Expression> {
        self.columns.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, columns: Vec<Expression>) -> QueryResult<Expression> {
        Ok(Arc::new(Self { slot: Arc::clone(&self.slot), columns }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    /// What is known of the keys' bounds now: what statistics can be compared with.
    fn snapshot(&self) -> QueryResult<Option<Expression>> {
        let literal = |value: ScalarValue| -> Expression { Arc::new(Literal::new(value)) };
        let yes = || literal(ScalarValue::Boolean(Some(true)));
        let Some(known) = self.slot.known() else { return Ok(Some(yes())) };
        if known.is_empty() {
            return Ok(Some(literal(ScalarValue::Boolean(Some(false)))));
        }
        let bounds =
            self.columns.iter().zip(&known.bounds).filter_map(|(column, bounds)| Some((column, bounds.as_ref()?)));
        let compare = |column: &Expression, operator, value: &ScalarValue| -> Expression {
            Arc::new(BinaryExpr::new(Arc::clone(column), operator, literal(value.clone())))
        };
        let parts = bounds.flat_map(|(column, (min, max))| {
            [compare(column, Operator::GtEq, min), compare(column, Operator::LtEq, max)]
        });
        Ok(Some(conjunction_opt(parts).unwrap_or_else(yes)))
    }
}
