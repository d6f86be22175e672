//! Where rows come from: files and batches as tables of a logical plan, and as sources of a graph.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use aqueduct_operators::csv::{CsvError, CsvSource, OnMismatch};
use aqueduct_operators::parquet::{ParquetSource, TableStatistics};
use aqueduct_operators::{Expression, Filter, MemorySource, Project, Store, StoreSource};
use aqueduct_runtime::{Graph, NodeId, Partitions, Scan, ScanContext, SourceSpec};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::{DFSchema, Result as QueryResult, ScalarValue};
use datafusion_expr::logical_plan::{EmptyRelation, TableScan, Values};
use datafusion_expr::{Expr, TableProviderFilterPushDown, TableSource};
use datafusion_physical_expr::expressions::Column;

use super::estimate::{Facts, number, text_bytes, value_bytes};
use super::runtime_filter::and;
use super::{Flow, Planner};
use crate::error::{Error, Result};

/// Scans that need no more rows than this are read by one partition: the others would read in vain.
const ONE_READER_ROWS: usize = 10_000;

/// What a compressed text is in full, on average, by its size.
const PACKED: f64 = 4.0;

/// A table of a logical plan that can be read.
#[derive(Debug)]
pub(crate) struct ScanTable {
    schema: SchemaRef,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Csv(CsvSource),
    /// And what its footers say, once somebody has asked.
    Parquet(ParquetSource, OnceLock<TableStatistics>),
    Batches(Vec<RecordBatch>),
    Stored(StoreSource),
    Other(Shared),
}

/// A source of the user's own, read by any number of jobs.
#[derive(Debug, Clone)]
struct Shared(Arc<dyn SourceSpec>);

impl SourceSpec for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn scan(&self, context: ScanContext) -> aqueduct_runtime::Result<Arc<dyn Scan>> {
        self.0.scan(context)
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.0.min_memory(batch_bytes)
    }

    fn max_partitions(&self) -> Option<usize> {
        self.0.max_partitions()
    }

    fn detail(&self) -> String {
        self.0.detail()
    }
}

impl ScanTable {
    pub(crate) fn csv(source: CsvSource) -> Self {
        Self { schema: source.schema(), rows: Rows::Csv(source) }
    }

    pub(crate) fn parquet(source: ParquetSource) -> Self {
        Self { schema: source.file_schema(), rows: Rows::Parquet(source, OnceLock::new()) }
    }

    pub(crate) fn batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, rows: Rows::Batches(batches) }
    }

    pub(crate) fn stored(store: Arc<Store>) -> Self {
        Self { schema: SchemaRef::clone(store.schema()), rows: Rows::Stored(StoreSource::new(store)) }
    }

    /// The rows that are kept on disk, if that is what it reads.
    pub(crate) fn store(&self) -> Option<&Arc<Store>> {
        match &self.rows {
            Rows::Stored(source) => Some(source.store()),
            _ => None,
        }
    }

    pub(crate) fn source(source: impl SourceSpec) -> Self {
        Self { schema: source.schema(), rows: Rows::Other(Shared(Arc::new(source))) }
    }

    /// How many rows there are, as far as that can be told without reading them.
    pub(super) fn rows(&self) -> Option<f64> {
        match &self.rows {
            Rows::Csv(source) => {
                let sizes = source.paths().filter_map(|path| Some((path, std::fs::metadata(path).ok()?.len())));
                let packed = |path: &Path| path.extension().is_some_and(|ending| ending != "csv" && ending != "tsv");
                let bytes: f64 =
                    sizes.map(|(path, bytes)| if packed(path) { PACKED * bytes as f64 } else { bytes as f64 }).sum();
                let fields = self.schema.fields();
                Some(bytes / fields.iter().map(|field| text_bytes(field.data_type())).sum::<f64>().max(1.0))
            }
            Rows::Parquet(source, said) => said.get_or_init(|| source.statistics()).rows.map(|rows| rows as f64),
            Rows::Batches(batches) => Some(batches.iter().map(RecordBatch::num_rows).sum::<usize>() as f64),
            Rows::Stored(source) => Some(source.store().rows() as f64),
            Rows::Other(_) => None,
        }
    }

    /// What is known of the column `index`.
    pub(super) fn facts(&self, index: usize) -> Option<Facts> {
        let rows = self.rows()?.max(1.0);
        let Rows::Parquet(source, said) = &self.rows else { return Some(Facts { distinct: rows, range: None }) };
        let column = said.get_or_init(|| source.statistics()).columns.get(index)?;
        let range = column.min.as_ref().and_then(number).zip(column.max.as_ref().and_then(number));
        let kind = self.schema.field(index).data_type();
        let whole = kind.is_integer() || matches!(kind, DataType::Date32);
        let distinct = match range {
            Some((least, most)) if whole => (most - least + 1.0).min(rows),
            _ => rows,
        };
        Some(Facts { distinct, range })
    }

    /// The same table with the wider type that a value asks for; `None` if its columns keep their types, or that
    /// column has the wider type already.
    pub(crate) fn widened(&self, mismatch: &CsvError) -> Result<Option<Self>> {
        let (Rows::Csv(source), CsvError::Value { file, column, expected, wider, .. }) = (&self.rows, mismatch) else {
            return Ok(None);
        };
        let inferred = source.options().schema.is_none();
        if !inferred || source.options().on_mismatch == OnMismatch::Fail || source.paths().all(|path| path != file) {
            return Ok(None);
        }
        let index = self.schema.index_of(column)?;
        if self.schema.field(index).data_type() != expected || expected == wider {
            return Ok(None);
        }
        Ok(Some(Self::csv(source.with_type(index, wider.clone())?)))
    }

    /// Adds a source of these columns, all of them if `None`, and of the rows for which `predicate` is true; the node
    /// that yields them.
    fn add_to(
        &self,
        graph: &mut Graph,
        name: &str,
        projection: Option<&[usize]>,
        predicate: Option<Expression>,
        reading: Reading,
    ) -> Result<NodeId> {
        let source = match &self.rows {
            Rows::Parquet(source, _) => {
                let source = match projection {
                    Some(columns) => source.with_projection(columns)?,
                    None => source.clone(),
                };
                graph.source(name, predicate.map_or(Ok(source.clone()), |predicate| source.with_predicate(predicate))?)
            }
            Rows::Csv(source) => {
                let source = match projection {
                    Some(columns) => source.with_projection(columns)?,
                    None => source.clone(),
                };
                graph.source(name, if reading == Reading::Whole { source } else { source.with_small_reads() })
            }
            Rows::Batches(batches) => {
                let (schema, batches) = match projection {
                    Some(columns) => {
                        let projected = batches.iter().map(|batch| batch.project(columns));
                        (Arc::new(self.schema.project(columns)?), projected.collect::<Result<_, _>>()?)
                    }
                    None => (SchemaRef::clone(&self.schema), batches.clone()),
                };
                graph.source(name, MemorySource::new(schema, batches))
            }
            Rows::Stored(source) => {
                let source = match projection {
                    Some(columns) => source.with_projection(columns)?,
                    None => source.clone(),
                };
                graph.source(name, source)
            }
            Rows::Other(source) => graph.source(name, source.clone()),
        };
        if reading == Reading::Few {
            graph.set_partitions(source, Partitions::Fixed(1));
        }
        match (&self.rows, projection) {
            (Rows::Other(_), Some(columns)) if !columns.iter().copied().eq(0..self.schema.fields().len()) => {
                let columns = columns.iter().map(|&index| {
                    let name = self.schema.field(index).name();
                    (Arc::new(Column::new(name, index)) as Expression, name.clone())
                });
                Ok(graph.operator("columns", Project::new(columns.collect()), source))
            }
            _ => Ok(source),
        }
    }
}

/// How much of a table is likely to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// All of it.
    Whole,
    /// Until enough rows have been found.
    Until,
    /// Its first rows, by one partition.
    Few,
}

/// Parquet files are read with filters, which tell what need not be read at all. Others stay above the scan, where they
/// fuse with it.
impl TableSource for ScanTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> QueryResult<Vec<TableProviderFilterPushDown>> {
        let supported = match self.rows {
            Rows::Parquet(..) => TableProviderFilterPushDown::Exact,
            _ => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![supported; filters.len()])
    }
}

impl Planner {
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Flow> {
        let Some(table) = scan.source.downcast_ref::<ScanTable>() else {
            return Err(Error::unsupported(format!("the table `{}`, which no cluster made,", scan.table_name)));
        };
        let predicate = match scan.filters.iter().cloned().reduce(Expr::and) {
            None => None,
            Some(filter) if matches!(table.rows, Rows::Parquet(..)) => {
                let rows = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &table.schema)?;
                Some(self.expression(&filter, &rows)?)
            }
            Some(_) => return Err(Error::unsupported("a filter inside a scan")),
        };
        // Rows are counted by their narrowest column when nobody wants any.
        let narrowest = [narrowest(&table.schema)];
        let counts = scan.projection.as_ref().is_some_and(Vec::is_empty) && !table.schema.fields().is_empty();
        let projection = if counts { Some(narrowest.as_slice()) } else { scan.projection.as_deref() };
        let schema = match projection {
            Some(columns) => Arc::new(table.schema.project(columns)?),
            None => SchemaRef::clone(&table.schema),
        };
        // A filter may leave few of many.
        let few = predicate.is_none() && scan.fetch.is_some_and(|rows| rows <= ONE_READER_ROWS);
        let reading = match self.stops_early {
            _ if few => Reading::Few,
            true => Reading::Until,
            false => Reading::Whole,
        };
        let named = |index: usize| Some(Column::new(table.schema.field(index).name(), index));
        let (predicate, behind) = if matches!(table.rows, Rows::Parquet(..)) {
            (predicate.into_iter().chain(self.asked_of(scan, named)).reduce(and), None)
        } else {
            let projected = |index: usize| match projection {
                Some(columns) => {
                    let at = columns.iter().position(|column| *column == index)?;
                    Some(Column::new(table.schema.field(index).name(), at))
                }
                None => named(index),
            };
            (predicate, self.asked_of(scan, projected))
        };
        let node = table.add_to(&mut self.graph, scan.table_name.table(), projection, predicate, reading)?;
        let flow = self.awaited(scan, Flow { node, schema, ordered: true, single: few, hashed: None });
        let flow = match behind {
            Some(asked) => self.row_wise("runtime filter", Filter::new(asked), flow),
            None => flow,
        };
        // Above it columns are known by their places: a join would take this one for the first of its other side.
        Ok(if counts {
            self.row_wise("rows", Project::new(Vec::new()), Flow { schema: Arc::new(Schema::empty()), ..flow })
        } else {
            flow
        })
    }

    pub(super) fn empty(&mut self, empty: &EmptyRelation) -> Flow {
        let schema = SchemaRef::clone(empty.schema.inner());
        let batches = if empty.produce_one_row { vec![one_row()] } else { Vec::new() };
        self.in_memory("empty", schema, batches)
    }

    /// Rows written out in the plan.
    pub(super) fn values(&mut self, values: &Values) -> Result<Flow> {
        let no_columns = DFSchema::empty();
        let schema = SchemaRef::clone(values.schema.inner());
        let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::new(); schema.fields().len()];
        for row in &values.values {
            for ((column, expr), field) in columns.iter_mut().zip(row).zip(schema.fields()) {
                let value = self.expression(expr, &no_columns)?.evaluate(&one_row())?.into_array(1)?;
                column.push(ScalarValue::try_from_array(&value, 0)?.cast_to(field.data_type())?);
            }
        }
        let columns = columns.into_iter().map(ScalarValue::iter_to_array).collect::<Result<Vec<ArrayRef>, _>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(values.values.len()));
        let batch = RecordBatch::try_new_with_options(SchemaRef::clone(&schema), columns, &rows)?;
        Ok(self.in_memory("values", schema, vec![batch]))
    }

    fn in_memory(&mut self, name: &str, schema: SchemaRef, batches: Vec<RecordBatch>) -> Flow {
        let node = self.graph.source(name, MemorySource::new(SchemaRef::clone(&schema), batches));
        self.graph.set_partitions(node, Partitions::Fixed(1));
        Flow { node, schema, ordered: true, single: true, hashed: None }
    }
}

/// The column whose values take the fewest bytes.
fn narrowest(schema: &Schema) -> usize {
    let widths = schema.fields().iter().map(|field| value_bytes(field.data_type())).enumerate();
    widths.min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(index, _)| index)
}

/// One row without columns: what a constant is evaluated on.
fn one_row() -> RecordBatch {
    let rows = RecordBatchOptions::new().with_row_count(Some(1));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &rows)
        .expect("a batch without columns has nothing that could not fit")
}
