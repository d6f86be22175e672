//! The methods that run a job: everything else about a frame is lazy.

use std::path::Path;

use aqueduct_operators::parquet::ParquetSinkOptions;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::error::Result;
use crate::expr::count_rows;
use crate::frame::Frame;
use crate::run::{self, FrameStream};
use crate::table::Table;

impl Frame {
    /// Runs the frame and collects all its rows. Blocks until they are there; a progress bar shows how far it
    /// is where standard error is a terminal.
    ///
    /// Rows come in the order of the file where nothing regroups them, and in no particular order after a
    /// group-by or a union. The table belongs to the caller and counts toward no memory limit: use
    /// [`Frame::stream`] or [`Frame::write_csv`] for results that are large.
    ///
    /// Where a file was opened with [`OnMismatch::Widen`](crate::OnMismatch::Widen), the job may be run again with a
    /// wider type for a column, and so may those of all other methods that run one. The table's schema is then not
    /// [`Frame::schema`], which stays as it was.
    ///
    /// # Errors
    ///
    /// The first step that was wrong, what this version cannot run, or how the job failed.
    pub fn compute(&self) -> Result<Table> {
        run::collect(self, true)
    }

    /// Runs the frame and collects all its rows, as [`Frame::compute`] does, without blocking the thread.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the job.
    pub fn compute_async(&self) -> impl Future<Output = Result<Table>> + Send + use<> {
        let frame = self.clone();
        async move { run::collect_async(&frame).await }
    }

    /// Runs the frame and hands out its rows as they come: an iterator, and a `futures_core::Stream` for async
    /// code. The job waits while nobody reads, and ends when the stream is dropped. No column is widened once there
    /// was a batch.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`]; what fails later is reported by the stream.
    pub fn stream(&self) -> Result<FrameStream> {
        run::stream(self)
    }

    /// The first `rows` rows. Reads no more than it takes to find them.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn head(&self, rows: usize) -> Result<Table> {
        run::collect(&self.limit(rows), false)
    }

    /// The number of rows.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn count(&self) -> Result<u64> {
        let counted = run::collect(&self.aggregate(count_rows()), true)?.to_batch()?;
        let rows = counted.column(0).as_primitive::<Int64Type>();
        Ok(if rows.is_empty() { 0 } else { u64::try_from(rows.value(0)).unwrap_or(0) })
    }

    /// Runs the frame and writes its rows to a CSV file, with a header; the number of rows written. The file
    /// exists once all of it has been written, and not before.
    ///
    /// Rows are in the order of the source where nothing regroups them.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn write_csv(&self, path: impl AsRef<Path>) -> Result<u64> {
        run::write_csv(self, path.as_ref())
    }

    /// Runs the frame and writes its rows to a Parquet file; the number of rows written. The file exists once all of it
    /// has been written, and not before.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let path = folder.path().join("numbers.parquet");
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(1000)))?;
    /// assert_eq!(numbers.write_parquet(&path)?, 1000);
    /// assert_eq!(cluster.read_parquet(&path)?.filter(col("n").gt(lit(990))).count()?, 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Rows are in the order of the source where nothing regroups them.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn write_parquet(&self, path: impl AsRef<Path>) -> Result<u64> {
        self.write_parquet_with(path, &ParquetSinkOptions::default())
    }

    /// As [`Frame::write_parquet`], with options: compression, sizes of row groups, bloom filters.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn write_parquet_with(&self, path: impl AsRef<Path>, options: &ParquetSinkOptions) -> Result<u64> {
        run::write_parquet(self, path.as_ref(), options)
    }

    /// Runs the frame once and keeps its rows: what is made of the returned frame reads them, and computes nothing of this
    /// one again.
    ///
    /// The rows are kept on disk, in spill files of the cluster, and take no memory; the cluster's spill limit counts
    /// them. They are in the order that [`Frame::compute`] would give. The files are removed when the last frame, table
    /// or job that uses them is dropped, or the cluster is closed.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100_000)))?;
    /// let squares = numbers.with_column("square", col("n") * col("n")).filter((col("square") % lit(7)).eq(lit(2))).cache()?;
    /// assert_eq!(squares.count()?, 28572);
    /// assert_eq!(squares.head(1)?.i64s("square")?, [Some(9)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`]; a job that fails keeps nothing.
    pub fn cache(&self) -> Result<Frame> {
        run::cache(self)
    }

    /// The number of partitions that compute the rows.
    ///
    /// # Errors
    ///
    /// As for [`Frame::explain`].
    pub fn npartitions(&self) -> Result<usize> {
        run::partitions(self)
    }
}
