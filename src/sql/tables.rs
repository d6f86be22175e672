//! Tables that statements make and fill. Their rows are on disk, so a table of any size takes no memory; each insert adds
//! files, and queries that are under way go on reading those that they began with.

use std::collections::HashSet;
use std::sync::Arc;

use aqueduct_operators::Store;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::TableReference;
use datafusion_expr::LogicalPlan;
use datafusion_expr::dml::InsertOp;
use datafusion_expr::logical_plan::CreateMemoryTable;

use super::statement::{bare, with_short_names};
use crate::cluster::LocalCluster;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::planner::ScanTable;
use crate::run;

impl LocalCluster {
    /// Makes a table of the rows of a query, or one of given columns without rows; how many rows it has.
    pub(super) fn create_table(&self, table: CreateMemoryTable) -> Result<Frame> {
        let name = bare(&table.name)?;
        if !table.constraints.is_empty() {
            return Err(Error::unsupported("a table with keys or constraints but `not null`"));
        }
        if let Some((column, _)) = table.column_defaults.first() {
            return Err(Error::unsupported(format!("a default of the column `{column}`")));
        }
        let catalog = &self.session().catalog;
        if catalog.has(name) && table.if_not_exists {
            return self.counted(0);
        }
        let exists =
            || Error::sql(format!("there is a table `{name}` already; write `create or replace table {name}`"));
        if catalog.has(name) && !table.or_replace {
            return Err(exists());
        }
        let frame = self.frame(with_short_names(table.input.as_ref().clone())?);
        let mut seen = HashSet::new();
        let schema = frame.schema()?;
        if let Some(twice) = schema.fields().iter().find(|field| !seen.insert(field.name())) {
            return Err(Error::sql(format!(
                "the table would have two columns `{}`: write `as` behind one",
                twice.name()
            )));
        }
        // What a query yields may be null later, too; of columns that are written out it is said.
        let written_out = matches!(table.input.as_ref(), LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row);
        let schema = if written_out { schema } else { nullable(&schema) };
        let stored = run::store(&frame, name, Some(&schema))?;
        let rows = stored.rows();
        let plan = Arc::new(self.stored_table(name, stored)?);
        if table.or_replace {
            catalog.register(name.into(), plan);
        } else if !catalog.add(name.into(), plan) {
            // Somebody else made one meanwhile.
            return Err(exists());
        }
        self.counted(rows)
    }

    /// Adds rows to a table that a statement made, or puts them in the place of those it has; how many there were.
    pub(super) fn inserted(&self, table: &TableReference, op: InsertOp, rows: LogicalPlan) -> Result<Frame> {
        let catalog = &self.session().catalog;
        let find = || {
            let found = catalog.find(bare(table)?);
            found.ok_or_else(|| Error::sql(format!("there is no table `{table}`")))
        };
        let (name, plan) = find()?;
        let schema = SchemaRef::clone(store_of(&name, &plan)?.schema());
        let added = run::store(&self.frame(rows), &name, Some(&schema))?;
        loop {
            let (name, plan) = find()?;
            let all = match op {
                InsertOp::Append => run::together(&self.nothing()?, &name, store_of(&name, &plan)?, &added)?,
                InsertOp::Overwrite => Arc::clone(&added),
                InsertOp::Replace => return Err(Error::unsupported("replace into")),
            };
            // Another insert may have been faster: then both are to be there.
            if catalog.replace(&name, &plan, Arc::new(self.stored_table(&name, all)?)) {
                return self.counted(added.rows());
            }
        }
    }

    fn stored_table(&self, name: &str, store: Arc<Store>) -> Result<LogicalPlan> {
        self.session().table(name, ScanTable::stored(store))?.logical_plan()
    }
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows of a table that a statement made.
fn store_of<'a>(name: &str, plan: &'a LogicalPlan) -> Result<&'a Arc<Store>> {
    let table = match plan {
        LogicalPlan::TableScan(scan) => scan.source.downcast_ref::<ScanTable>().and_then(ScanTable::store),
        _ => None,
    };
    table.ok_or_else(|| Error::sql(format!("`{name}` takes no rows: only a table that `create table` made does")))
}
