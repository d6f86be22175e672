//! The tables that SQL knows: frames under the names they were given, and files under their paths. A file is opened once
//! for each statement, when a name turns out to be its path.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::file_options::file_type::FileType;
use datafusion_common::utils::datafusion_strsim::normalized_levenshtein;
use datafusion_common::{Result as QueryResult, TableReference, plan_datafusion_err, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use parking_lot::Mutex;

use super::files;
use super::functions::functions;
use crate::recursive::WorkTable;

/// How much two names must agree for one to be suggested for the other.
const ALIKE: f64 = 0.5;

/// Frames under the names that SQL uses for them.
#[derive(Default)]
pub(crate) struct Catalog {
    tables: Mutex<BTreeMap<String, Arc<LogicalPlan>>>,
}

impl Catalog {
    pub(super) fn register(&self, name: String, plan: Arc<LogicalPlan>) {
        self.tables.lock().insert(name, plan);
    }

    /// As [`Catalog::register`], unless there is one of that name; whether there was none.
    pub(super) fn add(&self, name: String, plan: Arc<LogicalPlan>) -> bool {
        match self.tables.lock().entry(name) {
            Entry::Vacant(place) => {
                place.insert(plan);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Puts `plan` in the place of `known`, if that is still what `name` stands for.
    pub(super) fn replace(&self, name: &str, known: &Arc<LogicalPlan>, plan: Arc<LogicalPlan>) -> bool {
        match self.tables.lock().get_mut(name) {
            Some(found) if Arc::ptr_eq(found, known) => {
                *found = plan;
                true
            }
            _ => false,
        }
    }

    pub(super) fn deregister(&self, name: &str) -> bool {
        self.tables.lock().remove(name).is_some()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tables.lock().keys().cloned().collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tables.lock().contains_key(name)
    }

    /// The table called `name`; where case alone tells, the only one that is called so in some case.
    pub(super) fn get(&self, name: &str) -> Option<Arc<LogicalPlan>> {
        self.find(name).map(|(_, plan)| plan)
    }

    /// As [`Catalog::get`], with the name that it has.
    pub(super) fn find(&self, name: &str) -> Option<(String, Arc<LogicalPlan>)> {
        let tables = self.tables.lock();
        if let Some(plan) = tables.get(name) {
            return Some((name.into(), Arc::clone(plan)));
        }
        let mut alike = tables.iter().filter(|(known, _)| known.to_lowercase() == name.to_lowercase());
        match (alike.next(), alike.next()) {
            (Some((known, only)), None) => Some((known.clone(), Arc::clone(only))),
            _ => None,
        }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A frame as a table: its plan takes the place of the name.
#[derive(Debug)]
struct View {
    plan: Arc<LogicalPlan>,
    schema: SchemaRef,
}

impl TableSource for View {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// What the planner of SQL asks while it plans one statement.
pub(super) struct Provider<'a> {
    catalog: &'a Catalog,
    files: Mutex<HashMap<String, Arc<dyn TableSource>>>,
}

impl<'a> Provider<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, files: Mutex::default() }
    }

    fn file(&self, path: &str) -> QueryResult<Option<Arc<dyn TableSource>>> {
        if let Some(opened) = self.files.lock().get(path) {
            return Ok(Some(Arc::clone(opened)));
        }
        let opened = files::open(path)?;
        if let Some(opened) = &opened {
            self.files.lock().insert(path.into(), Arc::clone(opened));
        }
        Ok(opened)
    }

    /// Says what there is instead of `name`.
    fn no_such_table(&self, name: &str) -> String {
        let known = self.catalog.names();
        let near =
            known.iter().map(|known| (normalized_levenshtein(&known.to_lowercase(), &name.to_lowercase()), known));
        let nearest = near.filter(|(alike, _)| *alike >= ALIKE).max_by(|(one, _), (other, _)| one.total_cmp(other));
        let hint = match nearest {
            Some((_, nearest)) => format!("did you mean `{nearest}`?"),
            None if known.is_empty() => "no table is registered".into(),
            None => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                format!("the tables are {}", known.join(", "))
            }
        };
        format!("there is no table `{name}`; {hint}; a file is named by its path, in quotes: from 'folder/file.csv'")
    }
}

impl ContextProvider for Provider<'_> {
    fn get_table_source(&self, name: TableReference) -> QueryResult<Arc<dyn TableSource>> {
        let found = match &name {
            TableReference::Bare { table } => match self.catalog.get(table) {
                Some(plan) => {
                    let schema = SchemaRef::clone(plan.schema().inner());
                    Some(Arc::new(View { plan, schema }) as Arc<dyn TableSource>)
                }
                None => self.file(table)?,
            },
            _ => None,
        };
        found.ok_or_else(|| plan_datafusion_err!("{}", self.no_such_table(&name.to_string())))
    }

    fn get_file_type(&self, extension: &str) -> QueryResult<Arc<dyn FileType>> {
        match files::Format::of_extension(extension) {
            Some(format) => Ok(Arc::new(format)),
            None => plan_err!("files of the type `{extension}` cannot be written; {}", files::Format::known()),
        }
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> QueryResult<Arc<dyn TableSource>> {
        Ok(Arc::new(WorkTable::new(name, schema)))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &functions().planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions().scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        functions().higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions().aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        functions().window.get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        super::options()
    }

    fn udf_names(&self) -> Vec<String> {
        functions().scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        functions().higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        functions().aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        functions().window.keys().cloned().collect()
    }
}
