//! Answers: what DataFusion says, and whether somebody else says the same.
//!
//! Rows are compared in order where the query decides it, else as multisets. Exact columns must be the same; the others may
//! differ by 1e-9, relative, and by a millionth where they are small.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch, UInt32Array};
use arrow::compute::{LexicographicalComparator, SortColumn, SortOptions, cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::config::ConfigOptions;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use tokio::runtime::Runtime;

use crate::query::Query;

/// Larger answers are not compared.
const MOST_ROWS: usize = 100_000;
/// Queries that take longer are not compared: somewhere in them is a product of many rows.
const MOST_TIME: Duration = Duration::from_secs(4);
/// Queries that DataFusion needs more memory for are not compared either: it may be long until it looks at the time.
const MOST_BYTES: usize = 1 << 30;
/// Rows that are alike but for inexact columns and are tried in every order.
const MOST_ALIKE: usize = 300;
const RELATIVE: f64 = 1e-9;
const ABSOLUTE: f64 = 1e-6;

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Unanswered {
    /// It would be too large, or take too long.
    TooLarge,
    /// DataFusion refuses the query.
    Refused(String),
}

/// DataFusion in memory, on one thread.
#[derive(Debug)]
pub struct Oracle {
    runtime: Runtime,
}

impl Oracle {
    /// An oracle to ask.
    ///
    /// # Panics
    ///
    /// If the system has no thread to spare.
    pub fn new() -> Oracle {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Oracle { runtime }
    }

    /// What DataFusion answers.
    ///
    /// # Errors
    ///
    /// Why there is no answer to compare with.
    pub fn answer(&self, query: &Query) -> Result<Rows, Unanswered> {
        let answered = self.runtime.block_on(async { tokio::time::timeout(MOST_TIME, asked(query)).await });
        let batches = match answered {
            Err(_) => return Err(Unanswered::TooLarge),
            Ok(Err(error)) if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => {
                return Err(Unanswered::TooLarge);
            }
            Ok(Err(error)) => return Err(Unanswered::Refused(error.to_string())),
            Ok(Ok(None)) => return Err(Unanswered::TooLarge),
            Ok(Ok(Some(batches))) => batches,
        };
        let (schema, mut batches) = batches;
        if query.ordered {
            batches = vec![in_order(&schema, &batches).map_err(|error| Unanswered::Refused(error.to_string()))?];
        }
        Rows::new(&schema, &batches, &query.exact).map_err(Unanswered::Refused)
    }
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

async fn asked(query: &Query) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>, DataFusionError> {
    let mut options = ConfigOptions::new();
    options.sql_parser.parse_float_as_decimal = true;
    options.execution.target_partitions = 1;
    // On disk it would go on, to tens of gigabytes.
    let nowhere = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let environment = RuntimeEnvBuilder::new().with_memory_limit(MOST_BYTES, 1.0);
    let environment = environment.with_disk_manager_builder(nowhere).build_arc()?;
    let context = SessionContext::new_with_config_rt(SessionConfig::from(options), environment);
    for table in &query.tables {
        let rows = MemTable::try_new(Arc::clone(&table.schema), vec![table.batches.clone()])?;
        context.register_table(table.name.as_str(), Arc::new(rows))?;
    }
    let frame = context.sql(&query.judged).await?;
    let mut stream = frame.execute_stream().await?;
    let schema = stream.schema();
    let (mut batches, mut rows) = (Vec::new(), 0);
    while let Some(batch) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
        let batch = batch?;
        rows += batch.num_rows();
        if rows > MOST_ROWS {
            return Ok(None);
        }
        batches.push(batch);
        tokio::task::yield_now().await;
    }
    Ok(Some((schema, batches)))
}

/// The rows of `batches` in the order of all their columns, as arrow sorts them: DataFusion leaves out keys that it takes to
/// be settled by others, and is not always right.
fn in_order(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let schema = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
    let whole = concat_batches(&schema, batches)?;
    let options = Some(SortOptions { descending: false, nulls_first: false });
    let columns = whole.columns().iter().map(|values| SortColumn { values: Arc::clone(values), options });
    let columns: Vec<SortColumn> = columns.collect();
    let order = LexicographicalComparator::try_new(&columns)?;
    let mut rows: Vec<u32> = (0..whole.num_rows() as u32).collect();
    rows.sort_by(|one, other| order.compare(*one as usize, *other as usize));
    take_record_batch(&whole, &UInt32Array::from(rows))
}

/// The rows of an answer, made comparable.
#[derive(Debug, Clone)]
pub struct Rows {
    /// As they came.
    batch: RecordBatch,
    exact: Vec<bool>,
}

impl Rows {
    /// The rows of `batches`, of whose columns those in `exact` are to be the same.
    ///
    /// # Errors
    ///
    /// If they are not such columns.
    pub fn new(schema: &SchemaRef, batches: &[RecordBatch], exact: &[bool]) -> Result<Rows, String> {
        if schema.fields().len() != exact.len() {
            return Err(format!("{} columns instead of {}", schema.fields().len(), exact.len()));
        }
        let schema = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
        let whole = concat_batches(&schema, batches).map_err(|error| error.to_string())?;
        let plain = whole.columns().iter().zip(exact).map(|(column, exact)| plain(column, *exact));
        let plain = plain.collect::<Result<Vec<ArrayRef>, _>>()?;
        let fields = plain.iter().enumerate().map(|(at, column)| {
            let (name, kind) = (schema.field(at).name(), column.data_type().clone());
            Field::new(name, kind, true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, plain).map_err(|error| error.to_string())?;
        Ok(Rows { batch, exact: exact.to_vec() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.batch.num_rows()
    }

    /// How these rows differ from `expected`, if they do.
    pub fn differ(&self, expected: &Rows, ordered: bool) -> Option<String> {
        for (found, expected) in self.batch.schema_ref().fields().iter().zip(expected.batch.schema_ref().fields()) {
            if found.data_type() != expected.data_type() {
                let (found_type, expected_type) = (found.data_type(), expected.data_type());
                return Some(format!("column `{}` is {found_type} instead of {expected_type}", found.name()));
            }
        }
        if self.count() != expected.count() {
            return Some(format!("{} rows instead of {}", self.count(), expected.count()));
        }
        if ordered {
            return first_difference(&self.batch, &expected.batch, &self.exact);
        }
        let found = match sorted(&self.batch, &self.exact) {
            Ok(found) => found,
            Err(error) => return Some(error),
        };
        let expected = match sorted(&expected.batch, &self.exact) {
            Ok(expected) => expected,
            Err(error) => return Some(error),
        };
        let difference = first_difference(&found.0, &expected.0, &self.exact)?;
        // Rows that differ by little may have changed places among those that are the same otherwise.
        (!same_by_runs(&found, &expected, &self.exact)).then_some(difference)
    }
}

/// The one type that a value of this type is compared in.
fn comparable(kind: &DataType) -> DataType {
    let of = |field: &Field| Arc::new(Field::new("item", comparable(field.data_type()), true));
    match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, values) => comparable(values),
        DataType::List(field) | DataType::LargeList(field) | DataType::ListView(field) => DataType::List(of(field)),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), comparable(field.data_type()), true)).collect(),
        ),
        kind => kind.clone(),
    }
}

fn plain(column: &ArrayRef, exact: bool) -> Result<ArrayRef, String> {
    let kind = if exact { comparable(column.data_type()) } else { DataType::Float64 };
    let column = if *column.data_type() == kind {
        Arc::clone(column)
    } else {
        cast(column, &kind).map_err(|error| error.to_string())?
    };
    // All that is not a number is one value, and both zeros are.
    Ok(match kind {
        DataType::Float64 => {
            let floats = column.as_primitive::<Float64Type>();
            Arc::new(floats.unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }) as Float64Array)
        }
        DataType::Float32 => {
            let floats = column.as_primitive::<Float32Type>();
            Arc::new(floats.unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }) as Float32Array)
        }
        _ => column,
    })
}

/// `batch` in the order of its exact columns, and where each run of rows that are the same there ends.
fn sorted(batch: &RecordBatch, exact: &[bool]) -> Result<(RecordBatch, Vec<usize>), String> {
    let converted = |wanted: bool| {
        let columns: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .zip(exact)
            .filter(|(_, exact)| **exact == wanted)
            .map(|(c, _)| Arc::clone(c))
            .collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields).and_then(|converter| match columns.is_empty() {
            true => Ok(None),
            false => converter.convert_columns(&columns).map(Some),
        });
        rows.map_err(|error| error.to_string())
    };
    let (exact, other) = (converted(true)?, converted(false)?);
    let row =
        |rows: &Option<arrow::row::Rows>, at: u32| rows.as_ref().map(|rows| rows.row(at as usize).data().to_vec());
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by_cached_key(|at| (row(&exact, *at), row(&other, *at)));
    let ends =
        (1..=order.len()).filter(|at| *at == order.len() || row(&exact, order[*at]) != row(&exact, order[*at - 1]));
    let ends = ends.collect();
    Ok((take_record_batch(batch, &UInt32Array::from(order)).map_err(|error| error.to_string())?, ends))
}

fn first_difference(found: &RecordBatch, expected: &RecordBatch, exact: &[bool]) -> Option<String> {
    let columns = found.columns().iter().zip(expected.columns()).zip(exact).enumerate();
    let first = columns.filter_map(|(index, ((found, expected), exact))| {
        let row = (0..found.len()).find(|&row| !same(found, row, expected, row, *exact))?;
        Some((row, index))
    });
    let (row, index) = first.min()?;
    let shown = |batch: &RecordBatch| {
        let value = |column: &ArrayRef| match arrow::util::display::array_value_to_string(column, row) {
            Ok(text) if column.is_valid(row) => text.chars().take(60).collect::<String>(),
            Ok(_) => "null".into(),
            Err(error) => error.to_string(),
        };
        batch.columns().iter().map(value).collect::<Vec<_>>().join(" | ")
    };
    let name = found.schema_ref().field(index).name().clone();
    Some(format!("row {row}, column `{name}`:\n    {}\ninstead of\n    {}", shown(found), shown(expected)))
}

fn same(found: &ArrayRef, row: usize, expected: &ArrayRef, other: usize, exact: bool) -> bool {
    if exact {
        return found.slice(row, 1) == expected.slice(other, 1) || both_are_nan(found, row, expected, other);
    }
    let value =
        |array: &ArrayRef, row: usize| array.is_valid(row).then(|| array.as_primitive::<Float64Type>().value(row));
    match (value(found, row), value(expected, other)) {
        (Some(found), Some(expected)) => {
            found == expected
                || found.is_nan() && expected.is_nan()
                || (found - expected).abs() <= RELATIVE * found.abs().max(expected.abs()) + ABSOLUTE
        }
        (found, expected) => found.is_none() && expected.is_none(),
    }
}

fn both_are_nan(found: &ArrayRef, row: usize, expected: &ArrayRef, other: usize) -> bool {
    let nan = |array: &ArrayRef, row: usize| match array.data_type() {
        DataType::Float64 => array.is_valid(row) && array.as_primitive::<Float64Type>().value(row).is_nan(),
        DataType::Float32 => array.is_valid(row) && array.as_primitive::<Float32Type>().value(row).is_nan(),
        _ => false,
    };
    nan(found, row) && nan(expected, other)
}

/// Whether each run of rows with the same exact columns has the same rows, whatever their order.
fn same_by_runs(found: &(RecordBatch, Vec<usize>), expected: &(RecordBatch, Vec<usize>), exact: &[bool]) -> bool {
    let mut from = 0;
    found.1 == expected.1
        && found.1.iter().all(|&end| {
            let mut left: Vec<usize> = (from..end).collect();
            let run = from..end;
            from = end;
            run.len() <= MOST_ALIKE
                && run.into_iter().all(|row| {
                    let same_row = |other: &usize| {
                        let columns = found.0.columns().iter().zip(expected.0.columns()).zip(exact);
                        columns.into_iter().all(|((found, expected), exact)| same(found, row, expected, *other, *exact))
                    };
                    left.iter().position(same_row).map(|at| left.swap_remove(at)).is_some()
                })
        })
}
