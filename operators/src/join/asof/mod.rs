//! The as-of join: each left row with the one right row that is nearest in an order such as time, before it or behind
//! it, among those with equal keys.
//!
//! Both inputs are sorted by keys and time, so that one walk along both finds all matches. It holds a batch of either
//! side and the last right row, whatever the keys are.
//!
//! ```text
//! left  ─▶ exchange by keys ─▶ Sort ─╲
//!                                     ▶─ AsofJoin ─▶ pairs
//! right ─▶ exchange by keys ─▶ Sort ─╱
//! ```

mod instance;
mod order;
mod window;

use std::sync::Arc;

use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Port, Result};
use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion_common::JoinType;
use serde::{Deserialize, Serialize};

use self::instance::{Instance, min_memory};
use self::order::Encoder;
use super::shape::check_pairs;
use super::spec::{check_inputs, chosen, nullable};

/// Where the right row of an [`AsofJoin`] is, seen from the left one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AsofDirection {
    /// The last right row that is not later than the left one.
    Backward,
    /// The first right row that is not earlier than the left one.
    Forward,
}

/// Joins each left row, of port 0, with at most one right row, of port 1: the nearest one in a direction.
///
/// Both inputs are sorted in the order of [`AsofJoin::order`], and all rows with equal keys are in one partition: sort
/// behind an exchange by the keys, or gather both. Of several right rows with equal keys and times the last one of the
/// sort is the nearest going backward, and the first one going forward. A null among keys or times matches nothing.
/// Floats are compared in total order: make those equal that count as equal before they are sorted.
///
/// Output columns are those of the left, then those of the right.
#[derive(Debug, Clone)]
pub struct AsofJoin {
    inputs: [SchemaRef; 2],
    on: Vec<(usize, usize)>,
    time: (usize, usize),
    direction: AsofDirection,
    strict: bool,
    join_type: JoinType,
    output: Option<Vec<usize>>,
}

/// A join as its instances run it.
struct Shape {
    /// Keys and time of each input.
    keys: [Vec<usize>; 2],
    times: [usize; 2],
    encoder: Arc<Encoder>,
    direction: AsofDirection,
    /// A right row of the same time is no match.
    strict: bool,
    /// Left rows without a match are emitted, too.
    keeps_left: bool,
    /// Port and column.
    output: Vec<(Port, usize)>,
    schema: SchemaRef,
}

impl AsofJoin {
    /// A join of rows of `left` and `right` whose columns `on` are equal, pair by pair, by the columns `time`.
    ///
    /// `join_type` is inner, or left to keep left rows without a match.
    ///
    /// # Errors
    ///
    /// When a column is not there, when the two columns of a pair differ in type or have no order, or for another type
    /// of join.
    pub fn try_new(
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        time: (usize, usize),
        direction: AsofDirection,
        join_type: JoinType,
    ) -> Result<Self> {
        if !matches!(join_type, JoinType::Inner | JoinType::Left) {
            return Err(OperatorError::new(format!("an as-of join is inner or left, and not {join_type}")));
        }
        check_pairs(&left, &right, on.iter().chain([&time]))?;
        let join = Self { inputs: [left, right], on, time, direction, strict: false, join_type, output: None };
        join.shape()?;
        Ok(join)
    }

    /// Has a right row of the very time of the left one be no match.
    #[must_use]
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Emits only these of the output columns, in this order.
    #[must_use]
    pub fn with_output(self, columns: Vec<usize>) -> Self {
        Self { output: Some(columns), ..self }
    }

    /// What an input must be sorted by.
    pub fn order(&self, port: Port) -> Vec<SortColumn> {
        let of = |&(left, right): &(usize, usize)| if port == 0 { left } else { right };
        let options = SortOptions { descending: false, nulls_first: false };
        let mut order: Vec<SortColumn> = Vec::new();
        for column in self.on.iter().chain([&self.time]).map(of) {
            if order.iter().all(|before| before.column != column) {
                order.push(SortColumn { column, options });
            }
        }
        order
    }

    /// The columns that it emits.
    ///
    /// # Errors
    ///
    /// When output columns are not there.
    pub fn schema(&self) -> Result<SchemaRef> {
        Ok(self.shape()?.schema)
    }

    fn shape(&self) -> Result<Shape> {
        let all: Vec<(Port, usize, FieldRef)> = (0..2)
            .flat_map(|port| self.inputs[port].fields().iter().enumerate().map(move |(at, field)| (port, at, field)))
            .map(|(port, at, field)| {
                let may_be_null = port == 1 && self.join_type == JoinType::Left;
                (port, at, if may_be_null { nullable(field) } else { Arc::clone(field) })
            })
            .collect();
        let chosen = chosen(all, self.output.as_deref())?;
        let side = |port: Port| -> (Vec<usize>, usize) {
            let of = |&(left, right): &(usize, usize)| if port == 0 { left } else { right };
            (self.on.iter().map(of).collect(), of(&self.time))
        };
        let ((left_keys, left_time), (right_keys, right_time)) = (side(0), side(1));
        Ok(Shape {
            encoder: Arc::new(Encoder::try_new(&self.inputs[0], &left_keys, left_time)?),
            keys: [left_keys, right_keys],
            times: [left_time, right_time],
            direction: self.direction,
            strict: self.strict,
            keeps_left: self.join_type == JoinType::Left,
            output: chosen.iter().map(|(port, column, _)| (*port, *column)).collect(),
            schema: Arc::new(Schema::new(chosen.into_iter().map(|(_, _, field)| field).collect::<Vec<_>>())),
        })
    }
}

impl OperatorSpec for AsofJoin {
    fn name(&self) -> &str {
        "as-of join"
    }

    fn inputs(&self) -> usize {
        2
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        check_inputs(&self.inputs, inputs)?;
        self.schema()
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Instance::new(self.shape()?, &context)))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        min_memory(batch_bytes)
    }

    fn detail(&self) -> String {
        let name = |port: Port, column: usize| self.inputs[port].field(column).name();
        let comparison = match (self.direction, self.strict) {
            (AsofDirection::Backward, false) => ">=",
            (AsofDirection::Backward, true) => ">",
            (AsofDirection::Forward, false) => "<=",
            (AsofDirection::Forward, true) => "<",
        };
        let mut pairs: Vec<_> = self.on.iter().map(|&(l, r)| format!("{} = {}", name(0, l), name(1, r))).collect();
        pairs.push(format!("{} {comparison} {}", name(0, self.time.0), name(1, self.time.1)));
        format!("{}, on {}", self.join_type.to_string().to_lowercase(), pairs.join(", "))
    }
}
