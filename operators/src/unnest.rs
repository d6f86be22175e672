//! The unnest: a row for each element of a list, a column for each field of a struct.
//!
//! ```text
//! [1, 2]  A          1     A
//! [3]     B    ─▶    2     A
//!                    3     B
//! ```
//!
//! Several lists of a row are read side by side; those that are shorter are filled with nulls. An output batch
//! never has more rows than the plan wants, however long a list is.

use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, UInt64Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_common::NullHandling;

use crate::expression::same_types;

/// Makes rows of list elements and columns of struct fields.
#[derive(Debug, Clone)]
pub struct Unnest {
    input: SchemaRef,
    lists: Vec<usize>,
    structs: Vec<usize>,
    nulls: NullHandling,
    output: SchemaRef,
}

impl Unnest {
    /// Unnests the columns `lists`, one level of them, and then the columns `structs`, which may be elements of
    /// those lists. Lists within lists take one such node for each level. `nulls` says what becomes of a row whose lists are null or
    /// empty. Elements keep the name of their list; fields are named `column.field`.
    ///
    /// # Errors
    ///
    /// If a column is not there or is no list or struct.
    pub fn try_new(input: SchemaRef, lists: Vec<usize>, structs: Vec<usize>, nulls: NullHandling) -> Result<Self> {
        if let Some(column) = lists.iter().chain(&structs).find(|column| **column >= input.fields().len()) {
            return Err(OperatorError::new(format!("it unnests column {column}, of {}", input.fields().len())));
        }
        let mut fields: Vec<FieldRef> = Vec::new();
        for (index, field) in input.fields().iter().enumerate() {
            let mut field = FieldRef::clone(field);
            if lists.contains(&index) {
                let Some(element) = element(field.data_type()) else {
                    return Err(OperatorError::new(format!("`{}` is no list: {}", field.name(), field.data_type())));
                };
                field = Arc::new(Field::new(field.name(), element.data_type().clone(), true));
            }
            if !structs.contains(&index) {
                fields.push(field);
                continue;
            }
            let DataType::Struct(parts) = field.data_type() else {
                return Err(OperatorError::new(format!("`{}` is no struct: {}", field.name(), field.data_type())));
            };
            fields.extend(parts.iter().map(|part| {
                Arc::new(Field::new(format!("{}.{}", field.name(), part.name()), part.data_type().clone(), true))
            }));
        }
        Ok(Self { input, lists, structs, nulls, output: Arc::new(Schema::new(fields)) })
    }

    /// Names the output as `schema` does.
    ///
    /// # Errors
    ///
    /// If its types are others.
    pub fn with_schema(self, schema: SchemaRef) -> Result<Self> {
        if same_types(&self.output, &schema) {
            return Ok(Self { output: schema, ..self });
        }
        Err(OperatorError::new(format!("unnesting yields {:?} and not {:?}", self.output.fields(), schema.fields())))
    }

    /// The schema of its output.
    pub fn schema(&self) -> &SchemaRef {
        &self.output
    }
}

fn element(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

impl OperatorSpec for Unnest {
    fn name(&self) -> &str {
        "unnest"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        if !same_types(&self.input, &inputs[0]) {
            return Err(OperatorError::new(format!("it was made for {:?} and gets {:?}", self.input, inputs[0])));
        }
        Ok(SchemaRef::clone(&self.output))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(UnnestInstance { spec: self.clone(), context, current: None }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        // The batch that is being unnested, which may pin twice its bytes, and its lists once more.
        4 * batch_bytes + (16 << 10)
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        let columns = self.lists.iter().chain(&self.structs);
        columns.map(|column| self.input.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
    }
}

struct UnnestInstance {
    spec: Unnest,
    context: OperatorContext,
    current: Option<Unnesting>,
}

/// A batch, and how far it is unnested.
struct Unnesting {
    batch: RecordBatch,
    lists: Vec<List>,
    row: usize,
    /// Elements of `row` that were emitted.
    element: usize,
    /// Most rows of an output batch.
    most_rows: usize,
}

/// A column of lists: elements, and where in them each row's list begins.
struct List {
    column: usize,
    elements: ArrayRef,
    starts: Vec<u64>,
    lengths: Vec<u64>,
}

impl List {
    fn new(column: usize, array: &ArrayRef, nulls: &NullHandling) -> Result<Self> {
        let array = match array.data_type() {
            DataType::ListView(element) => cast(array, &DataType::List(FieldRef::clone(element)))?,
            DataType::LargeListView(element) => cast(array, &DataType::LargeList(FieldRef::clone(element)))?,
            _ => ArrayRef::clone(array),
        };
        let (elements, offsets): (ArrayRef, Vec<u64>) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (ArrayRef::clone(list.values()), list.value_offsets().iter().map(|offset| *offset as u64).collect())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                (ArrayRef::clone(list.values()), list.value_offsets().iter().map(|offset| *offset as u64).collect())
            }
            DataType::FixedSizeList(_, size) => {
                let list = array.as_fixed_size_list();
                let offsets = (0..=list.len()).map(|row| row as u64 * *size as u64);
                (ArrayRef::clone(list.values()), offsets.collect())
            }
            other => return Err(OperatorError::new(format!("{other} is no list"))),
        };
        let length = |row: usize| match (array.is_null(row), offsets[row + 1] - offsets[row]) {
            // As long as one null, which it becomes.
            (true, _) => u64::from(!matches!(nulls, NullHandling::Drop)),
            (false, 0) => u64::from(matches!(nulls, NullHandling::PreserveAndExpandEmpty)),
            (false, length) => length,
        };
        let lengths = (0..array.len()).map(length).collect();
        // Beyond the end, so that no element is found there.
        let starts = (0..array.len()).map(|row| match array.is_null(row) || offsets[row] == offsets[row + 1] {
            true => u64::MAX,
            false => offsets[row],
        });
        Ok(Self { column, elements, starts: starts.collect(), lengths })
    }

    fn element(&self, row: usize, index: u64) -> Option<u64> {
        (index < self.lengths[row] && self.starts[row] != u64::MAX).then(|| self.starts[row] + index)
    }
}

impl UnnestInstance {
    /// Emits the next rows of the current batch.
    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        let Some(current) = &mut self.current else { return Ok(Step::NeedInput) };
        let (mut rows, mut indices) = (Vec::new(), Vec::new());
        while rows.len() < current.most_rows && current.row < current.batch.num_rows() {
            let length = current.lists.iter().map(|list| list.lengths[current.row]).max().unwrap_or(1);
            let from = current.element as u64;
            let count = (length - from).min((current.most_rows - rows.len()) as u64);
            rows.extend(std::iter::repeat_n(current.row as u32, count as usize));
            indices.extend(from..from + count);
            current.element += count as usize;
            if from + count == length {
                (current.row, current.element) = (current.row + 1, 0);
            }
        }
        let batch = current.rows(&self.spec, rows, &indices)?;
        out.push(batch);
        if current.row < current.batch.num_rows() {
            return Ok(Step::MoreOutput);
        }
        self.current = None;
        Ok(Step::NeedInput)
    }
}

impl Unnesting {
    /// The given elements of the given rows.
    fn rows(&self, spec: &Unnest, rows: Vec<u32>, indices: &[u64]) -> Result<RecordBatch> {
        let count = rows.len();
        let rows = UInt32Array::from(rows);
        let mut columns = Vec::with_capacity(spec.output.fields().len());
        for (index, column) in self.batch.columns().iter().enumerate() {
            let unnested = match self.lists.iter().find(|list| list.column == index) {
                Some(list) => {
                    let places = rows.values().iter().zip(indices).map(|(row, at)| list.element(*row as usize, *at));
                    take(&list.elements, &UInt64Array::from_iter(places), None)?
                }
                None => take(column, &rows, None)?,
            };
            if !spec.structs.contains(&index) {
                columns.push(unnested);
                continue;
            }
            // A null struct is one of nulls.
            let parts = unnested.as_struct();
            for part in parts.columns() {
                columns.push(match parts.nulls() {
                    Some(nulls) => {
                        arrow::compute::nullif(part, &arrow::array::BooleanArray::new(!nulls.inner(), None))?
                    }
                    None => ArrayRef::clone(part),
                });
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(SchemaRef::clone(&spec.output), columns, &options)?)
    }
}

impl Operator for UnnestInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.context.memory.claim(&batch);
        let lists = self.spec.lists.iter().map(|&column| List::new(column, batch.column(column), &self.spec.nulls));
        let lists = lists.collect::<Result<Vec<_>>>()?;
        // What is beside the lists is there once for each of their elements.
        let row_bytes = batch_bytes(&batch) / batch.num_rows().max(1);
        let most_rows = (self.context.batch_bytes / row_bytes.max(1)).clamp(1, self.context.batch_rows.max(1));
        self.current = Some(Unnesting { batch, lists, row: 0, element: 0, most_rows });
        self.advance(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Starts and lengths of its lists, and the output with what it is taken by.
        2 * batch_bytes(batch).max(self.context.batch_bytes) + 32 * batch.num_rows()
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::{context, drive};
    use arrow::array::{FixedSizeListArray, Int32Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn input() -> RecordBatch {
        let a = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), Some(2), None]),
            None,
            Some(vec![]),
            Some(vec![Some(3)]),
        ]);
        let b = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            [Some(vec![Some(10), Some(11)]), Some(vec![Some(12), Some(13)]), None, Some(vec![None, Some(14)])],
            2,
        );
        let name = StringArray::from(vec!["A", "B", "C", "D"]);
        RecordBatch::try_from_iter_with_nullable([
            ("a", Arc::new(a) as ArrayRef, true),
            ("name", Arc::new(name), true),
            ("b", Arc::new(b), true),
        ])
        .expect("columns of one length")
    }

    fn run(spec: &Unnest, batch: RecordBatch, batch_rows: usize) -> Vec<String> {
        let context = context().batch_rows(batch_rows);
        let mut unnest = spec.instantiate(context.operator(&[batch.schema()])).expect("starts");
        let output = drive(unnest.as_mut(), [vec![batch]]).expect("runs");
        assert!(output.iter().all(|batch| batch.num_rows() <= batch_rows));
        let whole = concat_batches(spec.schema(), &output).expect("one schema");
        let text = pretty_format_batches(&[whole]).expect("printable").to_string();
        text.lines().skip(3).filter(|line| line.starts_with('|')).map(|line| line.replace([' ', '|'], ".")).collect()
    }

    fn cells(rows: &[String]) -> Vec<Vec<&str>> {
        rows.iter().map(|row| row.split('.').filter(|cell| !cell.is_empty()).collect()).collect()
    }

    /// As DataFusion's docs of `NullHandling` show it; nulls print as nothing.
    #[test]
    fn lists_become_rows_and_nulls_and_empty_lists_do_as_they_are_told() {
        for (nulls, expected) in [
            (NullHandling::Drop, vec![vec!["1", "A"], vec!["2", "A"], vec!["A"], vec!["3", "D"]]),
            (NullHandling::Preserve, vec![vec!["1", "A"], vec!["2", "A"], vec!["A"], vec!["B"], vec!["3", "D"]]),
            (
                NullHandling::PreserveAndExpandEmpty,
                vec![vec!["1", "A"], vec!["2", "A"], vec!["A"], vec!["B"], vec!["C"], vec!["3", "D"]],
            ),
        ] {
            let batch = input().project(&[0, 1]).expect("two columns");
            let spec = Unnest::try_new(batch.schema(), vec![0], vec![], nulls).expect("a list");
            for rows in [1, 2, 100] {
                assert_eq!(cells(&run(&spec, batch.clone(), rows)), expected, "{nulls:?} {rows}");
            }
        }
    }

    #[test]
    fn lists_of_one_row_are_read_side_by_side() {
        let spec = Unnest::try_new(input().schema(), vec![0, 2], vec![], NullHandling::Preserve).expect("lists");
        let expected = [
            vec!["1", "A", "10"],
            vec!["2", "A", "11"],
            vec!["A"],
            vec!["B", "12"],
            vec!["B", "13"],
            vec!["C"],
            vec!["3", "D"],
            vec!["D", "14"],
        ];
        assert_eq!(cells(&run(&spec, input(), 3)), expected);
        assert_eq!(cells(&run(&spec, input().slice(1, 2), 3)), expected[3..6]);
    }

    #[test]
    fn structs_become_columns_and_null_structs_nulls() {
        let fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
        let parts: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["p", "q", "r"]))];
        let array = StructArray::new(fields.into(), parts, Some(vec![true, false, true].into()));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("s", Arc::new(array) as ArrayRef, true),
            ("n", Arc::new(Int32Array::from(vec![7, 8, 9])), true),
        ])
        .expect("two columns");
        let spec = Unnest::try_new(batch.schema(), vec![], vec![0], NullHandling::Preserve).expect("a struct");
        let names: Vec<_> = spec.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["s.x", "s.y", "n"]);
        let rows = run(&spec, batch, 2);
        assert_eq!(cells(&rows), [vec!["1", "p", "7"], vec!["8"], vec!["3", "r", "9"]]);
    }

    #[test]
    fn a_list_of_many_elements_comes_in_bounded_batches() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some((0..100_000).map(Some)),
            None,
            Some((0..5).map(Some)),
        ]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).expect("one column");
        let spec = Unnest::try_new(batch.schema(), vec![0], vec![], NullHandling::Drop).expect("a list");
        let mut unnest = spec.instantiate(context().batch_rows(1000).operator(&[batch.schema()])).expect("starts");
        let output = drive(unnest.as_mut(), [vec![batch]]).expect("runs");
        assert!(output.iter().all(|batch| batch.num_rows() <= 1000));
        let whole = concat_batches(spec.schema(), &output).expect("one schema");
        let expected = Int32Array::from_iter_values((0..100_000).chain(0..5));
        assert_eq!(whole.column(0).as_primitive::<Int32Type>(), &expected);
    }

    #[test]
    fn what_is_no_list_or_struct_is_refused_by_name() {
        let refused = |lists, structs| {
            Unnest::try_new(input().schema(), lists, structs, NullHandling::Drop).expect_err("refused").to_string()
        };
        assert!(refused(vec![1], vec![]).contains("`name` is no list"));
        assert!(refused(vec![], vec![1]).contains("`name` is no struct"));
        assert!(refused(vec![9], vec![]).contains("column 9"));
    }
}
