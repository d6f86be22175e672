//! How long a query is once it is spelled out: what `with` names is there once for each time that it is used, so thirty
//! tables that each join the one before with itself are a thousand million scans. That is found out before any is made.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};

use super::Catalog;
use crate::error::Result;
use crate::optimize;

/// Refuses a statement that uses too many tables.
pub(super) fn check(statement: &impl Visit, catalog: &Catalog) -> Result<()> {
    let mut spelled = Spelled { catalog, queries: vec![Named::default()] };
    match statement.visit(&mut spelled) {
        ControlFlow::Break(()) => Err(optimize::too_many_steps()),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The queries around the place that is looked at, from outside in.
struct Spelled<'a> {
    catalog: &'a Catalog,
    queries: Vec<Named>,
}

/// What is known of a query while it is looked at.
#[derive(Default)]
struct Named {
    /// What `with` names, the first first, and how many tables each of them uses.
    names: Vec<(String, usize)>,
    /// How many of them have been looked at.
    known: usize,
    tables: usize,
}

impl Visitor for Spelled<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = named.map(|table| (table.alias.name.value.to_lowercase(), 1)).collect();
        self.queries.push(Named { names, ..Named::default() });
        ControlFlow::Continue(())
    }

    // What `with` names comes before all else in a query.
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        let Some(done) = self.queries.pop() else { return ControlFlow::Continue(()) };
        let Some(outer) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        match outer.names.get_mut(outer.known) {
            Some((_, tables)) => {
                *tables = done.tables.max(1);
                outer.known += 1;
                ControlFlow::Continue(())
            }
            None => self.count(done.tables),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.to_string().trim_matches('"').to_lowercase();
        let named = self.queries.iter().rev().find_map(|query| {
            let names = query.names[..query.known.min(query.names.len())].iter().rev();
            names.clone().find(|(known, _)| *known == name).map(|(_, tables)| *tables)
        });
        let tables = named.unwrap_or_else(|| self.catalog.get(&name).map_or(1, |plan| optimize::steps(&plan)));
        self.count(tables)
    }
}

impl Spelled<'_> {
    fn count(&mut self, tables: usize) -> ControlFlow<()> {
        let Some(query) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        query.tables += tables;
        if query.tables > optimize::STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
