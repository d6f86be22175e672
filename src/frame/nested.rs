//! Lists and structs in the columns of a frame: elements as rows, fields as columns.

use arrow::datatypes::DataType;
use datafusion_common::{Column, NullHandling, Result as QueryResult, UnnestOptions, plan_err};
use datafusion_expr::{Expr, LogicalPlanBuilder};

use super::{Frame, missing};
use crate::expr::IntoExprs;

impl Frame {
    /// A row for each element of the lists in `columns`; the other columns are the same in all of them. Several lists of a
    /// row are read side by side, and the shorter ones end in nulls. A row whose lists are all null or empty stays, with
    /// nulls in their place: [`Frame::drop_nulls`] takes it out, as `unnest` in SQL does.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values (1, [10, 20]), (2, null), (3, [30])) as t(id, fares)")?;
    /// let exploded = rows.explode("fares").compute()?;
    /// assert_eq!(exploded.i64s("id")?, [1, 1, 2, 3].map(Some));
    /// assert_eq!(exploded.i64s("fares")?, [Some(10), Some(20), None, Some(30)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn explode(&self, columns: impl IntoExprs) -> Frame {
        let columns = columns.into_exprs();
        self.step("explode", |plan| unnested(plan, columns, "list", DataType::is_list))
    }

    /// The structs in `columns` as columns of their own, one for each field: of the struct `place` with the field `city` the
    /// column `place.city`. Where a struct is null, so are they.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select named_struct('city', 'Oslo', 'zip', 150) as place")?;
    /// let fields = rows.unnest("place").compute()?;
    /// assert_eq!(fields.strings("place.city")?[0].as_deref(), Some("Oslo"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unnest(&self, columns: impl IntoExprs) -> Frame {
        let columns = columns.into_exprs();
        self.step("unnest", |plan| unnested(plan, columns, "struct", |kind| matches!(kind, DataType::Struct(_))))
    }
}

fn unnested(
    plan: LogicalPlanBuilder,
    columns: Vec<Expr>,
    what: &str,
    is_right: impl Fn(&DataType) -> bool,
) -> QueryResult<LogicalPlanBuilder> {
    let columns = columns.into_iter().map(|expr| {
        let Expr::Column(column) = expr else { return plan_err!("{expr} is no column: `with_column` makes one of it") };
        let found = plan.schema().iter().find(|(_, field)| *field.name() == column.name);
        let Some((qualifier, field)) = found else { return Err(missing(&plan, &column.name)) };
        match is_right(field.data_type()) {
            true => Ok(Column::from((qualifier, field))),
            false => plan_err!("the column `{}` is no {what}, but {}", field.name(), field.data_type()),
        }
    });
    let columns = columns.collect::<QueryResult<Vec<_>>>()?;
    if columns.is_empty() {
        return Ok(plan);
    }
    let options = UnnestOptions::new().with_null_handling(NullHandling::PreserveAndExpandEmpty);
    plan.unnest_columns_with_options(columns, options)
}
