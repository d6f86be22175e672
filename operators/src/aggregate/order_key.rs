//! Orders by nested values, as orders by bytes.
//!
//! DataFusion's accumulators compare the structs and lists of one batch as a sort does, but those of several as values, where
//! a null is equal to whatever it meets: which row comes first depended on how rows had come in batches. They also keep each
//! group's value as a slice of all that were in its batch. Bytes that sort as the values do have one order, and are small.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion_common::Result;
use datafusion_expr::ColumnarValue;
use datafusion_functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr};

use crate::expression::Expression;

/// Bytes that compare as the values of an expression do in an order.
#[derive(Debug, Eq)]
struct OrderKey {
    value: Expression,
    options: SortOptions,
}

/// `aggregate` with keys of bytes where it compares nested values itself.
pub(crate) fn with_order_keys(
    aggregate: Arc<AggregateFunctionExpr>,
    input: &Schema,
) -> Result<Arc<AggregateFunctionExpr>> {
    let function = aggregate.fun();
    if *function != *first_value_udaf() && *function != *last_value_udaf() {
        return Ok(aggregate);
    }
    let mut any = false;
    let order = aggregate.order_bys().iter().map(|by| {
        let data_type = by.expr.data_type(input)?;
        let sorts = || RowConverter::supports_fields(&[SortField::new(data_type.clone())]);
        if !data_type.is_nested() || !sorts() {
            return Ok(by.clone());
        }
        any = true;
        let key = OrderKey { value: Arc::clone(&by.expr), options: by.options };
        Ok(PhysicalSortExpr { expr: Arc::new(key), options: SortOptions::default() })
    });
    let order = order.collect::<Result<Vec<_>>>()?;
    if !any {
        return Ok(aggregate);
    }
    let mut builder = AggregateExprBuilder::new(Arc::new(function.clone()), aggregate.expressions())
        .order_by(order)
        .schema(SchemaRef::new(input.clone()))
        .alias(aggregate.name())
        .with_ignore_nulls(aggregate.ignore_nulls())
        .with_distinct(aggregate.is_distinct())
        .with_reversed(aggregate.is_reversed());
    if let Some(text) = aggregate.human_display() {
        builder = builder.human_display(text);
    }
    builder.build().map(Arc::new)
}

impl PartialEq for OrderKey {
    fn eq(&self, other: &Self) -> bool {
        self.value.as_ref() == other.value.as_ref() && self.options == other.options
    }
}

impl Hash for OrderKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
        self.options.hash(state);
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order_key({} {})", self.value, self.options)
    }
}

impl PhysicalExpr for OrderKey {
    fn data_type(&self, _input: &Schema) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn nullable(&self, _input: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.value.evaluate(batch)?.into_array(batch.num_rows())?;
        let field = SortField::new_with_options(values.data_type().clone(), self.options);
        // Made anew, for it keeps nothing that the next batch would need: nested dictionaries are unpacked.
        let rows = RowConverter::new(vec![field])?.convert_columns(&[values])?;
        Ok(ColumnarValue::Array(Arc::new(rows.try_into_binary()?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { value: children.remove(0), options: self.options }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
