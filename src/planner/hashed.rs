//! How rows are spread over partitions, so that they need not be spread again: a group-by behind a join by the same keys
//! finds the rows of each group in one partition.
//!
//! It is known of columns by their places, and lost where an operator leaves one out or fills it with nulls.

use aqueduct_operators::Expression;
use aqueduct_runtime::Input;
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_physical_expr::expressions::Column;

use super::estimate::distinct;
use super::{Flow, Planner};

/// Different keys, at the least, that spread rows well enough for a stage that would spread them by more columns.
const ENOUGH_KEYS: f64 = 1000.0;

/// Rows that are spread by the hash of some columns: those with equal values in all of them are in one partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hashed {
    /// For each column of the hash, in its order, the columns that hold its value.
    keys: Vec<Vec<usize>>,
    /// How many partitions there are, where the query says so.
    partitions: Option<usize>,
}

impl Hashed {
    /// Rows spread by these columns.
    pub(super) fn by(columns: &[usize]) -> Self {
        Self { keys: columns.iter().map(|column| vec![*column]).collect(), partitions: None }
    }

    pub(super) fn with_partitions(self, partitions: Option<usize>) -> Self {
        Self { partitions, ..self }
    }

    /// The same rows where each column is at the places that `places` gives for it.
    pub(super) fn moved(&self, places: impl Fn(usize) -> Vec<usize>) -> Option<Self> {
        let moved = |key: &Vec<usize>| Some(key.iter().flat_map(|column| places(*column)).collect::<Vec<usize>>());
        let keys = self.keys.iter().map(|key| moved(key).filter(|key| !key.is_empty())).collect::<Option<_>>()?;
        Some(Self { keys, partitions: self.partitions })
    }

    /// As [`Hashed::moved`], where output column *i* is `columns[i]`.
    pub(super) fn selected(&self, columns: &[usize]) -> Option<Self> {
        self.moved(|column| places_of(column, columns))
    }

    /// As [`Hashed::moved`], by a projection.
    pub(super) fn projected(&self, columns: &[(Expression, String)]) -> Option<Self> {
        let sources: Vec<usize> = columns
            .iter()
            .map(|(expression, _)| expression.downcast_ref::<Column>().map_or(usize::MAX, Column::index))
            .collect();
        self.selected(&sources)
    }

    /// For each column of the hash the first of `columns` that holds it; `None` if one of them is not among those.
    pub(super) fn among(&self, columns: &[usize]) -> Option<Vec<usize>> {
        self.keys.iter().map(|key| columns.iter().position(|column| key.contains(column))).collect()
    }

    /// Whether another side of a join, hashed by `others` in this order, has equal keys in the same partitions.
    fn is_alike(&self, own: &[usize], other: &Self, others: &[usize]) -> bool {
        own == others && self.partitions == other.partitions
    }

    /// The same, where the columns of each pair are equal.
    pub(super) fn with_equal(mut self, pairs: &[(usize, usize)]) -> Self {
        for key in &mut self.keys {
            let twins = pairs.iter().flat_map(|&(one, other)| [(one, other), (other, one)]);
            let twins: Vec<usize> = twins.filter(|(one, _)| key.contains(one)).map(|(_, other)| other).collect();
            key.extend(twins);
        }
        self
    }
}

fn places_of(column: usize, columns: &[usize]) -> Vec<usize> {
    columns.iter().enumerate().filter(|(_, source)| **source == column).map(|(place, _)| place).collect()
}

/// How the two sides of a join get to where equal keys meet.
pub(super) struct Meeting {
    pub(super) inputs: [Input; 2],
    /// The pairs of keys that decide over the partition, in the order of the hash.
    pairs: Vec<usize>,
    partitions: Option<usize>,
}

impl Meeting {
    /// How the rows of the join are spread, by columns of the left side and, behind `width` of them, the right one, as
    /// far as these sides' rows are all where they came in.
    pub(super) fn hashed(&self, on: &[(usize, usize)], width: usize, sides: [bool; 2]) -> Option<Hashed> {
        let keys = self.pairs.iter().map(|&pair| {
            let (left, right) = on[pair];
            [left, width + right].into_iter().zip(sides).filter(|(_, whole)| *whole).map(|(column, _)| column).collect()
        });
        let keys: Vec<Vec<usize>> = keys.collect();
        sides.contains(&true).then_some(Hashed { keys, partitions: self.partitions })
    }
}

impl Planner {
    /// Whether rows with equal values in `columns` are in one partition, and there is work for all partitions.
    pub(super) fn is_spread(&self, flow: &Flow, columns: &[usize], plan: &LogicalPlan) -> bool {
        self.spread_by(flow, columns, plan).is_some()
    }

    /// Places in `columns` of those that `flow` is spread by, if that will do in place of all.
    fn spread_by(&self, flow: &Flow, columns: &[usize], plan: &LogicalPlan) -> Option<Vec<usize>> {
        let hashed = flow.hashed.as_ref()?;
        let among = hashed.among(columns)?;
        let all = (0..columns.len()).all(|place| among.iter().any(|found| columns[*found] == columns[place]));
        let many = || {
            let schema = plan.schema();
            let known = among.iter().map(|place| columns[*place]).filter(|column| *column < schema.fields().len());
            let keys = known.map(|column| distinct(&Expr::Column(schema.qualified_field(column).into()), plan));
            keys.product::<f64>() >= ENOUGH_KEYS
        };
        (all || many()).then_some(among)
    }

    /// Brings equal keys of two sides together; a side that is spread by them already stays where it is.
    pub(super) fn meeting(
        &self,
        (left, left_plan): (&Flow, &LogicalPlan),
        (right, right_plan): (&Flow, &LogicalPlan),
        on: &[(usize, usize)],
        left_is_larger: bool,
    ) -> Meeting {
        let (left_keys, right_keys): (Vec<usize>, Vec<usize>) = on.iter().copied().unzip();
        let left_spread = self.spread_by(left, &left_keys, left_plan);
        let right_spread = self.spread_by(right, &right_keys, right_plan);
        let by = |flow: &Flow, keys: &[usize], pairs: &[usize]| {
            flow.node.hash(pairs.iter().map(|pair| flow.schema.field(keys[*pair]).name().clone()))
        };
        let partitions = |flow: &Flow| flow.hashed.as_ref().and_then(|hashed| hashed.partitions);
        match (left_spread, right_spread) {
            (Some(pairs), Some(others)) if self.may_meet(left, &pairs, right, &others) => {
                Meeting { inputs: [left.node.into(), right.node.into()], pairs, partitions: partitions(left) }
            }
            (Some(pairs), other) if other.is_none() || left_is_larger => Meeting {
                inputs: [left.node.into(), by(right, &right_keys, &pairs)],
                pairs,
                partitions: partitions(left),
            },
            (_, Some(pairs)) => Meeting {
                inputs: [by(left, &left_keys, &pairs), right.node.into()],
                pairs,
                partitions: partitions(right),
            },
            _ => {
                let pairs: Vec<usize> = (0..on.len()).collect();
                let inputs = [by(left, &left_keys, &pairs), by(right, &right_keys, &pairs)];
                Meeting { inputs, pairs, partitions: None }
            }
        }
    }

    /// Whether the rows of both sides are in the same partitions of as many.
    fn may_meet(&self, left: &Flow, pairs: &[usize], right: &Flow, others: &[usize]) -> bool {
        let (Some(left), Some(right)) = (&left.hashed, &right.hashed) else { return false };
        // Where some are read by lanes, which are limited, two nodes may have different numbers of partitions.
        left.is_alike(pairs, right, others) && self.settings.arbiters() * MOST_PER_ARBITER <= super::MOST_PORTS
    }
}

/// Hashed partitions of each arbiter at the most.
const MOST_PER_ARBITER: usize = 4;
