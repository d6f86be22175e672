//! Random window functions.
//!
//! Rows are ordered by all exact columns where a function tells rows of one rank apart: those that are left in one rank are
//! the same, so it does not matter which comes first.

use super::aggregates::{Called, common, is_ordered};
use super::expressions::Scope;
use crate::data::Kind;
use crate::draws::Draws;

/// The windows of one step.
pub(super) struct Windows<'a> {
    scope: &'a Scope,
    /// Keys of the window whose rows are told apart. There is one: of rows that are the same, two windows need not have the
    /// same one first.
    partition: String,
    order: Vec<String>,
    /// Whether the first key, and any key, is of values that DataFusion cannot tell the peers of: lists with nulls in them.
    nested: [bool; 2],
}

impl<'a> Windows<'a> {
    pub(super) fn new(scope: &'a Scope, draws: &mut Draws<'_>) -> Self {
        let columns = scope.columns();
        let directions = ["", "", " desc", " nulls first"];
        let order = draws.order(columns.len());
        let is_nested = |at: &usize| !is_ordered(columns[*at].1);
        let nested = [order.first().is_some_and(is_nested), order.iter().any(is_nested)];
        let order = order.into_iter().map(|at| format!("{}{}", columns[at].0, draws.pick(&directions))).collect();
        Self { scope, partition: partition(scope, draws), order, nested }
    }

    /// A window function over all rows of the scope.
    pub(super) fn function(&self, draws: &mut Draws<'_>) -> Called {
        let ranks = draws.below(3) == 2;
        let ((text, kind, exact), frame) = if ranks { self.of_ranks(draws) } else { self.of_rows(draws) };
        let (partition, by) = match ranks {
            true => (partition(self.scope, draws), self.order[..self.order.len().min(1)].join(", ")),
            false => (self.partition.clone(), self.order.join(", ")),
        };
        (format!("{text} over ({partition}order by {by}{frame})"), kind, exact)
    }

    /// What numbers the rows of each group.
    pub(super) fn place(&self, draws: &mut Draws<'_>) -> String {
        let (partition, order) = (&self.partition, &self.order);
        match draws.below(3) {
            0 => format!("rank() over ({partition}order by {})", order[0]),
            1 => format!("dense_rank() over ({partition}order by {})", order[..order.len().min(2)].join(", ")),
            _ => format!("row_number() over ({partition}order by {})", order.join(", ")),
        }
    }

    /// What is the same for all rows of a rank.
    fn of_ranks(&self, draws: &mut Draws<'_>) -> (Called, &'static str) {
        let called = match draws.below(5) {
            0 => ("rank()".into(), Kind::Int, true),
            1 => ("dense_rank()".into(), Kind::Int, true),
            2 => ("percent_rank()".into(), Kind::Float, false),
            3 => ("cume_dist()".into(), Kind::Float, false),
            _ if self.nested[0] => ("rank()".into(), Kind::Int, true),
            _ => common(self.scope, draws),
        };
        (called, "")
    }

    /// What is different from row to row.
    fn of_rows(&self, draws: &mut Draws<'_>) -> (Called, &'static str) {
        let rows = ("row_number()".to_string(), Kind::Int, true);
        let frames = if self.nested[1] { &ROW_FRAMES[..] } else { &FRAMES[..] };
        match draws.below(8) {
            0 => (rows, ""),
            1 => ((format!("ntile({})", 1 + draws.below(5)), Kind::Int, true), ""),
            2 | 3 => {
                let Some((name, kind)) = self.scope.column(draws, |_| true) else { return (rows, "") };
                let function = draws.pick(&["lag", "lead"]);
                ((format!("{function}({name}, {})", draws.below(4)), kind, true), "")
            }
            4 => {
                let Some((name, kind)) = self.scope.column(draws, is_ordered) else { return (rows, "") };
                let function = draws.pick(&["first_value", "last_value"]);
                ((format!("{function}({name})"), kind, true), draws.pick(frames))
            }
            5 => {
                let Some((name, kind)) = self.scope.column(draws, is_ordered) else { return (rows, "") };
                ((format!("nth_value({name}, {})", 1 + draws.below(3)), kind, true), draws.pick(frames))
            }
            _ => (common(self.scope, draws), draws.pick(frames)),
        }
    }
}

fn partition(scope: &Scope, draws: &mut Draws<'_>) -> String {
    let keys = (0..draws.below(3)).filter_map(|_| scope.column(draws, |_| true));
    let keys = keys.map(|(name, kind)| partition_key(&name, kind));
    let keys: Vec<String> = keys.collect();
    if keys.is_empty() { String::new() } else { format!("partition by {} ", keys.join(", ")) }
}

/// `value` as DataFusion is to part rows by: for it the zeros are two.
pub(super) fn partition_key(value: &str, kind: Kind) -> String {
    match kind {
        Kind::Float | Kind::Wild => format!("({value} + cast(0 as double))"),
        _ => value.to_string(),
    }
}

const ROW_FRAMES: [&str; 6] = [
    " rows between 3 preceding and current row",
    " rows between 1 preceding and 2 following",
    " rows between unbounded preceding and unbounded following",
    " rows between current row and unbounded following",
    " rows between 5 preceding and 2 preceding",
    " rows between 2 following and 4 following",
];

/// With those that ask which rows are peers.
const FRAMES: [&str; 8] = [
    "",
    ROW_FRAMES[0],
    ROW_FRAMES[1],
    ROW_FRAMES[2],
    ROW_FRAMES[3],
    ROW_FRAMES[4],
    ROW_FRAMES[5],
    " groups between 1 preceding and 1 following",
];
