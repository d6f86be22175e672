//! What a join computes, told from the side that is held and the side that streams past it.
//!
//! Every kind of join is a choice of three things: whether pairs are emitted, and which rows of either side are
//! emitted for themselves. Columns that nothing reads are left behind at the door: all indices here count the
//! columns that are kept.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Port, Result};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{JoinSide, JoinType, NullEquality};
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::utils::collect_columns;

use super::runtime_filter::RuntimeFilter;
use super::spec::{chosen, nullable};
use crate::expression::{Expression, failed};

/// Which rows of one side are emitted for themselves, not as part of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    None,
    /// Those with a match.
    Matched,
    /// Those without one. Where pairs are emitted, the columns of the other side are null.
    Unmatched,
    /// All, with a column that says which have a match.
    Mark,
}

/// Where an output column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Build(usize),
    Probe(usize),
    /// Whether the row has a match.
    Mark,
}

/// A condition beside the equality of keys.
#[derive(Debug, Clone)]
pub(super) struct Residual {
    pub(super) expression: Expression,
    pub(super) schema: SchemaRef,
    pub(super) columns: Vec<Origin>,
}

/// A join as its user described it.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub(super) inputs: [SchemaRef; 2],
    pub(super) on: Vec<(usize, usize)>,
    pub(super) join_type: JoinType,
    pub(super) null_equality: NullEquality,
    pub(super) filter: Option<Expression>,
    pub(super) build: JoinSide,
    pub(super) output: Option<Vec<usize>>,
    pub(super) null_aware: bool,
    pub(super) told: Option<Told>,
}

/// To whom it tells the keys of the held side.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) filter: RuntimeFilter,
    /// Which of the keys.
    pub(super) keys: Vec<usize>,
    pub(super) each_has_all: bool,
}

/// The same, with columns of the held rows.
#[derive(Debug)]
pub(super) struct ToldKeys {
    pub(super) filter: RuntimeFilter,
    pub(super) columns: Vec<usize>,
    pub(super) each_has_all: bool,
}

/// A join as its instances run it.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) build_port: Port,
    pub(super) pairs: bool,
    pub(super) build_rows: Rows,
    pub(super) probe_rows: Rows,
    /// The columns that are kept of each input.
    pub(super) build_columns: Vec<usize>,
    pub(super) probe_columns: Vec<usize>,
    pub(super) build_schema: SchemaRef,
    pub(super) probe_schema: SchemaRef,
    /// Build rows as they are spilled: their columns, and whether each has had a match.
    pub(super) stored_schema: SchemaRef,
    pub(super) build_keys: Vec<usize>,
    pub(super) probe_keys: Vec<usize>,
    pub(super) nulls_equal: bool,
    /// `not in`: a null among the other side's keys leaves nothing, and a null key is only not in nothing.
    pub(super) null_aware: bool,
    pub(super) filter_keys: Option<ToldKeys>,
    pub(super) filter: Option<Residual>,
    pub(super) output: Vec<Origin>,
    pub(super) output_schema: SchemaRef,
    /// The columns that output and filter read.
    pub(super) build_read: Vec<usize>,
    pub(super) probe_read: Vec<usize>,
}

impl Definition {
    pub(super) fn new(
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        join_type: JoinType,
        null_equality: NullEquality,
    ) -> Result<Self> {
        check_pairs(&left, &right, &on)?;
        let inputs = [left, right];
        let build = JoinSide::Left;
        Ok(Self {
            inputs,
            on,
            join_type,
            null_equality,
            filter: None,
            build,
            output: None,
            null_aware: false,
            told: None,
        })
    }

    /// Output columns before some of them are chosen: port and column, or the mark.
    fn all_output(&self) -> Vec<(Option<(Port, usize)>, FieldRef)> {
        let side = |port: Port, may_be_null: bool| {
            self.inputs[port].fields().iter().enumerate().map(move |(index, field)| {
                let field = if may_be_null { nullable(field) } else { Arc::clone(field) };
                (Some((port, index)), field)
            })
        };
        let mark = (None, Arc::new(Field::new("mark", DataType::Boolean, false)));
        match self.join_type {
            JoinType::Inner => side(0, false).chain(side(1, false)).collect(),
            JoinType::Left => side(0, false).chain(side(1, true)).collect(),
            JoinType::Right => side(0, true).chain(side(1, false)).collect(),
            JoinType::Full => side(0, true).chain(side(1, true)).collect(),
            JoinType::LeftSemi | JoinType::LeftAnti => side(0, false).collect(),
            JoinType::RightSemi | JoinType::RightAnti => side(1, false).collect(),
            JoinType::LeftMark => side(0, false).chain([mark]).collect(),
            JoinType::RightMark => side(1, false).chain([mark]).collect(),
        }
    }

    /// Checks everything and turns left and right into build and probe.
    pub(super) fn shape(&self) -> Result<Shape> {
        let build_port = match self.build {
            JoinSide::Left => 0,
            JoinSide::Right => 1,
            JoinSide::None => return Err(OperatorError::new("the build side is either left or right")),
        };
        let (pairs, left, right) = rows_of(self.join_type);
        let (build_rows, probe_rows) = if build_port == 0 { (left, right) } else { (right, left) };
        if self.null_aware {
            let anti = matches!(self.join_type, JoinType::LeftAnti | JoinType::RightAnti);
            if !anti || self.on.len() != 1 || self.filter.is_some() {
                return Err(OperatorError::new(
                    "`not in` is an anti join by one key without a further condition: say others as a nested loop \
                     join whose condition holds where `(a = b) is not false`",
                ));
            }
        }

        let chosen = chosen(self.all_output(), self.output.as_deref())?;

        // What is read of each input.
        let mut used = [vec![false; self.inputs[0].fields().len()], vec![false; self.inputs[1].fields().len()]];
        let mut filter_columns = Vec::new();
        if let Some(filter) = &self.filter {
            let left_columns = self.inputs[0].fields().len();
            for column in collect_columns(filter) {
                let index = column.index();
                let at = if index < left_columns { (0, index) } else { (1, index - left_columns) };
                if at.1 >= used[at.0].len() {
                    return Err(OperatorError::new(format!("the join's condition reads a column {index}")));
                }
                filter_columns.push((index, at));
            }
            filter_columns.sort_unstable();
            filter_columns.dedup();
        }
        let keys = self.on.iter().flat_map(|&(l, r)| [(0, l), (1, r)]);
        let output = chosen.iter().filter_map(|(at, _)| *at);
        for (port, column) in keys.chain(output).chain(filter_columns.iter().map(|(_, at)| *at)) {
            used[port][column] = true;
        }
        for (used, schema) in used.iter_mut().zip(&self.inputs) {
            // Rows without a column are awkward to keep.
            if !used.contains(&true) {
                let narrowest = schema.fields().iter().position(|field| field.data_type().primitive_width().is_some());
                used.get_mut(narrowest.unwrap_or(0)).into_iter().for_each(|used| *used = true);
            }
        }
        let kept: Vec<Vec<usize>> =
            used.iter().map(|used| (0..used.len()).filter(|&column| used[column]).collect()).collect();
        let place = |(port, column): (Port, usize)| {
            let index = kept[port].iter().position(|&kept| kept == column).expect("used columns are kept");
            if port == build_port { Origin::Build(index) } else { Origin::Probe(index) }
        };
        let index = |at| match place(at) {
            Origin::Build(index) | Origin::Probe(index) => index,
            Origin::Mark => unreachable!("columns of inputs have a place"),
        };

        let filter = match &self.filter {
            None => None,
            Some(filter) => Some(self.residual(filter, &filter_columns, place)?),
        };
        let project = |port: Port| self.inputs[port].project(&kept[port]).map(Arc::new);
        let build_schema = project(build_port)?;
        let stored = if build_rows == Rows::None {
            Arc::clone(&build_schema)
        } else {
            let matched = Arc::new(Field::new("matched", DataType::Boolean, false));
            Arc::new(Schema::new(build_schema.fields().iter().cloned().chain([matched]).collect::<Vec<_>>()))
        };
        let keys = |port: Port| -> Vec<usize> { self.on.iter().map(|&(l, r)| index((port, [l, r][port]))).collect() };
        let build_keys = keys(build_port);
        let filter_keys = match &self.told {
            Some(told) => {
                if !allows_runtime_filter(self.join_type, self.build) || self.null_aware {
                    return Err(OperatorError::new("rows of the streamed side that match nothing are of use here"));
                }
                let column = |key: &usize| build_keys.get(*key).copied();
                let columns = told.keys.iter().map(column).collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty());
                let columns = columns.ok_or_else(|| OperatorError::new("a runtime filter is by keys of the join"))?;
                Some(ToldKeys { filter: told.filter.clone(), columns, each_has_all: told.each_has_all })
            }
            None => None,
        };
        let output: Vec<_> = chosen.iter().map(|(at, _)| at.map_or(Origin::Mark, place)).collect();
        let (mut build_read, mut probe_read) = (Vec::new(), Vec::new());
        for origin in output.iter().chain(filter.iter().flat_map(|filter| &filter.columns)) {
            match origin {
                Origin::Build(column) => build_read.push(*column),
                Origin::Probe(column) => probe_read.push(*column),
                Origin::Mark => {}
            }
        }
        Ok(Shape {
            build_port,
            pairs,
            build_rows,
            probe_rows,
            probe_schema: project(1 - build_port)?,
            build_schema,
            stored_schema: stored,
            build_keys,
            probe_keys: keys(1 - build_port),
            nulls_equal: self.null_equality == NullEquality::NullEqualsNull,
            null_aware: self.null_aware,
            filter_keys,
            filter,
            output,
            build_read,
            probe_read,
            output_schema: Arc::new(Schema::new(chosen.into_iter().map(|(_, field)| field).collect::<Vec<_>>())),
            build_columns: kept[build_port].clone(),
            probe_columns: kept[1 - build_port].clone(),
        })
    }

    fn residual(
        &self,
        filter: &Expression,
        columns: &[(usize, (Port, usize))],
        place: impl Fn((Port, usize)) -> Origin,
    ) -> Result<Residual> {
        let fields: Vec<_> =
            columns.iter().map(|(_, (port, column))| Arc::clone(&self.inputs[*port].fields()[*column])).collect();
        let schema = Arc::new(Schema::new(fields));
        let expression = Arc::clone(filter)
            .transform_down(|node| {
                let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
                let at = columns.iter().position(|(index, _)| *index == column.index());
                let moved = Column::new(column.name(), at.expect("all columns were collected"));
                Ok(Transformed::yes(Arc::new(moved) as Expression))
            })
            .data()
            .map_err(failed)?;
        match expression.data_type(&schema).map_err(failed)? {
            DataType::Boolean | DataType::Null => {}
            other => {
                return Err(OperatorError::new(format!("the join's condition yields {other} instead of Boolean")));
            }
        }
        Ok(Residual { expression, schema, columns: columns.iter().map(|(_, at)| place(*at)).collect() })
    }

    /// What `explain` shows.
    pub(super) fn detail(&self) -> String {
        let names = |&(l, r): &(usize, usize)| {
            format!("{} = {}", self.inputs[0].field(l).name(), self.inputs[1].field(r).name())
        };
        let mut parts = vec![self.join_type.to_string().to_lowercase()];
        if self.null_aware {
            parts.push("not in".into());
        }
        if !self.on.is_empty() {
            parts.push(format!("on {}", self.on.iter().map(names).collect::<Vec<_>>().join(", ")));
        }
        if let Some(filter) = &self.filter {
            parts.push(format!("where {filter}"));
        }
        parts.push(format!("holds the {}", if self.build == JoinSide::Left { "left" } else { "right" }));
        parts.join(", ")
    }
}

/// Checks that the columns of each pair are there, and of one type.
pub(super) fn check_pairs<'a>(
    left: &SchemaRef,
    right: &SchemaRef,
    on: impl IntoIterator<Item = &'a (usize, usize)>,
) -> Result<()> {
    for &(l, r) in on {
        let (Some(l), Some(r)) = (left.fields().get(l), right.fields().get(r)) else {
            return Err(OperatorError::new(format!("there are no columns {l} and {r} to join by")));
        };
        if l.data_type() != r.data_type() {
            let (a, b) = (l.data_type(), r.data_type());
            return Err(OperatorError::new(format!(
                "`{}` is {a} and `{}` is {b}: keys of one type can be compared, cast one of them",
                l.name(),
                r.name()
            )));
        }
    }
    Ok(())
}

/// Whether a join emits pairs, and which rows of left and right it emits for themselves.
fn rows_of(join_type: JoinType) -> (bool, Rows, Rows) {
    match join_type {
        JoinType::Inner => (true, Rows::None, Rows::None),
        JoinType::Left => (true, Rows::Unmatched, Rows::None),
        JoinType::Right => (true, Rows::None, Rows::Unmatched),
        JoinType::Full => (true, Rows::Unmatched, Rows::Unmatched),
        JoinType::LeftSemi => (false, Rows::Matched, Rows::None),
        JoinType::LeftAnti => (false, Rows::Unmatched, Rows::None),
        JoinType::LeftMark => (false, Rows::Mark, Rows::None),
        JoinType::RightSemi => (false, Rows::None, Rows::Matched),
        JoinType::RightAnti => (false, Rows::None, Rows::Unmatched),
        JoinType::RightMark => (false, Rows::None, Rows::Mark),
    }
}

/// Whether every partition may be given all rows of the `build` side: none of them must be emitted for itself,
/// or each partition would emit it.
pub(super) fn allows_broadcast(join_type: JoinType, build: JoinSide) -> bool {
    let (_, left, right) = rows_of(join_type);
    match build {
        JoinSide::Left => left == Rows::None,
        JoinSide::Right => right == Rows::None,
        JoinSide::None => false,
    }
}

/// Whether rows of the side that streams past `build` may be left out that match none of the held rows.
pub(super) fn allows_runtime_filter(join_type: JoinType, build: JoinSide) -> bool {
    let (_, left, right) = rows_of(join_type);
    let probe = if build == JoinSide::Left { right } else { left };
    matches!(probe, Rows::None | Rows::Matched)
}

impl Shape {
    /// Whether it matters which build rows have had a match.
    pub(super) fn flags(&self) -> bool {
        self.build_rows != Rows::None
    }

    /// Whether build rows that can match nothing are of use.
    pub(super) fn keeps_unmatchable(&self) -> bool {
        matches!(self.build_rows, Rows::Unmatched | Rows::Mark)
    }

    /// Whether nothing comes out where there are no build rows.
    pub(super) fn empty_without_build(&self) -> bool {
        matches!(self.probe_rows, Rows::None | Rows::Matched)
    }
}
