//! The hash join: holds one side in hash tables, by bucket and on disk where memory is short, and streams the other
//! past them.

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::SchemaRef;
use datafusion_common::{JoinSide, JoinType, NullEquality};

use super::runtime_filter::RuntimeFilter;
use super::shape::{Definition, Told, allows_broadcast, allows_runtime_filter};
use super::spec::join_spec;
use crate::expression::Expression;

/// Joins two inputs by equal keys. Port 0 is the left one, port 1 the right one.
///
/// Both are hashed by their keys, or the held side goes to every partition where [`HashJoin::allows_broadcast`], or
/// both are gathered. Output columns are those of the left, then those of the right; a semi or anti join has those of
/// its side, and a mark join has `mark` behind them.
#[derive(Debug, Clone)]
pub struct HashJoin {
    definition: Definition,
}

impl HashJoin {
    /// A join of rows of `left` and `right` whose columns `on` are equal, pair by pair. It holds the left side.
    ///
    /// # Errors
    ///
    /// When there are no keys, when a column is not there, or when the two columns of a pair differ in type.
    pub fn try_new(
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        join_type: JoinType,
        null_equality: NullEquality,
    ) -> Result<Self> {
        if on.is_empty() {
            return Err(OperatorError::new("a hash join needs keys; without, it is a nested loop join"));
        }
        Ok(Self { definition: Definition::new(left, right, on, join_type, null_equality)? })
    }

    /// Has only pairs match for which `filter` is true too. Its columns count those of the left, then the right.
    #[must_use]
    pub fn with_filter(mut self, filter: Expression) -> Self {
        self.definition.filter = Some(filter);
        self
    }

    /// Makes an anti join a `not in`: a null among the other side's keys leaves no row, and a null key stays only if
    /// the other side has no rows.
    ///
    /// The other side must be seen whole: broadcast it, or gather both.
    #[must_use]
    pub fn null_aware(mut self) -> Self {
        self.definition.null_aware = true;
        self
    }

    /// Whether the side that is held may be broadcast: not if it is emitted for itself, as the left is in a left join.
    pub fn allows_broadcast(join_type: JoinType, build: JoinSide) -> bool {
        allows_broadcast(join_type, build)
    }

    /// Tells `filter` the keys of the held side, those of `keys` as they are numbered, so that the other side's rows that
    /// match none of them are left out where they come from. `each_has_all` says that every partition holds all rows.
    ///
    /// For joins of which [`HashJoin::allows_runtime_filter`], and no `not in`.
    #[must_use]
    pub fn with_runtime_filter(mut self, filter: RuntimeFilter, keys: Vec<usize>, each_has_all: bool) -> Self {
        self.definition.told = Some(Told { filter, keys, each_has_all });
        self
    }

    /// Whether the rows that stream past the `build` side may be left out where they match none of it: not if they are
    /// emitted all the same, as the left ones are in a left join.
    pub fn allows_runtime_filter(join_type: JoinType, build: JoinSide) -> bool {
        allows_runtime_filter(join_type, build)
    }
}

join_spec!(HashJoin, "hash join");
