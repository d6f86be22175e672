//! Recursive queries (`with recursive`): job after job, each over the rows that the one before has made, until one makes
//! none. All rows are kept on disk meanwhile, so memory is bounded; the number of jobs is not.
//!
//! ```text
//! work = all = static term
//! repeat: work = recursive term over work;  all = all + work;   until work is empty
//! ```

use std::sync::{Arc, Weak};

use aqueduct_operators::Store;
use aqueduct_runtime::ExecutionError;
use arrow::datatypes::SchemaRef;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{DataFusionError, Result as QueryResult, TableReference};
use datafusion_expr::logical_plan::{Projection, RecursiveQuery, TableScan, TableScanBuilder};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableSource};

use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::planner::ScanTable;
use crate::run;
use crate::stack::on_large_stack;

/// What stands in a recursive term for the rows of the last round.
#[derive(Debug)]
pub(crate) struct WorkTable {
    name: String,
    schema: SchemaRef,
}

impl WorkTable {
    pub(crate) fn new(name: &str, schema: SchemaRef) -> Self {
        Self { name: name.into(), schema }
    }
}

impl TableSource for WorkTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}

/// `frame` with its recursive queries computed: scans of their rows stand in their places. Runs jobs, and blocks.
pub(crate) fn settled(frame: &Frame) -> Result<Frame> {
    settled_while(frame, &|| true)
}

/// As [`settled`]; no further job begins once `wanted` says no.
pub(crate) fn settled_while(frame: &Frame, wanted: &(dyn Fn() -> bool + Sync)) -> Result<Frame> {
    replaced(frame, &|query| rows_of(frame, query, wanted))
}

/// `frame` with scans in the places of its recursive queries that say what they are and cannot run: for a look at the plan.
pub(crate) fn outlined(frame: &Frame) -> Result<Frame> {
    replaced(frame, &|query| {
        let outline = Outline { schema: SchemaRef::clone(query.schema.inner()) };
        Ok(ScanTable::source(outline))
    })
}

/// Whether there is a recursive query in `frame`.
pub(crate) fn is_in(frame: &Frame) -> Result<bool> {
    let mut found = false;
    frame.plan()?.apply_with_subqueries(|plan| {
        found |= matches!(plan, LogicalPlan::RecursiveQuery(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn replaced(frame: &Frame, table: &(dyn Fn(&RecursiveQuery) -> Result<ScanTable> + Sync)) -> Result<Frame> {
    if !is_in(frame)? {
        return Ok(frame.clone());
    }
    let plan = frame.logical_plan()?;
    on_large_stack(|| {
        // One that is asked for twice is computed once.
        let mut known: Vec<(RecursiveQuery, Arc<ScanTable>)> = Vec::new();
        let mut failed = None;
        // From the outside: one within another is part of the jobs of that one.
        let changed = plan.transform_down_with_subqueries(|plan| {
            let LogicalPlan::RecursiveQuery(query) = plan else { return Ok(Transformed::no(plan)) };
            let source = match known.iter().find(|(twin, _)| *twin == query) {
                Some((_, source)) => Arc::clone(source),
                None => match table(&query) {
                    Ok(table) => {
                        let table = Arc::new(table);
                        known.push((query.clone(), Arc::clone(&table)));
                        table
                    }
                    Err(error) => {
                        failed = Some(error);
                        return Err(DataFusionError::Plan("a recursive query failed".into()));
                    }
                },
            };
            Ok(Transformed::new(scan_as(&query, source)?, true, TreeNodeRecursion::Jump))
        });
        match failed {
            Some(error) => Err(error),
            None => {
                let plan =
                    changed?.data.transform_up_with_subqueries(|plan| plan.recompute_schema().map(Transformed::no))?;
                Ok(Frame::new(Weak::clone(&frame.session), plan.data))
            }
        }
    })
}

/// A scan of `table` whose columns are called as those of `query`.
fn scan_as(query: &RecursiveQuery, table: Arc<ScanTable>) -> QueryResult<LogicalPlan> {
    let name = TableReference::bare(query.name.as_str());
    let scan = LogicalPlanBuilder::scan(name, table, None)?.build()?;
    let columns = scan.schema().columns().into_iter().zip(query.schema.iter());
    let columns = columns
        .map(|(column, (qualifier, field))| Expr::Column(column).alias_qualified(qualifier.cloned(), field.name()));
    let columns = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(scan))?))
}

/// All rows of a recursive query.
fn rows_of(frame: &Frame, query: &RecursiveQuery, wanted: &dyn Fn() -> bool) -> Result<ScanTable> {
    let schema = query.schema.inner();
    let run = |plan: LogicalPlan| match wanted() {
        true => run::store(&Frame::new(Weak::clone(&frame.session), plan), &query.name, Some(schema)),
        false => Err(Error::Execution(ExecutionError::Cancelled)),
    };
    let first = LogicalPlanBuilder::new_from_arc(Arc::clone(&query.static_term));
    let first = if query.is_distinct { first.distinct()? } else { first };
    let mut all = run(first.build()?)?;
    let mut work = Arc::clone(&all);
    while work.rows() > 0 {
        let mut next = over(&query.recursive_term, &query.name, &work)?;
        if query.is_distinct {
            let seen = ScanTable::stored(Arc::clone(&all));
            let seen = LogicalPlanBuilder::scan(TableReference::bare("__seen"), Arc::new(seen), None)?.build()?;
            next = LogicalPlanBuilder::except(next, seen, false)?;
        }
        work = run(next)?;
        all = run::together(frame, &query.name, &all, &work)?;
    }
    Ok(ScanTable::stored(all))
}

/// The recursive term, with the rows of `work` where it asks for those of the query called `name`.
fn over(term: &LogicalPlan, name: &str, work: &Arc<Store>) -> Result<LogicalPlan> {
    let table: Arc<dyn TableSource> = Arc::new(ScanTable::stored(Arc::clone(work)));
    let changed = term.clone().transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::TableScan(scan) if is_work_table(&scan, name) => {
            let scan = TableScanBuilder::new(scan.table_name, Arc::clone(&table))
                .with_projection(scan.projection)
                .with_filters(scan.filters)
                .with_fetch(scan.fetch)
                .build()?;
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(changed?.data)
}

fn is_work_table(scan: &TableScan, name: &str) -> bool {
    scan.source.downcast_ref::<WorkTable>().is_some_and(|table| table.name == name)
}

/// The rows of a recursive query in a plan that is only looked at.
#[derive(Debug)]
struct Outline {
    schema: SchemaRef,
}

impl aqueduct_runtime::SourceSpec for Outline {
    fn name(&self) -> &str {
        "recursive query"
    }

    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn scan(&self, _: aqueduct_runtime::ScanContext) -> aqueduct_runtime::Result<Arc<dyn aqueduct_runtime::Scan>> {
        Err(aqueduct_runtime::OperatorError::new("a recursive query is computed before the jobs that use its rows"))
    }

    fn detail(&self) -> String {
        "computed first, by jobs of its own".into()
    }
}
