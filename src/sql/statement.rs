//! What becomes of a statement: a frame over its rows, or a change that is made at once.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringViewArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion_common::format::ExplainFormat;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, Result as QueryResult, TableReference};
use datafusion_expr::dml::CopyTo;
use datafusion_expr::logical_plan::{CreateView, Projection};
use datafusion_expr::{DdlStatement, DmlStatement, Expr, LogicalPlan, WriteOp};

use super::files::Format;
use crate::cluster::LocalCluster;
use crate::error::{Error, Result};
use crate::frame::Frame;

/// A statement after its planning.
pub(super) struct Done {
    pub(super) frame: Frame,
    /// Whether it has changed something.
    pub(super) carried_out: bool,
}

impl LocalCluster {
    pub(super) fn carry_out(&self, plan: LogicalPlan) -> Result<Done> {
        let rows = |frame| Ok(Done { frame, carried_out: false });
        let changed = |frame| Ok(Done { frame, carried_out: true });
        match plan {
            LogicalPlan::Explain(explain) => rows(self.explained(self.frame(explain.plan.as_ref().clone()))?),
            LogicalPlan::DescribeTable(table) => rows(self.described(&table.schema)?),
            LogicalPlan::Copy(copy) => changed(self.copied(&copy)?),
            LogicalPlan::Ddl(DdlStatement::CreateView(view)) => {
                self.create_view(view)?;
                changed(self.nothing()?)
            }
            LogicalPlan::Ddl(DdlStatement::DropView(view)) => {
                self.dropped(&view.name, view.if_exists)?;
                changed(self.nothing()?)
            }
            LogicalPlan::Ddl(DdlStatement::DropTable(table)) => {
                self.dropped(&table.name, table.if_exists)?;
                changed(self.nothing()?)
            }
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) => changed(self.create_table(table)?),
            LogicalPlan::Dml(DmlStatement { table_name, op: WriteOp::Insert(op), input, .. }) => {
                changed(self.inserted(&table_name, op, input.as_ref().clone())?)
            }
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(_)) => {
                Err(Error::unsupported("create external table (name the file in place: from 'folder/file.csv')"))
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Statement(_) => {
                Err(Error::unsupported(format!("the statement {}", plan.display())))
            }
            LogicalPlan::Analyze(analyze) => {
                rows(self.analyzed(with_short_names(analyze.input.as_ref().clone())?, &analyze.format)?)
            }
            query => rows(self.frame(with_short_names(query)?)),
        }
    }

    pub(super) fn nothing(&self) -> Result<Frame> {
        self.from_batches(SchemaRef::new(arrow::datatypes::Schema::empty()), Vec::new())
    }

    fn explained(&self, frame: Frame) -> Result<Frame> {
        let parts = frame.explain_parts()?;
        let (kinds, texts): (Vec<&str>, Vec<String>) = parts.into_iter().unzip();
        let kinds = StringViewArray::from_iter_values(kinds);
        let texts = StringViewArray::from_iter_values(texts);
        self.columns([("plan_type", Arc::new(kinds) as ArrayRef), ("plan", Arc::new(texts))])
    }

    /// Runs a query at once; its rows are dropped. One row for each line of the text, or one with all of it as JSON.
    fn analyzed(&self, query: LogicalPlan, format: &ExplainFormat) -> Result<Frame> {
        let analysis = self.frame(query).analyze()?;
        let text = match format {
            ExplainFormat::PostgresJSON => StringViewArray::from_iter_values([analysis.to_json()]),
            _ => StringViewArray::from_iter_values(analysis.to_string().lines()),
        };
        self.columns([("plan", Arc::new(text) as ArrayRef)])
    }

    fn described(&self, schema: &SchemaRef) -> Result<Frame> {
        let names = StringViewArray::from_iter_values(schema.fields().iter().map(|field| field.name()));
        let types =
            StringViewArray::from_iter_values(schema.fields().iter().map(|field| field.data_type().to_string()));
        let nullable: BooleanArray = schema.fields().iter().map(|field| Some(field.is_nullable())).collect();
        self.columns([
            ("column_name", Arc::new(names) as ArrayRef),
            ("data_type", Arc::new(types)),
            ("nullable", Arc::new(nullable)),
        ])
    }

    fn columns<const N: usize>(&self, columns: [(&str, ArrayRef); N]) -> Result<Frame> {
        let batch = RecordBatch::try_from_iter(columns)?;
        self.from_batches(batch.schema(), vec![batch])
    }

    fn create_view(&self, view: CreateView) -> Result<()> {
        let name = bare(&view.name)?;
        if !view.or_replace && self.session().catalog.has(name) {
            return Err(Error::sql(format!(
                "there is a table `{name}` already; write `create or replace view {name}`"
            )));
        }
        // What cannot run is better told now than by each query that uses it.
        self.frame(view.input.as_ref().clone()).outlined()?;
        self.session().catalog.register(name.into(), view.input);
        Ok(())
    }

    fn dropped(&self, name: &TableReference, if_exists: bool) -> Result<()> {
        let name = bare(name)?;
        if self.deregister_table(name) || if_exists {
            return Ok(());
        }
        Err(Error::sql(format!("there is no table `{name}`")))
    }

    fn copied(&self, copy: &CopyTo) -> Result<Frame> {
        if let Some(column) = copy.partition_by.first() {
            return Err(Error::unsupported(format!("copy … partitioned by ({column})")));
        }
        if let Some(option) = copy.options.keys().min() {
            return Err(Error::unsupported(format!("the option `{option}` of copy")));
        }
        let frame = self.frame(with_short_names(copy.input.as_ref().clone())?);
        let format = copy.file_type.as_any().downcast_ref::<Format>().copied();
        let rows = match format {
            Some(Format::Csv) => frame.write_csv(&copy.output_url)?,
            Some(Format::Parquet) => frame.write_parquet(&copy.output_url)?,
            _ => return Err(Error::unsupported(format!("copy to a file of the type {}", copy.file_type))),
        };
        self.counted(rows)
    }

    /// How many rows a statement was about, as a frame.
    pub(super) fn counted(&self, rows: u64) -> Result<Frame> {
        self.columns([("count", Arc::new(UInt64Array::from(vec![rows])) as ArrayRef)])
    }

    /// The names of all tables and views, as a frame.
    pub(super) fn shown_tables(&self) -> Result<Frame> {
        let names = StringViewArray::from_iter_values(self.tables());
        self.columns([("table_name", Arc::new(names) as ArrayRef)])
    }
}

/// A name without a schema before it: there are no schemas.
pub(super) fn bare(name: &TableReference) -> Result<&str> {
    match name {
        TableReference::Bare { table } => Ok(table),
        _ => Err(Error::sql(format!("`{name}`: a table's name has one part"))),
    }
}

/// Calls the columns of the result as the query does: `avg(fare)`, not `avg(trips.fare)`, where that is enough to tell
/// them apart.
pub(super) fn with_short_names(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let tables = table_names(&plan)?;
    let short = |name: &str| tables.iter().fold(name.to_string(), |name, table| name.replace(&format!("{table}."), ""));
    let names: Vec<String> = plan.schema().fields().iter().map(|field| short(field.name())).collect();
    let changed = names.iter().zip(plan.schema().fields()).any(|(name, field)| name != field.name());
    if !changed || names.iter().collect::<HashSet<_>>().len() < names.len() {
        return Ok(plan);
    }
    let columns = plan.schema().iter().zip(&names).map(|((qualifier, field), name)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        if name == field.name() { column } else { column.alias(name) }
    });
    let columns = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// The names by which a plan's expressions call its tables.
fn table_names(plan: &LogicalPlan) -> QueryResult<HashSet<String>> {
    let mut names = HashSet::new();
    plan.apply_with_subqueries(|plan| {
        match plan {
            LogicalPlan::TableScan(scan) => drop(names.insert(scan.table_name.to_string())),
            LogicalPlan::SubqueryAlias(alias) => drop(names.insert(alias.alias.to_string())),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(names)
}
