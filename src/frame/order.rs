//! Orders of a frame's rows, and what follows from one: the largest rows, the last ones, one row of each key.

use datafusion_expr::{Expr, SortExpr};

use super::Frame;
use crate::error::Result;
use crate::expr::{IntoExpr, IntoExprs};
use crate::table::Table;

/// What stands for the key of an order: a column or an expression, smallest values first and nulls last, or one with
/// [`asc`], [`desc`] or [`Expr::sort`](datafusion_expr::Expr::sort) around it.
pub trait IntoSortKey {
    /// The key and its direction.
    fn into_sort_key(self) -> SortExpr;
}

impl<T: IntoExpr> IntoSortKey for T {
    fn into_sort_key(self) -> SortExpr {
        asc(self)
    }
}

impl IntoSortKey for SortExpr {
    fn into_sort_key(self) -> SortExpr {
        self
    }
}

/// What stands for the keys of an order: one alone, or an array or `Vec` of them.
pub trait IntoSortKeys {
    /// The keys, the first one first.
    fn into_sort_keys(self) -> Vec<SortExpr>;
}

macro_rules! alone {
    ($($type:ty),*) => {$(
        impl IntoSortKeys for $type {
            fn into_sort_keys(self) -> Vec<SortExpr> {
                vec![self.into_sort_key()]
            }
        }
    )*};
}

alone!(SortExpr, Expr, &Expr, &str, String, &String);

impl<T: IntoSortKey, const N: usize> IntoSortKeys for [T; N] {
    fn into_sort_keys(self) -> Vec<SortExpr> {
        self.into_iter().map(IntoSortKey::into_sort_key).collect()
    }
}

impl<T: IntoSortKey> IntoSortKeys for Vec<T> {
    fn into_sort_keys(self) -> Vec<SortExpr> {
        self.into_iter().map(IntoSortKey::into_sort_key).collect()
    }
}

/// Smallest values first, nulls last.
pub fn asc(key: impl IntoExpr) -> SortExpr {
    key.into_expr().sort(true, false)
}

/// Largest values first, nulls last.
pub fn desc(key: impl IntoExpr) -> SortExpr {
    key.into_expr().sort(false, false)
}

impl Frame {
    /// The rows in order of `keys`, the first key first: a column's name, or [`asc`] or [`desc`] of it. Nulls are last,
    /// unless [`Expr::sort`](datafusion_expr::Expr::sort) says otherwise.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values ('a', 1), ('b', 3), ('b', null), ('a', 2)) as t(k, v)")?;
    /// let sorted = rows.sort([desc("k"), asc("v")]).compute()?;
    /// assert_eq!(sorted.i64s("v")?, [Some(3), None, Some(1), Some(2)]);
    /// assert_eq!(rows.sort("v").head(2)?.i64s("v")?, [Some(1), Some(2)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sort(&self, keys: impl IntoSortKeys) -> Frame {
        self.step("sort", |plan| plan.sort(keys.into_sort_keys()))
    }

    /// The `rows` rows with the largest values in `keys`, the largest first; nulls are left for last.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100)))?;
    /// assert_eq!(numbers.nlargest(2, "n").compute()?.i64s("n")?, [Some(99), Some(98)]);
    /// assert_eq!(numbers.nsmallest(2, "n").compute()?.i64s("n")?, [Some(0), Some(1)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn nlargest(&self, rows: usize, keys: impl IntoExprs) -> Frame {
        let keys = keys.into_exprs().into_iter().map(desc);
        self.step("nlargest", |plan| plan.sort_with_limit(keys, Some(rows)))
    }

    /// The `rows` rows with the smallest values in `keys`, the smallest first; nulls are left for last.
    #[must_use]
    pub fn nsmallest(&self, rows: usize, keys: impl IntoExprs) -> Frame {
        let keys = keys.into_exprs().into_iter().map(asc);
        self.step("nsmallest", |plan| plan.sort_with_limit(keys, Some(rows)))
    }

    /// All rows but the first `rows`.
    ///
    /// As for [`Frame::limit`], which are the first depends on whether something regrouped them.
    #[must_use]
    pub fn skip(&self, rows: usize) -> Frame {
        self.step("skip", |plan| plan.limit(rows, None))
    }

    /// The last `rows` rows, in the order of the source. Reads the source twice: first to count the rows.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100)))?;
    /// assert_eq!(numbers.tail(2)?.i64s("n")?, [Some(98), Some(99)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn tail(&self, rows: usize) -> Result<Table> {
        let all = usize::try_from(self.count()?).unwrap_or(usize::MAX);
        self.skip(all.saturating_sub(rows)).limit(rows).compute()
    }

    /// One row of each combination of values in `columns`: any of them. Nulls are one value.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values ('a', 1), ('b', 3), ('a', 1)) as t(k, v)")?;
    /// assert_eq!(rows.drop_duplicates("k").count()?, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn drop_duplicates(&self, columns: impl IntoExprs) -> Frame {
        let on = columns.into_exprs();
        self.step("drop_duplicates", |plan| {
            let all = super::columns(&plan).into_iter().map(|(_, column)| column).collect();
            plan.distinct_on(on, all, None)
        })
    }
}
