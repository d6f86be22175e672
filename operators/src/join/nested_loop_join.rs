//! The nested loop join: every row of one side meets every row of the other. What is held of one side spills, and is
//! then joined block by block.

use aqueduct_runtime::Result;
use arrow::datatypes::SchemaRef;
use datafusion_common::{JoinSide, JoinType, NullEquality};

use super::shape::{Definition, allows_broadcast};
use super::spec::join_spec;
use crate::expression::Expression;

/// Joins two inputs by a condition that is not an equality, or by none: a cross join is an inner one without a
/// condition. Ports and output are those of [`HashJoin`](super::HashJoin).
///
/// The side of [`NestedLoopJoin::broadcast_side`] goes to every partition, or both are gathered.
#[derive(Debug, Clone)]
pub struct NestedLoopJoin {
    definition: Definition,
}

impl NestedLoopJoin {
    /// A join of all pairs for which `filter` is true. Its columns count those of the left, then the right.
    ///
    /// It holds the side that may be broadcast, and the left one where both or neither may.
    ///
    /// # Errors
    ///
    /// When the filter does not fit the inputs.
    pub fn try_new(left: SchemaRef, right: SchemaRef, join_type: JoinType, filter: Option<Expression>) -> Result<Self> {
        let mut definition = Definition::new(left, right, Vec::new(), join_type, NullEquality::NullEqualsNothing)?;
        definition.filter = filter;
        definition.build = Self::broadcast_side(join_type).unwrap_or(JoinSide::Left);
        definition.shape()?;
        Ok(Self { definition })
    }

    /// The side that may be broadcast while the other keeps its partitions; none for a full join, whose inputs are
    /// both gathered. For an inner join, which may broadcast either, this is the left one.
    pub fn broadcast_side(join_type: JoinType) -> Option<JoinSide> {
        [JoinSide::Left, JoinSide::Right].into_iter().find(|side| allows_broadcast(join_type, *side))
    }
}

join_spec!(NestedLoopJoin, "nested loop join");
