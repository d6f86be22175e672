//! Reports: what jobs did, as one HTML file to keep or to send. Everything is recorded anyway, so one may be asked for after
//! the fact, of jobs that failed or were cancelled, too.

use std::path::{Path, PathBuf};

use aqueduct_runtime::observe::ObservedJob;
use aqueduct_runtime::{ExecutionError, Observer};

use crate::cluster::LocalCluster;
use crate::error::Result;

/// Jobs that a report has at the most: the newest.
const JOBS: usize = 20;

impl LocalCluster {
    /// Writes what the last jobs of this cluster did to `path`, as one HTML file that needs nothing else: graph, timeline,
    /// memory over time, figures, plan, explain analyze, and errors. At most 20 jobs, those that run included.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("report.html");
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).without_dashboard().start()?;
    /// cluster.from_source("numbers", aqueduct::operators::range("n", Some(1000)))?.count()?;
    /// cluster.report(&path)?;
    /// # assert!(std::fs::read_to_string(&path).expect("a report").contains("numbers"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn report(&self, path: impl AsRef<Path>) -> Result<()> {
        write(&self.observer(), path.as_ref(), |_| true)
    }

    /// As [`LocalCluster::report`], of the jobs that begin from now on: written by [`PerformanceReport::finish`], or when
    /// what is returned is dropped.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("report.html");
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).without_dashboard().start()?;
    /// # let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(1000)))?;
    /// let report = cluster.performance_report(&path);
    /// numbers.count()?;
    /// report.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "it is written when it is dropped"]
    pub fn performance_report(&self, path: impl AsRef<Path>) -> PerformanceReport {
        let observer = self.observer();
        let first = observer.jobs().last().map_or(0, |job| job.id() + 1);
        PerformanceReport { observer, path: path.as_ref().into(), first, written: false }
    }
}

/// A report of the jobs since it was begun; see [`LocalCluster::performance_report`].
#[derive(Debug)]
pub struct PerformanceReport {
    observer: Observer,
    path: PathBuf,
    /// Number of the first job that is part of it.
    first: u64,
    written: bool,
}

impl PerformanceReport {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.written = true;
        self.write()
    }

    fn write(&self) -> Result<()> {
        write(&self.observer, &self.path, |job| job.id() >= self.first)
    }
}

impl Drop for PerformanceReport {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the report is not written");
        }
    }
}

fn write(observer: &Observer, path: &Path, wanted: impl Fn(&ObservedJob) -> bool) -> Result<()> {
    let mut jobs = observer.jobs();
    jobs.retain(wanted);
    jobs.drain(..jobs.len().saturating_sub(JOBS));
    let text = aqueduct_dashboard::report(observer, &jobs);
    let written = std::fs::write(path, text);
    written.map_err(|error| ExecutionError::Resource(format!("writing {}: {error}", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_jobs_since_it_was_begun_and_is_written_however_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one.html"), folder.path().join("two.html"));
        let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).without_dashboard();
        let cluster = cluster.start().expect("it starts");
        let count = |name: &str| {
            let numbers = cluster.from_source(name, aqueduct_operators::range("n", Some(1000))).expect("a source");
            assert_eq!(numbers.count().expect("a number"), 1000);
        };
        count("earlier_numbers");
        let report = cluster.performance_report(&one);
        count("within");
        report.finish().expect("it is written");
        let text = std::fs::read_to_string(&one).expect("it is there");
        assert!(text.contains("within") && !text.contains("earlier_numbers") && text.ends_with("</html>\n"));
        assert!(text.contains("logical plan") && text.contains("optimised plan") && text.contains("finished after"));
        let dropped = cluster.performance_report(&two);
        count("dropped");
        drop(dropped);
        assert!(std::fs::read_to_string(&two).expect("it is there").contains("dropped"));
        cluster.report(&two).expect("it is written");
        let all = std::fs::read_to_string(&two).expect("it is there");
        assert!(["earlier_numbers", "within", "dropped", "<title>3 jobs"].iter().all(|name| all.contains(name)));
        let nowhere = folder.path().join("no/such/folder.html");
        let error = cluster.report(&nowhere).expect_err("no folder").to_string();
        assert!(error.contains("folder.html"), "{error}");
    }
}
