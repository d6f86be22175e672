//! What a frame would do, without doing it: the plan as written, as optimised, and as a graph of actors.

use aqueduct_runtime::metrics::Analysis;

use crate::error::Result;
use crate::frame::Frame;
use crate::planner::{self, Planned};
use crate::recursive;
use crate::run;
use crate::stack::on_large_stack;

impl Frame {
    /// The logical plan as written and as optimised, and the actor graph that a job would run.
    ///
    /// # Errors
    ///
    /// The first step that was wrong, and whatever this version cannot run.
    pub fn explain(&self) -> Result<String> {
        let parts = self.explain_parts()?.into_iter().map(|(title, text)| format!("== {title} ==\n{text}"));
        Ok(parts.collect::<Vec<_>>().join("\n\n"))
    }

    /// Runs the frame, drops its rows, and says what each operator did: rows, bytes, time, memory, disk, and which one
    /// held the others up. Blocks the thread. [`Frame::analyze`] has the same as figures and as JSON.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100_000)))?;
    /// let analysis = numbers.filter((col("n") % lit(10)).eq(lit(0))).analyze()?;
    /// println!("{analysis}");
    /// let filter = analysis.operators.iter().find(|operator| operator.kind == "filter").expect("it filters");
    /// assert_eq!((filter.rows_in, filter.rows_out), (100_000, 10_000));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn explain_analyze(&self) -> Result<String> {
        self.analyze().map(|analysis| analysis.to_string())
    }

    /// Runs the frame, drops its rows, and counts what each operator did. Blocks the thread.
    ///
    /// # Errors
    ///
    /// As for [`Frame::compute`].
    pub fn analyze(&self) -> Result<Analysis> {
        run::analyze(self)
    }

    /// The titles and texts of [`Frame::explain`].
    pub(crate) fn explain_parts(&self) -> Result<Vec<(&'static str, String)>> {
        on_large_stack(|| self.explain_parts_here())
    }

    fn explain_parts_here(&self) -> Result<Vec<(&'static str, String)>> {
        let graph = run::plan(self, &self.outlined()?.graph)?.to_string();
        Ok(vec![
            ("logical plan", self.logical_plan()?.display_indent().to_string()),
            ("optimised plan", self.optimized()?.display_indent().to_string()),
            ("actor graph", graph.trim_end().to_string()),
        ])
    }

    /// The actor graph in the language of Graphviz.
    ///
    /// # Errors
    ///
    /// As for [`Frame::explain`].
    pub fn explain_dot(&self) -> Result<String> {
        Ok(run::plan(self, &self.outlined()?.graph)?.to_dot())
    }

    /// The actor graph as a Mermaid flowchart.
    ///
    /// # Errors
    ///
    /// As for [`Frame::explain`].
    pub fn explain_mermaid(&self) -> Result<String> {
        Ok(run::plan(self, &self.outlined()?.graph)?.to_mermaid())
    }

    /// The graph to be shown: where the frame has recursive queries, they come first, in jobs of their own.
    pub(crate) fn outlined(&self) -> Result<Planned> {
        recursive::outlined(self)?.planned()
    }

    /// The graph whose result is this frame's rows.
    pub(crate) fn planned(&self) -> Result<Planned> {
        planner::to_result(&self.optimized()?, run::settings(self)?)
    }
}
