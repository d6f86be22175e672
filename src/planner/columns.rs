//! Columns that an operator needs beside those of its input: keys that are computed, and keys under names of their own.
//! An exchange finds its keys by name, and the rows of a join may have several columns of one name.

use aqueduct_operators::{Expression, Project};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::{Expr, ExprSchemable};
use datafusion_physical_expr::expressions::{CastExpr, Column};
use std::sync::Arc;

use super::{Flow, Planner};
use crate::error::Result;

/// Rows with the columns that an operator asked for: those of the input in their places, the computed ones behind.
pub(super) struct Extended {
    pub(super) flow: Flow,
    /// Where each expression that was asked for is.
    pub(super) columns: Vec<usize>,
}

impl Extended {
    /// The names of the columns at these places.
    pub(super) fn names(&self, columns: &[usize]) -> Vec<String> {
        columns.iter().map(|&column| self.flow.schema.field(column).name().clone()).collect()
    }
}

impl Planner {
    /// The column `index` of rows of `schema`.
    pub(super) fn column(schema: &Schema, index: usize) -> Expression {
        Arc::new(Column::new(schema.field(index).name(), index))
    }

    /// Adds a column for each of `exprs` over rows of `input`, of the type beside it, unless it is a column already.
    pub(super) fn with_columns(
        &mut self,
        flow: Flow,
        input: &DFSchema,
        exprs: &[(Expr, Option<DataType>)],
    ) -> Result<Extended> {
        self.extended(flow, input, exprs, false)
    }

    /// As [`Self::with_columns`], and no other column has the name of one of them: an exchange may go by it.
    pub(super) fn with_keys(
        &mut self,
        flow: Flow,
        input: &DFSchema,
        exprs: &[(Expr, Option<DataType>)],
    ) -> Result<Extended> {
        self.extended(flow, input, exprs, true)
    }

    fn extended(
        &mut self,
        flow: Flow,
        input: &DFSchema,
        exprs: &[(Expr, Option<DataType>)],
        unique: bool,
    ) -> Result<Extended> {
        let schema = SchemaRef::clone(&flow.schema);
        let names = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(index, field)| (Self::column(&schema, index), field.name().clone()));
        let mut columns: Vec<(Expression, String)> = names.collect();
        let mut places: Vec<usize> = Vec::with_capacity(exprs.len());
        let mut asked: Vec<(Expr, Option<DataType>)> = Vec::new();
        let mut changed = false;
        for (expr, kind) in exprs {
            let kind = kind.clone().filter(|kind| expr.get_type(input).is_ok_and(|found| found != *kind));
            // Columns that are asked for twice are there once.
            if let Some(twin) = asked.iter().position(|(known, as_kind)| known == expr && *as_kind == kind) {
                asked.push((expr.clone(), kind));
                places.push(places[twin]);
                continue;
            }
            asked.push((expr.clone(), kind.clone()));
            let physical = self.expression(expr, input)?;
            if let (Some(column), None) = (physical.downcast_ref::<Column>(), &kind) {
                let place = column.index();
                if unique && schema.fields().iter().filter(|field| field.name() == &columns[place].1).count() > 1 {
                    columns[place].1 = self.unique_name();
                    changed = true;
                }
                places.push(place);
                continue;
            }
            let physical = match kind {
                Some(kind) => Arc::new(CastExpr::new(physical, kind, None)),
                None => physical,
            };
            places.push(columns.len());
            columns.push((physical, self.unique_name()));
            changed = true;
        }
        if !changed {
            return Ok(Extended { flow, columns: places });
        }
        let flow = self.project(columns, flow)?;
        Ok(Extended { flow, columns: places })
    }

    /// The first `count` columns, under the names of `schema`; nothing to do where there are no more, and none was
    /// renamed.
    pub(super) fn first_columns(&mut self, flow: Flow, schema: &SchemaRef) -> Result<Flow> {
        let count = schema.fields().len();
        let same =
            flow.schema.fields().iter().map(|field| field.name()).eq(schema.fields().iter().map(|field| field.name()));
        if same {
            return Ok(flow);
        }
        let columns = (0..count).map(|index| (Self::column(&flow.schema, index), schema.field(index).name().clone()));
        let columns = columns.collect();
        self.project(columns, flow)
    }

    pub(super) fn project(&mut self, columns: Vec<(Expression, String)>, input: Flow) -> Result<Flow> {
        let hashed = input.hashed.as_ref().and_then(|hashed| hashed.projected(&columns));
        let spec = Project::new(columns);
        let schema = aqueduct_runtime::OperatorSpec::output_schema(&spec, 0, &[SchemaRef::clone(&input.schema)])?;
        Ok(Flow { schema, hashed, ..self.row_wise("project", spec, input) })
    }

    /// A name that no user's column has, and no other that this made.
    fn unique_name(&mut self) -> String {
        self.names += 1;
        format!("key#{}", self.names)
    }
}
