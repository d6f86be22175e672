//! How the rows of an edge are spread over the receiving partitions.
//!
//! Equal values always meet: the hash depends on values alone, never on the type's layout in memory, on
//! the partition or on the process. Nulls are equal to each other, as are NaNs, and `-0.0` to `0.0`.

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use foldhash::quality::FixedState;

use crate::error::Result;
use crate::graph::Exchange;

/// Spreads batches over `targets` partitions.
pub(crate) enum Router {
    /// Always to this target.
    One(usize),
    /// In turn.
    RoundRobin { next: usize, targets: usize },
    /// To each.
    All { targets: usize },
    /// By the hash of columns.
    Hash(Box<HashRouter>),
}

impl Router {
    /// A router for sender `partition`. The plan has checked that hash columns exist.
    pub(crate) fn new(exchange: &Exchange, schema: &SchemaRef, partition: usize, targets: usize) -> Result<Router> {
        Ok(match exchange {
            // Behind lanes each sender has a port of its own.
            Exchange::Forward | Exchange::Lanes => Router::One(partition),
            Exchange::Gather { .. } => Router::One(0),
            Exchange::RoundRobin => Router::RoundRobin { next: partition % targets, targets },
            Exchange::Broadcast => Router::All { targets },
            Exchange::Hash(_) if targets == 1 => Router::One(0),
            Exchange::Hash(columns) => Router::Hash(Box::new(HashRouter::new(columns, schema, targets)?)),
        })
    }

    /// Receivers that rows of one batch, or buffers of it, may go to: texts are not copied when rows are picked.
    pub(crate) fn receivers(&self) -> usize {
        match self {
            Router::All { targets } => *targets,
            Router::Hash(router) => router.targets,
            Router::One(_) | Router::RoundRobin { .. } => 1,
        }
    }

    /// Calls `send` with each target and its part of `batch`.
    pub(crate) fn route(&mut self, batch: RecordBatch, mut send: impl FnMut(usize, RecordBatch)) -> Result<()> {
        match self {
            Router::One(target) => send(*target, batch),
            Router::RoundRobin { next, targets } => {
                send(*next, batch);
                *next = (*next + 1) % *targets;
            }
            Router::All { targets } => (0..*targets).for_each(|target| send(target, batch.clone())),
            Router::Hash(router) => router.route(&batch, send)?,
        }
        Ok(())
    }
}

/// Spreads rows by the hash of some columns.
pub(crate) struct HashRouter {
    columns: Vec<usize>,
    targets: usize,
    hasher: RowHasher,
    hashes: Vec<u64>,
    rows: Vec<Vec<u32>>,
}

impl HashRouter {
    fn new(columns: &[String], schema: &SchemaRef, targets: usize) -> Result<Self> {
        let columns = columns.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<_> = columns.iter().map(|&c| schema.field(c).data_type().clone()).collect();
        Ok(Self {
            columns,
            targets,
            hasher: RowHasher::new(&types)?,
            hashes: Vec::new(),
            rows: vec![Vec::new(); targets],
        })
    }

    fn route(&mut self, batch: &RecordBatch, mut send: impl FnMut(usize, RecordBatch)) -> Result<()> {
        let columns: Vec<_> = self.columns.iter().map(|&c| ArrayRef::clone(batch.column(c))).collect();
        self.hasher.hash(&columns, batch.num_rows(), &mut self.hashes)?;
        self.rows.iter_mut().for_each(Vec::clear);
        for (row, hash) in self.hashes.iter().enumerate() {
            // The high bits of the product spread evenly over any number of targets.
            let target = ((u128::from(*hash) * self.targets as u128) >> 64) as usize;
            self.rows[target].push(row as u32);
        }
        for (target, rows) in self.rows.iter().enumerate() {
            if rows.len() == batch.num_rows() {
                send(target, batch.clone());
            } else if !rows.is_empty() {
                send(target, take_record_batch(batch, &UInt32Array::from(rows.clone()))?);
            }
        }
        Ok(())
    }
}

/// Hashes rows by value.
pub(crate) struct RowHasher {
    state: FixedState,
    /// For each column whose type has no path of its own.
    converters: Vec<Option<RowConverter>>,
}

impl RowHasher {
    pub(crate) fn new(types: &[DataType]) -> Result<Self> {
        let converter = |kind: &DataType| {
            let kind = unpacked(kind);
            let new = || RowConverter::new(vec![SortField::new(kind.clone())]);
            (!has_own_path(kind)).then(new).transpose()
        };
        let converters = types.iter().map(converter).collect::<Result<_, _>>()?;
        Ok(Self { state: FixedState::with_seed(0x5eed_a90e_d0c7), converters })
    }

    /// Leaves one hash per row in `hashes`.
    pub(crate) fn hash(&mut self, columns: &[ArrayRef], rows: usize, hashes: &mut Vec<u64>) -> Result<()> {
        hashes.clear();
        hashes.resize(rows, 0);
        for (column, converter) in columns.iter().zip(&self.converters) {
            let kind = unpacked(column.data_type());
            let column = if column.data_type() == kind { ArrayRef::clone(column) } else { cast(column, kind)? };
            match converter {
                None => hash_column(&self.state, &column, hashes),
                Some(converter) => {
                    let converted = converter.convert_columns(std::slice::from_ref(&column))?;
                    combine(&column, hashes, |row| self.state.hash_one(converted.row(row).as_ref()));
                }
            }
        }
        Ok(())
    }
}

/// The type of the values: one side of a join may have packed what is plain on the other.
fn unpacked(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => unpacked(values),
        DataType::RunEndEncoded(_, values) => unpacked(values.data_type()),
        plain => plain,
    }
}

fn has_own_path(data_type: &DataType) -> bool {
    use DataType::{Boolean, Float32, Float64, LargeUtf8, Utf8, Utf8View};
    data_type.is_integer()
        || data_type.is_temporal()
        || matches!(data_type, Boolean | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View)
}

fn hash_column(state: &FixedState, column: &ArrayRef, hashes: &mut [u64]) {
    macro_rules! integers {
        ($type:ty) => {{
            let array = column.as_primitive::<$type>();
            combine(array, hashes, |row| state.hash_one(i128::from(array.value(row))));
        }};
    }
    match column.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Utf8 => {
            let array = column.as_string::<i32>();
            combine(array, hashes, |row| state.hash_one(array.value(row)));
        }
        DataType::LargeUtf8 => {
            let array = column.as_string::<i64>();
            combine(array, hashes, |row| state.hash_one(array.value(row)));
        }
        DataType::Utf8View => {
            let array = column.as_string_view();
            combine(array, hashes, |row| state.hash_one(array.value(row)));
        }
        DataType::Float32 => {
            let array = column.as_primitive::<Float32Type>();
            combine(array, hashes, |row| state.hash_one(float_bits(array.value(row).into())));
        }
        DataType::Float64 => {
            let array = column.as_primitive::<Float64Type>();
            combine(array, hashes, |row| state.hash_one(float_bits(array.value(row))));
        }
        DataType::Boolean => {
            let array = column.as_boolean();
            combine(array, hashes, |row| state.hash_one(array.value(row)));
        }
        _ => hash_temporal(state, column, hashes),
    }
}

/// The same bits for all NaNs, and for both zeros.
fn float_bits(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits()
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

fn hash_temporal(state: &FixedState, column: &dyn Array, hashes: &mut [u64]) {
    let data = column.to_data();
    let width = column.data_type().primitive_width().unwrap_or(8);
    let bytes = &data.buffers()[0].as_slice()[data.offset() * width..];
    combine(column, hashes, |row| state.hash_one(&bytes[row * width..(row + 1) * width]));
}

fn combine(array: &dyn Array, hashes: &mut [u64], hash: impl Fn(usize) -> u64) {
    for (row, combined) in hashes.iter_mut().enumerate() {
        let value = if array.is_null(row) { 0x9e37_79b9_7f4a_7c15 } else { hash(row) };
        *combined = (combined.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95) ^ (value >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{
        DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray,
    };

    use super::*;

    fn targets_of(batch: &RecordBatch, column: &str, targets: usize) -> BTreeMap<String, Vec<usize>> {
        let exchange = Exchange::Hash(vec![column.into()]);
        let mut router = Router::new(&exchange, &batch.schema(), 0, targets).expect("a router");
        let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut rows = 0;
        router
            .route(batch.clone(), |target, part| {
                rows += part.num_rows();
                let column = part.column_by_name(column).expect("the column");
                for row in 0..part.num_rows() {
                    let value = arrow::util::display::array_value_to_string(column, row).expect("a value");
                    let entry = found.entry(value).or_default();
                    if !entry.contains(&target) {
                        entry.push(target);
                    }
                }
            })
            .expect("routed");
        assert_eq!(rows, batch.num_rows());
        found
    }

    #[test]
    fn packed_values_go_where_plain_ones_go_and_zeros_meet_beside_a_list() {
        let texts: Vec<String> = (0..200).map(|i| format!("text {i}")).collect();
        let plain: ArrayRef = Arc::new(StringArray::from_iter_values(&texts));
        let packed: DictionaryArray<Int32Type> = texts.iter().map(|text| Some(text.as_str())).collect();
        let targets =
            |column: ArrayRef| targets_of(&RecordBatch::try_from_iter([("t", column)]).expect("a column"), "t", 16);
        assert_eq!(targets(plain), targets(Arc::new(packed)));

        let zeros: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)]); 4]);
        let (columns, mut hashes) = ([zeros, Arc::new(lists) as ArrayRef], Vec::new());
        let types = columns.each_ref().map(|column| column.data_type().clone());
        RowHasher::new(&types).expect("a hasher").hash(&columns, 4, &mut hashes).expect("hashed");
        assert_eq!((hashes[0], hashes[2]), (hashes[1], hashes[3]));
    }

    #[test]
    fn equal_values_meet_in_one_partition_whatever_their_layout() {
        let values = (0..1000).map(|i| format!("value {}", i % 97)).collect::<Vec<_>>();
        let plain: ArrayRef = Arc::new(StringArray::from(values.clone()));
        let view: ArrayRef = Arc::new(StringViewArray::from_iter_values(&values));
        let a = targets_of(&RecordBatch::try_from_iter([("k", plain)]).expect("batch"), "k", 7);
        let b = targets_of(&RecordBatch::try_from_iter([("k", view)]).expect("batch"), "k", 7);
        assert_eq!(a, b);
        assert!(a.values().all(|targets| targets.len() == 1));
        assert_eq!(a.values().flatten().collect::<std::collections::BTreeSet<_>>().len(), 7);
    }

    #[test]
    fn integers_of_all_widths_nulls_and_floats_meet() {
        let narrow: ArrayRef = Arc::new(Int32Array::from_iter((0..100).map(|i| (i % 10 != 0).then_some(i % 7))));
        let wide: ArrayRef = Arc::new(Int64Array::from_iter((0..100).map(|i| (i % 10 != 0).then_some(i % 7))));
        let a = targets_of(&RecordBatch::try_from_iter([("k", narrow)]).expect("batch"), "k", 5);
        let b = targets_of(&RecordBatch::try_from_iter([("k", wide)]).expect("batch"), "k", 5);
        assert_eq!(a, b);
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 1.0, -f64::NAN, 2.5, 1.0]));
        let c = targets_of(&RecordBatch::try_from_iter([("k", floats)]).expect("batch"), "k", 5);
        assert!(c.values().all(|targets| targets.len() == 1));
    }

    #[test]
    fn batches_go_in_turn_and_to_each() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("batch");
        let mut seen = Vec::new();
        let mut router = Router::new(&Exchange::RoundRobin, &batch.schema(), 1, 3).expect("a router");
        for _ in 0..4 {
            router.route(batch.clone(), |target, _| seen.push(target)).expect("routed");
        }
        assert_eq!(seen, [1, 2, 0, 1]);
        seen.clear();
        let mut router = Router::new(&Exchange::Broadcast, &batch.schema(), 1, 3).expect("a router");
        router.route(batch, |target, _| seen.push(target)).expect("routed");
        assert_eq!(seen, [0, 1, 2]);
    }
}
