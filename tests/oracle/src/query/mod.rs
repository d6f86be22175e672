//! A case as a query in SQL: each step is a common table expression over tables and steps before it.
//!
//! Every column knows whether its values are exact: the same whatever the order of the rows that it was computed of. Only
//! exact columns are compared, grouped, joined and sorted by.

mod aggregates;
mod expressions;
mod steps;
mod windows;

use std::fmt;

use crate::case::Case;
use crate::data::{Kind, Table};
use crate::draws::Draws;

/// A column of a step.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: Kind,
    exact: bool,
}

/// A table or a step.
#[derive(Debug, Clone)]
struct Relation {
    name: String,
    columns: Vec<Column>,
}

/// A query, its tables, and what is known of its answer.
#[derive(Debug)]
pub struct Query {
    /// What is read.
    pub tables: Vec<Table>,
    /// What is asked.
    pub sql: String,
    /// What DataFusion is asked.
    pub judged: String,
    /// For each column of the answer, whether its values are the same in every order of the input.
    pub exact: Vec<bool>,
    /// Whether the rows of the answer come in an order that the query decides in full.
    pub ordered: bool,
    /// Kinds of step.
    pub steps: Vec<&'static str>,
}

impl Query {
    /// The query that `case` stands for.
    pub fn new(case: &Case) -> Query {
        let tables = case.tables.iter().enumerate().map(|(at, draw)| Table::new(format!("t{at}"), draw));
        let tables: Vec<Table> = tables.collect();
        let mut relations: Vec<Relation> = tables.iter().map(of_table).collect();
        let (mut parts, mut judged, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for step in &case.steps {
            let input = |draw: u16| relations[relations.len() - 1 - usize::from(draw) % relations.len()].clone();
            let inputs = [input(step.inputs[0]), input(step.inputs[1])];
            let made = steps::make(steps.len(), usize::from(step.kind), &inputs, &mut Draws::new(&step.draws));
            let name = format!("s{}", parts.len());
            let part = |sql: &str| format!("{name} as (\n    {sql}\n)");
            parts.push(part(&made.sql));
            judged.push(part(made.judged.as_ref().unwrap_or(&made.sql)));
            steps.push(made.what);
            relations.push(Relation { name, columns: made.columns });
        }
        let last = relations.pop().expect("a case has a table");
        let with = |parts: Vec<String>| match parts.is_empty() {
            true => String::new(),
            false => format!("with {}\n", parts.join(", ")),
        };
        let ordered = case.ordered && last.columns.iter().all(|column| column.exact);
        let order: Vec<&str> = last.columns.iter().map(|column| column.name.as_str()).collect();
        let order = if ordered { format!("\norder by {}", order.join(", ")) } else { String::new() };
        let sql = format!("{}select * from {}{order}", with(parts), last.name);
        let judged = format!("{}select * from {}", with(judged), last.name);
        let exact = last.columns.iter().map(|column| column.exact).collect();
        Query { tables, sql, judged, exact, ordered, steps }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| writeln!(f, "-- {table}"))?;
        write!(f, "{}", self.sql)?;
        if !self.sql.starts_with(&self.judged) {
            write!(f, "\n-- and to DataFusion:\n{}", self.judged)?;
        }
        Ok(())
    }
}

fn of_table(table: &Table) -> Relation {
    let columns = table.schema.fields().iter().zip(&table.kinds);
    let columns = columns.map(|(field, kind)| Column { name: field.name().clone(), kind: *kind, exact: true });
    Relation { name: table.name.clone(), columns: columns.collect() }
}
