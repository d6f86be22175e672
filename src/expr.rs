//! Columns and expressions as a frame's methods take them. Names are taken as they are: case counts, and a
//! dot is part of the name.

use datafusion_common::Column;
use datafusion_expr::Expr;

/// The column called `name`, exactly: `col("Value")` is not `col("value")`.
///
/// ```
/// use aqueduct::prelude::*;
///
/// let cheap = col("Unit Price").lt(lit(10.0));
/// assert_eq!(cheap.to_string(), "Unit Price < Float64(10)");
/// ```
pub fn col(name: impl Into<String>) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// The mean of an expression; another name for `avg`.
pub fn mean(expr: Expr) -> Expr {
    datafusion_functions_aggregate::expr_fn::avg(expr)
}

/// The number of rows, nulls included, as a column called `count`.
pub fn count_rows() -> Expr {
    datafusion_functions_aggregate::count::count_all().unalias().alias("count")
}

/// A key of [`Frame::group_by`](crate::Frame::group_by) that stands for several groupings: by all of `keys`, by all but the
/// last one, and so on, down to all rows. Keys that a grouping leaves out are null in its rows.
///
/// ```
/// # use aqueduct::prelude::*;
/// # fn main() -> aqueduct::Result<()> {
/// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
/// use aqueduct::rollup;
///
/// let fares = cluster.sql("select * from (values ('Oslo', 'a', 1), ('Oslo', 'b', 2), ('Rome', 'a', 4)) as t(city, line, fare)")?;
/// let totals = fares.group_by(rollup(["city", "line"])).sum("fare").sort(["city", "line"]).compute()?;
/// assert_eq!(totals.i64s("fare")?, [1, 2, 3, 4, 4, 7].map(Some));
/// # Ok(())
/// # }
/// ```
pub fn rollup(keys: impl IntoExprs) -> Expr {
    datafusion_expr::rollup(keys.into_exprs())
}

/// A key of [`Frame::group_by`](crate::Frame::group_by) that stands for the groupings by each selection of `keys`, as
/// [`rollup`] does for fewer of them.
pub fn cube(keys: impl IntoExprs) -> Expr {
    datafusion_expr::cube(keys.into_exprs())
}

/// A key of [`Frame::group_by`](crate::Frame::group_by) that stands for the groupings by each of `sets`. Which one a row
/// is of, [`functions::grouping`](crate::functions::grouping) tells.
pub fn grouping_sets<S: IntoExprs>(sets: impl IntoIterator<Item = S>) -> Expr {
    datafusion_expr::grouping_set(sets.into_iter().map(IntoExprs::into_exprs).collect())
}

/// Whether a key stands for several groupings.
pub(crate) fn is_grouping_set(key: &Expr) -> bool {
    matches!(key, Expr::GroupingSet(_))
}

/// What stands for an expression where a frame expects one: an [`Expr`], or the name of a column.
pub trait IntoExpr {
    /// The expression.
    fn into_expr(self) -> Expr;
}

impl IntoExpr for Expr {
    fn into_expr(self) -> Expr {
        self
    }
}

impl IntoExpr for &Expr {
    fn into_expr(self) -> Expr {
        self.clone()
    }
}

impl IntoExpr for &str {
    fn into_expr(self) -> Expr {
        col(self)
    }
}

impl IntoExpr for String {
    fn into_expr(self) -> Expr {
        col(self)
    }
}

impl IntoExpr for &String {
    fn into_expr(self) -> Expr {
        col(self)
    }
}

/// What stands for a list of expressions: one column or expression alone, or an array, slice or `Vec` of them.
pub trait IntoExprs {
    /// The expressions.
    fn into_exprs(self) -> Vec<Expr>;
}

macro_rules! alone {
    ($($type:ty),*) => {$(
        impl IntoExprs for $type {
            fn into_exprs(self) -> Vec<Expr> {
                vec![self.into_expr()]
            }
        }
    )*};
}

alone!(Expr, &Expr, &str, String, &String);

impl<T: IntoExpr, const N: usize> IntoExprs for [T; N] {
    fn into_exprs(self) -> Vec<Expr> {
        self.into_iter().map(IntoExpr::into_expr).collect()
    }
}

impl<T: IntoExpr> IntoExprs for Vec<T> {
    fn into_exprs(self) -> Vec<Expr> {
        self.into_iter().map(IntoExpr::into_expr).collect()
    }
}

impl<T: IntoExpr + Clone> IntoExprs for &[T] {
    fn into_exprs(self) -> Vec<Expr> {
        self.iter().cloned().map(IntoExpr::into_expr).collect()
    }
}

/// The name that a column made of `expr` keeps: of a column its own, of an alias the alias.
pub(crate) fn column_name(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        other => other.schema_name().to_string(),
    }
}

/// Gives an expression the name that the user would write for it: `avg(value)`, not `avg(large_data.value)`.
pub(crate) fn named(expr: Expr) -> Expr {
    match expr {
        Expr::Column(_) | Expr::Alias(_) | Expr::GroupingSet(_) => expr,
        other => {
            let name = other.schema_name().to_string();
            other.alias(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion_expr::lit;
    use datafusion_functions_aggregate::expr_fn::avg;

    use super::*;

    #[test]
    fn names_keep_their_case_and_their_dots() {
        let Expr::Column(column) = col("Price.EUR") else { panic!("not a column") };
        assert_eq!(column.name, "Price.EUR");
        assert_eq!(column.relation, None);
    }

    #[test]
    fn an_expression_is_called_as_it_was_written() {
        assert_eq!(named(avg(col("value"))).schema_name().to_string(), "avg(value)");
        assert_eq!(named(col("a") + lit(1)).schema_name().to_string(), "a + Int32(1)");
        assert_eq!(named(avg(col("value")).alias("m")).schema_name().to_string(), "m");
    }
}
