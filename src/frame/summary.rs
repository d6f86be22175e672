//! Summaries of columns: statistics, counts of values, a sample.

use aqueduct_operators::Sample;
use arrow::datatypes::DataType;
use datafusion_common::{Column, Result as QueryResult, plan_err};
use datafusion_expr::{Expr, LogicalPlanBuilder, cast, lit};
use datafusion_functions::expr_fn::random;
use datafusion_functions_aggregate::expr_fn::{avg, count, count_distinct, max, min, percentile_cont, stddev};

use super::order::{asc, desc};
use super::{Frame, columns};
use crate::error::Result;
use crate::expr::{IntoExpr, IntoExprs, column_name, count_rows};

/// What `describe` calls the statistics, in its order.
const STATISTICS: [&str; 8] = ["count", "mean", "std", "min", "25%", "50%", "75%", "max"];

impl Frame {
    /// Count, mean, standard deviation, smallest and largest value and quartiles of each column of numbers, nulls left
    /// out: a row for each, its name in the column `statistic`.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(101)))?;
    /// let described = numbers.describe().compute()?;
    /// assert_eq!(described.strings("statistic")?[4].as_deref(), Some("25%"));
    /// assert_eq!(described.f64s("n")?[4], Some(25.0));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn describe(&self) -> Frame {
        self.step("describe", |plan| {
            let numbers = plan.schema().iter().filter(|(_, field)| field.data_type().is_numeric());
            let numbers: Vec<Column> = numbers.map(Column::from).collect();
            if numbers.is_empty() {
                return plan_err!("there is no column of numbers to describe");
            }
            let aggregates = numbers.iter().enumerate().flat_map(|(column, name)| {
                let values = || cast(Expr::Column(name.clone()), DataType::Float64);
                let quantile = |share: f64| percentile_cont(asc(values()), lit(share));
                [
                    count(values()),
                    avg(values()),
                    stddev(values()),
                    min(values()),
                    quantile(0.25),
                    quantile(0.5),
                    quantile(0.75),
                    max(values()),
                ]
                .into_iter()
                .enumerate()
                .map(move |(row, value)| value.alias(part(row, column)))
            });
            let aggregated = plan.aggregate(Vec::<Expr>::new(), aggregates.collect::<Vec<_>>())?.build()?;
            // A row for each statistic, all made of the one row of aggregates.
            let rows = STATISTICS.iter().enumerate().map(|(row, statistic)| {
                let values = numbers.iter().enumerate().map(|(column, name)| {
                    let value = Expr::Column(Column::new_unqualified(part(row, column)));
                    cast(value, DataType::Float64).alias(&name.name)
                });
                let head = [lit(row as i64).alias(ROW), lit(*statistic).alias("statistic")];
                LogicalPlanBuilder::from(aggregated.clone()).project(head.into_iter().chain(values))?.build()
            });
            let mut rows = rows.collect::<QueryResult<Vec<_>>>()?.into_iter();
            let first = LogicalPlanBuilder::from(rows.next().expect("there are statistics"));
            let all = rows.try_fold(first, LogicalPlanBuilder::union)?;
            let names: Vec<Expr> = columns(&all).into_iter().skip(1).map(|(_, column)| column).collect();
            all.sort([asc(Expr::Column(Column::new_unqualified(ROW)))])?.project(names)
        })
    }

    /// The different values of `columns`, each combination once.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values ('a', 1), ('b', 3), ('a', 2)) as t(k, v)")?;
    /// assert_eq!(rows.unique("k").count()?, 2);
    /// assert_eq!(rows.nunique("k")?, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unique(&self, columns: impl IntoExprs) -> Frame {
        self.select(columns).distinct()
    }

    /// The number of different values of a column, nulls left out.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn nunique(&self, column: impl IntoExpr) -> Result<u64> {
        let counted = self.aggregate(count_distinct(column.into_expr()).alias("values")).compute()?;
        let values = counted.i64s("values")?.into_iter().flatten().next();
        Ok(values.and_then(|values| u64::try_from(values).ok()).unwrap_or(0))
    }

    /// How often each value of `columns` is there, the most frequent first, in a column `count`. Nulls are values, too.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values ('b', 1), ('a', 3), ('b', 2)) as t(k, v)")?;
    /// let counts = rows.value_counts("k").compute()?;
    /// assert_eq!(counts.i64s("count")?, [Some(2), Some(1)]);
    /// assert_eq!(counts.strings("k")?[0].as_deref(), Some("b"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn value_counts(&self, columns: impl IntoExprs) -> Frame {
        let columns = columns.into_exprs();
        // Values that are there equally often come in the order of the values.
        let names = columns.iter().map(|column| asc(column_name(column))).collect::<Vec<_>>();
        let order = [desc("count")].into_iter().chain(names).collect::<Vec<_>>();
        super::group::aggregate("value_counts", self, columns, vec![count_rows()]).sort(order)
    }

    /// The value of `column` below which the share `quantile` of the values lies, between two of them as far as need
    /// be; `None` if there are no values. Exact: the values are sorted, through the disk where memory is short.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(101)))?;
    /// assert_eq!(numbers.quantile("n", 0.9)?, Some(90.0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`], and if `quantile` is not between 0 and 1.
    pub fn quantile(&self, column: impl IntoExpr, quantile: f64) -> Result<Option<f64>> {
        let values = cast(column.into_expr(), DataType::Float64);
        let found = self.aggregate(percentile_cont(asc(values), lit(quantile)).alias("quantile")).compute()?;
        Ok(found.f64s("quantile")?.into_iter().flatten().next())
    }

    /// Each row with the probability `share`: others at every run.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(10_000)))?;
    /// let tenth = numbers.sample(0.1).count()?;
    /// assert!((500..1500).contains(&tenth));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sample(&self, share: f64) -> Frame {
        self.step("sample", |plan| {
            if !(0.0..=1.0).contains(&share) {
                return plan_err!("a share is between 0 and 1, and {share} is not");
            }
            plan.filter(random().lt(lit(share)))
        })
    }

    /// Each row with the probability `share`: the same rows at every run with the same `seed`, whatever the number of workers.
    /// It goes by the values of a row, so rows that are equal in all columns stay or go together.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(10_000)))?;
    /// let tenth = numbers.sample_with_seed(0.1, 7);
    /// assert_eq!(tenth.compute()?.i64s("n")?, tenth.compute()?.i64s("n")?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sample_with_seed(&self, share: f64, seed: u64) -> Frame {
        match Sample::try_new(share, seed) {
            Ok(sample) => self.apply("sample", sample),
            Err(error) => self.step("sample_with_seed", |_| plan_err!("{error}")),
        }
    }

    /// The rows without nulls in `columns`.
    #[must_use]
    pub fn drop_nulls(&self, columns: impl IntoExprs) -> Frame {
        let present = columns.into_exprs().into_iter().map(Expr::is_not_null).reduce(Expr::and);
        match present {
            Some(present) => self.step("drop_nulls", |plan| plan.filter(present)),
            None => self.clone(),
        }
    }
}

/// Where `describe` keeps the order of its rows.
const ROW: &str = "__row";

/// The name of a statistic of a column before it is put in its row.
fn part(row: usize, column: usize) -> String {
    format!("__{row}_{column}")
}
