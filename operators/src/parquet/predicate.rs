//! A predicate over a run of rows, part by part, each asked in the cheapest way.
//!
//! What looks at one column of texts alone is asked of the chunk's dictionary, once for each text and not for each row.
//! Comparisons of numbers are made for all rows: that is quicker than to pick some of them first. What is left is asked
//! of the rows that have passed so far, where those are few.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, new_null_array};
use arrow::buffer::{BooleanBuffer, MutableBuffer};
use arrow::compute::{cast, concat, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::bit_util::set_bit;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion_physical_expr::utils::collect_columns;
use datafusion_physical_expr::{PhysicalExpr, conjunction_opt, split_conjunction};
use parquet::basic::Encoding;
use parquet::file::metadata::ColumnChunkMetaData;

use super::scan::Filter;
use crate::expression::{Expression, evaluate_mask, failed};

/// Bytes of a dictionary in its file, at the most, for its texts to be asked first: there should be few.
const DICTIONARY_BYTES: i64 = 64 << 10;

/// Where no more than one row of so many has passed, the others are left out of what is asked next.
const FEW: usize = 2;

/// How the columns come whose dictionary is kept.
pub(crate) fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The predicate of a row group, of whose chunks some have dictionaries.
pub(crate) struct Predicate {
    /// The table's columns that it looks at, in order.
    pub(crate) columns: Vec<usize>,
    of_dictionaries: Vec<OfDictionary>,
    comparisons: Vec<Expression>,
    /// What is left, over those of the columns below that it looks at, by their index there.
    rest: Option<(Expression, Vec<usize>)>,
    /// The places, among all columns, of those without a dictionary.
    places: Vec<usize>,
    /// The schema of these.
    schema: SchemaRef,
}

/// What is asked of one column whose dictionary is kept.
struct OfDictionary {
    /// Of the column, among all of the predicate.
    place: usize,
    /// Over that column alone.
    part: Expression,
    schema: SchemaRef,
    /// A dictionary, and which of its texts pass; last, whether a null does.
    asked: Option<(StringArray, Vec<bool>)>,
}

/// The table's columns whose dictionaries, if they are kept, are all that `filter` has to ask of them.
pub(crate) fn asked_alone(filter: &Filter) -> Vec<usize> {
    let parts = split_conjunction(&filter.over_columns);
    let is_alone = |place: usize| {
        parts.iter().all(|part| {
            let columns = collect_columns(part);
            columns.iter().all(|column| column.index() != place) || (columns.len() == 1 && is_stable(part))
        })
    };
    let texts =
        (0..filter.columns.len()).filter(|place| *filter.schema.field(*place).data_type() == DataType::Utf8View);
    texts.filter(|place| is_alone(*place)).map(|place| filter.columns[place]).collect()
}

/// Whether the texts of a chunk are all in its dictionary, and that is small.
pub(crate) fn has_small_dictionary(chunk: &ColumnChunkMetaData) -> bool {
    let is_dictionary = |encoding| matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
    let only = chunk.page_encoding_stats_mask().is_some_and(|mask| mask.encodings().all(is_dictionary));
    let bytes = chunk.dictionary_page_offset().map(|offset| chunk.data_page_offset() - offset);
    only && bytes.is_some_and(|bytes| bytes <= DICTIONARY_BYTES)
}

/// It says the same of a value whenever it is asked.
fn is_stable(part: &Expression) -> bool {
    let changes = part.exists(|node| Ok(node.is_volatile_node() || node.snapshot()?.is_some()));
    changes.is_ok_and(|changes| !changes)
}

/// A comparison of numbers, dates or times that are there: it cannot fail.
fn is_plain_comparison(part: &Expression, schema: &Schema) -> bool {
    let is_plain = |side: &Expression| {
        let is_leaf = side.downcast_ref::<Column>().is_some() || side.downcast_ref::<Literal>().is_some();
        is_leaf && side.data_type(schema).is_ok_and(|kind| kind.is_primitive())
    };
    let compares = |op: &Operator| {
        matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
    };
    part.downcast_ref::<BinaryExpr>()
        .is_some_and(|binary| compares(binary.op()) && is_plain(binary.left()) && is_plain(binary.right()))
}

/// `expression` over some of its `columns`, counted anew.
pub(crate) fn over(expression: &Expression, columns: &[usize]) -> Result<Expression> {
    let moved = Arc::clone(expression).transform(|part| {
        let column = part.downcast_ref::<Column>();
        let moved = column.and_then(|column| {
            let index = columns.iter().position(|at| *at == column.index())?;
            Some(Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>)
        });
        Ok(moved.map_or_else(|| Transformed::no(Arc::clone(&part)), Transformed::yes))
    });
    moved.map(|moved| moved.data).map_err(failed)
}

impl Predicate {
    /// What `filter` asks where the table's columns `kept` come as dictionaries, all of them [`asked_alone`].
    pub(crate) fn new(filter: &Filter, kept: &[usize]) -> Result<Self> {
        let places = (0..filter.columns.len()).filter(|place| !kept.contains(&filter.columns[*place]));
        let places: Vec<usize> = places.collect();
        let (mut of_dictionaries, mut comparisons, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for part in split_conjunction(&filter.over_columns) {
            let place = collect_columns(part).iter().map(Column::index).find(|place| !places.contains(place));
            if let Some(place) = place {
                let field = Field::clone(filter.schema.field(place)).with_nullable(true);
                let schema = Arc::new(Schema::new(vec![field]));
                of_dictionaries.push(OfDictionary { place, part: over(part, &[place])?, schema, asked: None });
            } else if is_plain_comparison(part, &filter.schema) {
                comparisons.push(over(part, &places)?);
            } else {
                rest.push(over(part, &places)?);
            }
        }
        let schema = Arc::new(filter.schema.project(&places)?);
        let rest = conjunction_opt(rest).map(|rest| {
            let mut looked_at: Vec<usize> = collect_columns(&rest).iter().map(Column::index).collect();
            looked_at.sort_unstable();
            looked_at.dedup();
            Ok::<_, OperatorError>((over(&rest, &looked_at)?, looked_at))
        });
        let (columns, rest) = (filter.columns.clone(), rest.transpose()?);
        Ok(Self { columns, of_dictionaries, comparisons, rest, places, schema })
    }

    /// Which of some rows pass, of which `columns` has the [`columns`](Self::columns).
    pub(crate) fn mask(&mut self, columns: &[ArrayRef], rows: usize) -> Result<BooleanArray> {
        let mut passed = BooleanBuffer::new_set(rows);
        for part in &mut self.of_dictionaries {
            passed = &passed & &part.mask(&columns[part.place])?;
            if passed.count_set_bits() == 0 {
                return Ok(passed.into());
            }
        }
        let columns = self.places.iter().map(|place| Arc::clone(&columns[*place])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        for comparison in &self.comparisons {
            passed = &passed & &truths(&evaluate_mask(comparison.as_ref(), &batch)?);
        }
        let Some((rest, looked_at)) = &self.rest else { return Ok(passed.into()) };
        let batch = batch.project(looked_at)?;
        let left = passed.count_set_bits();
        if left > rows / FEW {
            return Ok((&passed & &truths(&evaluate_mask(rest.as_ref(), &batch)?)).into());
        }
        if left == 0 {
            return Ok(passed.into());
        }
        let few = filter_record_batch(&batch, &passed.clone().into())?;
        let few = truths(&evaluate_mask(rest.as_ref(), &few)?);
        let mut bits = MutableBuffer::from_len_zeroed(rows.div_ceil(8));
        for (row, _) in passed.set_indices().zip(&few).filter(|(_, passes)| *passes) {
            set_bit(&mut bits, row);
        }
        Ok(BooleanBuffer::new(bits.into(), 0, rows).into())
    }

    /// Lets go of the dictionaries.
    pub(crate) fn forget(&mut self) {
        self.of_dictionaries.iter_mut().for_each(|part| part.asked = None);
    }
}

impl OfDictionary {
    fn mask(&mut self, column: &ArrayRef) -> Result<BooleanBuffer> {
        let column = column.as_dictionary::<Int32Type>();
        let texts = column.values().as_string::<i32>();
        // While it is kept here, there is no other at its place.
        let is_same = |(known, _): &&(StringArray, Vec<bool>)| {
            known.len() == texts.len() && known.value_offsets().as_ptr() == texts.value_offsets().as_ptr()
        };
        let passes = match self.asked.as_ref().filter(is_same) {
            Some((_, passes)) => passes,
            None => {
                let views = cast(texts, &DataType::Utf8View)?;
                let with_null = concat(&[&views, &new_null_array(&DataType::Utf8View, 1)])?;
                let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![with_null])?;
                // Texts that are in no row that is wanted, and fail, must not fail here.
                let Ok(passes) = evaluate_mask(self.part.as_ref(), &batch) else { return self.by_rows(column) };
                &self.asked.insert((texts.clone(), truths(&passes).iter().collect())).1
            }
        };
        let keys = column.keys();
        let of_null = passes[texts.len()];
        let of = |row: usize| passes.get(keys.value(row) as usize).copied().unwrap_or(of_null);
        Ok(match keys.nulls() {
            Some(nulls) => {
                BooleanBuffer::collect_bool(keys.len(), |row| if nulls.is_valid(row) { of(row) } else { of_null })
            }
            None => BooleanBuffer::collect_bool(keys.len(), of),
        })
    }

    fn by_rows(&self, column: &dyn Array) -> Result<BooleanBuffer> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![cast(column, &DataType::Utf8View)?])?;
        Ok(truths(&evaluate_mask(self.part.as_ref(), &batch)?))
    }
}

/// The rows for which it is true: neither false nor null.
fn truths(mask: &BooleanArray) -> BooleanBuffer {
    match mask.nulls() {
        Some(nulls) => mask.values() & nulls.inner(),
        None => mask.values().clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringViewArray};
    use datafusion_common::ScalarValue;
    use datafusion_physical_expr::expressions::{CastExpr, IsNullExpr, col, lit};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn schema() -> SchemaRef {
        let texts = |name| Field::new(name, DataType::Utf8View, true);
        Arc::new(Schema::new(vec![texts("a"), texts("b"), Field::new("n", DataType::Int64, true)]))
    }

    fn binary(left: Expression, op: Operator, right: Expression) -> Expression {
        Arc::new(BinaryExpr::new(left, op, right))
    }

    fn is(name: &str, text: &str) -> Expression {
        let text = lit(ScalarValue::Utf8View(Some(text.into())));
        binary(col(name, &schema()).expect("a column"), Operator::Eq, text)
    }

    fn filter(predicate: Expression) -> Filter {
        let (over_columns, columns) = (Arc::clone(&predicate), vec![0, 1, 2]);
        Filter { predicate, over_columns, columns, schema: schema() }
    }

    /// Rows with nulls, in which `a` has one of three texts and `b` is `a` in another order.
    fn rows(count: usize) -> (StringViewArray, StringViewArray, Int64Array) {
        let text = |row: usize| (row % 5 != 4).then(|| ["12", "x", "a text that is too long for a view"][row % 3]);
        let numbers = (0..count).map(|row| (row % 7 != 3).then_some(row as i64 % 100));
        ((0..count).map(text).collect(), (0..count).map(|row| text(row / 2)).collect(), numbers.collect())
    }

    fn packed(texts: &StringViewArray) -> ArrayRef {
        Arc::new(texts.iter().collect::<DictionaryArray<Int32Type>>())
    }

    #[test]
    fn every_part_says_what_the_whole_says() {
        let column = |name| col(name, &schema()).expect("a column");
        let less = |most: i64| binary(column("n"), Operator::Lt, lit(most));
        let null = |name| -> Expression { Arc::new(IsNullExpr::new(column(name))) };
        let and = |one, other| binary(one, Operator::And, other);
        let or = |one, other| binary(one, Operator::Or, other);
        let sum = |most: i64| binary(binary(column("n"), Operator::Plus, lit(1_i64)), Operator::Lt, lit(most));
        let predicates = [
            (is("a", "x"), vec![0, 1]),
            (and(is("a", "x"), less(50)), vec![0, 1]),
            (and(and(less(3), or(null("a"), is("a", "12"))), is("b", "x")), vec![0, 1]),
            (and(and(is("a", "x"), or(is("b", "x"), less(40))), sum(60)), vec![0]),
            (and(sum(4), is("a", "absent")), vec![0, 1]),
            (and(sum(4), is("a", "x")), vec![0, 1]),
            (and(lit(true), null("b")), vec![0, 1]),
        ];
        for count in [0, 1, 63, 1000] {
            let (a, b, n) = rows(count);
            let plain: Vec<ArrayRef> = vec![Arc::new(a.clone()), Arc::new(b.clone()), Arc::new(n)];
            let batch = RecordBatch::try_new(schema(), plain.clone()).expect("columns");
            for (predicate, alone) in &predicates {
                let filter = filter(Arc::clone(predicate));
                assert_eq!(asked_alone(&filter), *alone, "{predicate}");
                let expected = truths(&evaluate_mask(predicate.as_ref(), &batch).expect("evaluates"));
                let mut columns = plain.clone();
                let mut kept = Vec::new();
                for column in std::iter::once(None).chain(alone.iter().map(Some)) {
                    if let Some(column) = column {
                        columns[*column] = packed([&a, &b][*column]);
                        kept.push(*column);
                    }
                    let mut predicate = Predicate::new(&filter, &kept).expect("a predicate");
                    let found = predicate.mask(&columns, count).expect("evaluates");
                    assert_eq!(truths(&found), expected, "{} over {kept:?}", filter.predicate);
                }
            }
        }
    }

    #[test]
    fn a_text_of_no_row_does_not_fail_and_one_of_a_row_does() {
        let number = CastExpr::new(col("a", &schema()).expect("a column"), DataType::Int64, None);
        let filter = filter(binary(Arc::new(number), Operator::Eq, lit(12_i64)));
        let mut predicate = Predicate::new(&filter, &[0]).expect("a predicate");
        let (a, b, n) = rows(15);
        let columns = |rows: std::ops::Range<usize>| -> Vec<ArrayRef> {
            let part = |column: ArrayRef| column.slice(rows.start, rows.len());
            vec![part(packed(&a)), part(Arc::new(b.clone())), part(Arc::new(n.clone()))]
        };
        assert_eq!(predicate.mask(&columns(0..1), 1).expect("a number").true_count(), 1);
        assert!(predicate.mask(&columns(0..2), 2).is_err());
    }

    #[test]
    fn another_dictionary_is_asked_anew() {
        let mut predicate = Predicate::new(&filter(is("a", "x")), &[0]).expect("a predicate");
        let mut passed = |texts: &[Option<&str>]| {
            let texts: StringViewArray = texts.iter().copied().collect();
            let other: ArrayRef = Arc::new(StringViewArray::new_null(texts.len()));
            let columns = [packed(&texts), other, Arc::new(Int64Array::new_null(texts.len()))];
            let mask = predicate.mask(&columns, texts.len()).expect("evaluates");
            mask.iter().map(|passes| passes == Some(true)).collect::<Vec<_>>()
        };
        assert_eq!(passed(&[Some("x"), Some("y"), None, Some("x")]), [true, false, false, true]);
        assert_eq!(passed(&[Some("y"), Some("x"), None]), [false, true, false]);
        assert_eq!(passed(&[None, None]), [false, false]);
    }

    #[test]
    fn dictionaries_are_kept_where_they_hold_all_texts_and_are_small() {
        let (texts, _, _) = rows(3000);
        let long: StringViewArray = (0..3000).map(|row| Some(format!("{row:040}"))).collect();
        let is_kept = |texts: &StringViewArray, properties: WriterPropertiesBuilder| {
            let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8View, true)]));
            let mut file = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut file, Arc::clone(&schema), Some(properties.build())).expect("a file");
            writer
                .write(&RecordBatch::try_new(schema, vec![Arc::new(texts.clone())]).expect("a column"))
                .expect("written");
            writer.close().expect("written");
            let file = SerializedFileReader::new(bytes::Bytes::from(file)).expect("a file");
            has_small_dictionary(file.metadata().row_group(0).column(0))
        };
        let properties = WriterProperties::builder;
        assert!(is_kept(&texts, properties()));
        assert!(!is_kept(&texts, properties().set_dictionary_enabled(false)));
        assert!(!is_kept(&long, properties()), "it is large");
        let small_pages = properties().set_data_page_row_count_limit(100).set_write_batch_size(100);
        assert!(!is_kept(&long, small_pages.set_dictionary_page_size_limit(1000)), "some are not in it");
    }
}
