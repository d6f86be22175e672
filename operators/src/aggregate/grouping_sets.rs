//! Grouping sets: each row once for every set of keys to group by, before an aggregation by all keys and the id of
//! the set.
//!
//! ```text
//! rows ─▶ GroupingSets ─▶ rows, keys (null where the set leaves them out), id ─▶ aggregation by keys and id
//! ```
//!
//! One batch is held at a time, and its columns are shared by what is emitted of it. A set without keys has a
//! group even where there are no rows: an instance that saw none emits a row for it that no aggregate counts.

use std::collections::HashMap;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::{ArrayRef, BooleanArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_expr::logical_plan::Aggregate as AggregatePlan;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};

use super::describe::unpacked;
use super::keys::GroupKeys;
use crate::expression::{Expression, evaluate, failed, field, named_text, same_types};

/// The column that tells rows from those that stand for no row.
const COUNTS: &str = "__counts";

/// Multiplies rows by the sets of keys that they are grouped by.
#[derive(Debug, Clone)]
pub struct GroupingSets {
    input: SchemaRef,
    keys: Arc<[(Expression, String)]>,
    sets: Arc<[Set]>,
    schema: SchemaRef,
}

/// One set of keys.
#[derive(Debug)]
struct Set {
    /// Whether it has each key.
    has: Vec<bool>,
    id: ScalarValue,
}

impl GroupingSets {
    /// The rows of `input` once for each of `sets`, which say of each key whether it is grouped by.
    ///
    /// Sets are told apart by the id that DataFusion's [`AggregatePlan::INTERNAL_GROUPING_ID`] describes: a bit for
    /// each key that is left out, the last key's the lowest, and above them how often the same set came before.
    /// It is of `id_type`, an unsigned integer.
    ///
    /// # Errors
    ///
    /// If there is no set, a set is not of these keys, or an id does not fit its type.
    pub fn try_new(
        input: SchemaRef,
        keys: Vec<(Expression, String)>,
        sets: Vec<Vec<bool>>,
        id_type: DataType,
    ) -> Result<Self> {
        if sets.is_empty() || sets.iter().any(|set| set.len() != keys.len()) {
            return Err(OperatorError::new(format!(
                "{} grouping sets are not sets of {} keys",
                sets.len(),
                keys.len()
            )));
        }
        let mut known = HashMap::new();
        let sets = sets.into_iter().map(|has| {
            let left_out = has.iter().fold(0u128, |id, has| id << 1 | u128::from(!has));
            let before = known.entry(left_out).or_insert(0u128);
            let id = left_out | *before << keys.len().min(64);
            *before += 1;
            let id = u64::try_from(id).ok().map(|id| ScalarValue::UInt64(Some(id)).cast_to(&id_type));
            match id {
                Some(Ok(id)) if !id.is_null() && has.len() <= 64 => Ok(Set { has, id }),
                _ => Err(OperatorError::new(format!("the grouping sets are too many to be told apart by {id_type}"))),
            }
        });
        let sets = sets.collect::<Result<Arc<[Set]>>>()?;
        let counts = sets.iter().any(Set::is_empty);
        let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
        if counts {
            fields = fields.into_iter().map(|field| field.with_nullable(true)).collect();
        }
        for (expression, name) in &keys {
            fields.push(field(expression.as_ref(), name, &input)?.as_ref().clone().with_nullable(true));
        }
        let key_types: Vec<_> = fields[input.fields().len()..].iter().map(|key| unpacked(key.data_type())).collect();
        // Refuses types that cannot be grouped by, before anything runs.
        GroupKeys::new(&key_types.into_iter().cloned().collect::<Vec<_>>(), false)?;
        fields.push(Field::new(AggregatePlan::INTERNAL_GROUPING_ID, id_type, false));
        if counts {
            fields.push(Field::new(COUNTS, DataType::Boolean, false));
        }
        Ok(Self { input, keys: keys.into(), sets, schema: Arc::new(Schema::new(fields)) })
    }

    /// Schema of the rows: those of the input, the keys, the id of the set.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// What the rows are to be grouped by: the keys and the id of the set.
    pub fn group(&self) -> Vec<(Expression, String)> {
        let (first, keys) = (self.input.fields().len(), self.keys.len());
        let columns = self.schema.fields().iter().enumerate().skip(first).take(keys + 1);
        columns.map(|(index, field)| (column(field.name(), index), field.name().clone())).collect()
    }

    /// The filter of an aggregate that has `filter`, so that it counts no row that stands for none.
    pub fn filter(&self, filter: Option<Expression>) -> Option<Expression> {
        let last = self.schema.fields().len() - 1;
        let counts = (self.schema.field(last).name() == COUNTS).then(|| column(COUNTS, last));
        match (filter, counts) {
            (Some(filter), Some(counts)) => Some(Arc::new(BinaryExpr::new(counts, Binary::And, filter))),
            (filter, counts) => filter.or(counts),
        }
    }
}

fn column(name: &str, index: usize) -> Expression {
    Arc::new(Column::new(name, index))
}

impl Set {
    fn is_empty(&self) -> bool {
        self.has.iter().all(|has| !has)
    }
}

impl OperatorSpec for GroupingSets {
    fn name(&self) -> &str {
        "grouping sets"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        if same_types(&self.input, &inputs[0]) {
            return Ok(self.schema());
        }
        let (expected, found) = (&self.input, &inputs[0]);
        Err(OperatorError::new(format!("the grouping sets were planned over {expected} and their input has {found}")))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.output_schema(0, &context.inputs)?;
        Ok(Box::new(Instance { spec: self.clone(), pending: None, any_rows: false }))
    }

    fn detail(&self) -> String {
        let set = |set: &Set| {
            let keys = self.keys.iter().zip(&set.has).filter(|(_, has)| **has).map(|(key, _)| key.clone());
            format!("({})", named_text(&keys.collect::<Vec<_>>()))
        };
        self.sets.iter().map(set).collect::<Vec<_>>().join(", ")
    }
}

struct Instance {
    spec: GroupingSets,
    pending: Option<Pending>,
    any_rows: bool,
}

/// A batch that is being emitted.
struct Pending {
    batch: RecordBatch,
    keys: Vec<ArrayRef>,
    next: usize,
}

impl Instance {
    /// `columns` of the input with `keys`, as rows of one set.
    fn rows(
        &self,
        set: &Set,
        columns: &[ArrayRef],
        keys: &[ArrayRef],
        rows: usize,
        count: bool,
    ) -> Result<RecordBatch> {
        let mut columns = columns.to_vec();
        for (key, has) in keys.iter().zip(&set.has) {
            columns.push(if *has { Arc::clone(key) } else { new_null_array(key.data_type(), rows) });
        }
        columns.push(set.id.to_array_of_size(rows).map_err(failed)?);
        if columns.len() < self.spec.schema.fields().len() {
            columns.push(Arc::new(BooleanArray::from(vec![count; rows])));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.spec.schema(), columns, &options)?)
    }
}

impl Operator for Instance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        if batch.num_rows() == 0 {
            return Ok(Step::NeedInput);
        }
        self.any_rows = true;
        let keys = self.spec.keys.iter().map(|(key, _)| evaluate(key.as_ref(), &batch)).collect::<Result<_>>()?;
        self.pending = Some(Pending { batch, keys, next: 0 });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        let Some(mut pending) = self.pending.take() else { return Ok(Step::NeedInput) };
        let set = &self.spec.sets[pending.next];
        out.push(self.rows(set, pending.batch.columns(), &pending.keys, pending.batch.num_rows(), true)?);
        pending.next += 1;
        if pending.next == self.spec.sets.len() {
            return Ok(Step::NeedInput);
        }
        self.pending = Some(pending);
        Ok(Step::MoreOutput)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if !self.any_rows {
            let nulls = |fields: &[Arc<Field>]| {
                fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect::<Vec<_>>()
            };
            let (columns, keys) = self.spec.schema.fields().split_at(self.spec.input.fields().len());
            let (columns, keys) = (nulls(columns), nulls(&keys[..self.spec.keys.len()]));
            for set in self.spec.sets.iter().filter(|set| set.is_empty()) {
                out.push(self.rows(set, &columns, &keys, 1, false)?);
            }
        }
        Ok(Step::NeedInput)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Keys and their nulls, the id; the input's own columns are shared.
        let keys: usize = self.spec.schema.fields()[self.spec.input.fields().len()..]
            .iter()
            .map(|field| 1 + field.data_type().primitive_width().unwrap_or(16))
            .sum();
        2 * batch_bytes(batch) + 2 * keys * batch.num_rows()
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::{context, drive};
    use arrow::array::{AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::UInt8Type;
    use datafusion_physical_expr::expressions::col;

    use super::*;

    fn input() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("b", Arc::new(StringViewArray::from(vec!["x", "y"]))),
        ])
        .expect("two columns")
    }

    fn sets(sets: &[[bool; 2]]) -> Result<GroupingSets> {
        let schema = input().schema();
        let key = |name: &str| (col(name, &schema).expect("a column"), name.to_string());
        let sets = sets.iter().map(|set| set.to_vec()).collect();
        GroupingSets::try_new(Arc::clone(&schema), vec![key("a"), key("b")], sets, DataType::UInt8)
    }

    fn run(spec: &GroupingSets, input: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let mut operator = spec.instantiate(context().operator(&[self::input().schema()])).expect("starts");
        drive(operator.as_mut(), [input]).expect("runs")
    }

    #[test]
    fn each_row_comes_once_for_each_set_with_its_id() {
        let spec = sets(&[[true, true], [true, false], [false, true], [true, false]]).expect("sets of two keys");
        assert_eq!(spec.detail(), "(a, b), (a), (b), (a)");
        let output = run(&spec, vec![input()]);
        let ids: Vec<_> = output.iter().map(|batch| batch.column(4).as_primitive::<UInt8Type>().values()[0]).collect();
        // b is the lower bit, a the one above; the second time that only b is left out adds the bit above both.
        assert_eq!(ids, [0b000, 0b001, 0b010, 0b101]);
        for (batch, nulls) in output.iter().zip([[0, 0], [0, 2], [2, 0], [0, 2]]) {
            assert_eq!(batch.columns()[..2], *input().columns());
            assert_eq!([batch.column(2).null_count(), batch.column(3).null_count()], nulls);
            assert_eq!(batch.schema(), spec.schema());
        }
        assert!(spec.filter(None).is_none(), "every row counts");
    }

    #[test]
    fn an_instance_without_rows_stands_for_the_group_of_all() {
        let spec = sets(&[[false, false], [true, true], [false, false]]).expect("sets of two keys");
        let output = run(&spec, vec![input().slice(0, 0)]);
        assert_eq!(output.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 1]);
        let filter = spec.filter(None).expect("not every row counts");
        for (batch, id) in output.iter().zip([0b011, 0b111]) {
            assert_eq!(batch.column(4).as_primitive::<UInt8Type>().values(), &[id]);
            assert_eq!(evaluate(filter.as_ref(), batch).expect("a mask").as_boolean().true_count(), 0);
        }
        let output = run(&spec, vec![input()]);
        assert_eq!(output.len(), 3);
        assert!(
            output.iter().all(|batch| evaluate(filter.as_ref(), batch).expect("a mask").as_boolean().true_count() == 2)
        );
    }

    #[test]
    fn what_is_no_grouping_is_refused() {
        assert!(sets(&[]).is_err());
        let error = sets(&[[true, true]; 65]).expect_err("six bits are left for 65 times the same");
        assert!(error.to_string().contains("UInt8"), "{error}");
        assert!(sets(&[[true, true]; 64]).is_ok());
    }
}
