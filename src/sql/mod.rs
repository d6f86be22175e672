//! Queries in SQL: text to the same lazy frames that methods build. A statement is read and checked here, and runs
//! nothing; only what changes the cluster's tables, or writes a file, is carried out at once.

mod arrays;
mod catalog;
mod files;
mod functions;
mod lateral;
mod multiset;
mod place;
mod single;
mod spelled;
mod statement;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_sql::parser::{DFParserBuilder, Statement};
use datafusion_sql::planner::SqlToRel;
use datafusion_sql::sqlparser::ast::{self, Visit, Visitor};
use datafusion_sql::sqlparser::dialect::GenericDialect;

pub(crate) use catalog::Catalog;
pub use place::Place;

use crate::cluster::LocalCluster;
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::optimize;
use crate::stack::on_large_stack;

/// How deep queries and expressions may be nested: what the parser's stack surely takes.
const NESTING: usize = 50;

/// How deep expressions may be, rows of operators without brackets included.
const DEPTH: usize = 1000;

impl LocalCluster {
    /// A lazy frame over the rows of a query in SQL.
    ///
    /// Tables are those that [`register_table`](Self::register_table) gave a name, and files, named in place by their
    /// path or by a pattern, in quotes: `from 'data/*.parquet'`, `from 'trips.csv.gz'`. Names without quotes are read as
    /// lower case, so a column `Price` is written `"Price"`. Nulls are the largest values of an order unless it says
    /// `nulls first` or `nulls last`. A number with a point is a decimal.
    ///
    /// `explain`, `describe`, `show tables`, `values`, `create view`, `create table` and `insert into`, `drop view` and
    /// `drop table`, and `copy (…) to 'file.csv'` work, too. Those that change something do so at once, and
    /// `explain analyze` runs its query at once. Of several
    /// statements, divided by `;`, all but the last must be of that kind. The rows of a table that a statement made are kept
    /// on disk, as [`Frame::cache`] keeps them.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("trips.csv");
    /// # std::fs::write(&path, "city,fare\nOslo,10\nRome,3\nOslo,20\n").expect("a file");
    /// let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").start()?;
    /// let query = format!("select city, avg(fare) as fare from '{}' group by city having avg(fare) > 5", path.display());
    /// let answer = cluster.sql(query)?.compute()?;
    /// assert_eq!(answer.f64s("fare")?, [Some(15.0)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the query cannot be parsed, names a table, column or function that is not there, or is of a kind that this
    /// version cannot run.
    pub fn sql(&self, query: impl AsRef<str>) -> Result<Frame> {
        let query = query.as_ref();
        on_large_stack(|| self.statements(query))
    }

    fn statements(&self, query: &str) -> Result<Frame> {
        let mut frame = None;
        let statements = parse(query)?;
        let last = statements.len() - 1;
        for (index, statement) in statements.into_iter().enumerate() {
            let done = self.statement(query, statement)?;
            if index < last && !done.carried_out {
                return Err(Error::sql("only the last statement may be a query"));
            }
            frame = Some(done.frame);
        }
        frame.ok_or_else(|| Error::sql("there is no statement"))
    }

    /// Gives a frame a name that queries in SQL use for it. A frame that had the name before loses it; what was made of
    /// it stays.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(10)))?;
    /// cluster.register_table("small", &numbers.filter(col("n").lt(lit(3))))?;
    /// assert_eq!(cluster.sql("select n from small")?.count()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first step of the frame that was wrong.
    pub fn register_table(&self, name: impl Into<String>, frame: &Frame) -> Result<()> {
        self.session().catalog.register(name.into(), Arc::new(frame.logical_plan()?));
        Ok(())
    }

    /// Takes the name that [`register_table`](Self::register_table) gave; whether there was such a table.
    pub fn deregister_table(&self, name: &str) -> bool {
        self.session().catalog.deregister(name)
    }

    /// The names of the tables that [`register_table`](Self::register_table) and `create view` gave a name, in order.
    pub fn tables(&self) -> Vec<String> {
        self.session().catalog.names()
    }

    fn statement(&self, query: &str, statement: Statement) -> Result<statement::Done> {
        if is_show_tables(&statement) {
            return Ok(statement::Done { frame: self.shown_tables()?, carried_out: false });
        }
        if let Statement::Statement(statement) = &statement {
            spelled::check(statement, &self.session().catalog)?;
        }
        let provider = catalog::Provider::new(&self.session().catalog);
        let planned = SqlToRel::new(&provider).statement_to_plan(statement);
        let plan = planned.map_err(|error| place::located(error, query))?;
        optimize::check_steps(&plan)?;
        self.carry_out(multiset::counted(single::at_most_one_row(lateral::row_by_row(plan)?)?)?)
    }
}

fn parse(query: &str) -> Result<Vec<Statement>> {
    let parser = DFParserBuilder::new(query).with_dialect(&GenericDialect).with_recursion_limit(NESTING).build();
    let statements = parser.and_then(|mut parser| parser.parse_statements());
    let statements = statements.map_err(|error| place::located(error, query))?;
    if statements.is_empty() {
        return Err(Error::sql("there is no statement"));
    }
    for statement in &statements {
        if let Statement::Statement(statement) = statement {
            check_depth(statement)?;
        }
    }
    Ok(statements.into_iter().map(arrays::as_calls).collect())
}

/// Whether all tables are asked for: DataFusion would look for them in a schema of its own.
fn is_show_tables(statement: &Statement) -> bool {
    let Statement::Statement(statement) = statement else { return false };
    let ast::Statement::ShowTables { show_options, .. } = statement.as_ref() else { return false };
    show_options.filter_position.is_none() && show_options.show_in.is_none() && show_options.limit.is_none()
}

/// Refuses what is nested so deeply that walking it elsewhere could take a whole stack.
fn check_depth(statement: &impl Visit) -> Result<()> {
    struct Depth(usize);
    impl Visitor for Depth {
        type Break = ();

        fn pre_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<()> {
            self.0 += 1;
            if self.0 > DEPTH { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn post_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<()> {
            self.0 -= 1;
            ControlFlow::Continue(())
        }
    }
    match statement.visit(&mut Depth(0)) {
        ControlFlow::Break(()) => Err(Error::sql(format!(
            "an expression is more than {DEPTH} levels deep; `in (…)` is one level for any number of values"
        ))),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The options of the parser and the planner of SQL, as for everything else.
fn options() -> &'static datafusion_common::config::ConfigOptions {
    static OPTIONS: std::sync::LazyLock<Arc<datafusion_common::config::ConfigOptions>> =
        std::sync::LazyLock::new(optimize::options);
    &OPTIONS
}
