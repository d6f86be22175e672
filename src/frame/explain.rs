//! What a frame would do, without doing it: the plan as written, as optimised, and as a graph of actors.

use crate::error::Result;
use crate::frame::Frame;
use crate::planner::{self, Planned};
use crate::run;

impl Frame {
    /// The logical plan as written and as optimised, and the actor graph that a job would run.
    ///
    /// # Errors
    ///
    /// The first step that was wrong, and whatever this version cannot run.
    pub fn explain(&self) -> Result<String> {
        let written = self.logical_plan()?;
        let optimized = self.optimized()?;
        let graph = run::plan(self, &self.planned()?.graph)?;
        Ok(format!(
            "== logical plan ==\n{}\n\n== optimised plan ==\n{}\n\n== actor graph ==\n{}",
            written.display_indent(),
            optimized.display_indent(),
            graph.to_string().trim_end(),
        ))
    }

    /// The actor graph in the language of Graphviz.
    ///
    /// # Errors
    ///
    /// As for [`Frame::explain`].
    pub fn explain_dot(&self) -> Result<String> {
        Ok(run::plan(self, &self.planned()?.graph)?.to_dot())
    }

    /// The actor graph as a Mermaid flowchart.
    ///
    /// # Errors
    ///
    /// As for [`Frame::explain`].
    pub fn explain_mermaid(&self) -> Result<String> {
        Ok(run::plan(self, &self.planned()?.graph)?.to_mermaid())
    }

    /// The graph whose result is this frame's rows.
    pub(crate) fn planned(&self) -> Result<Planned> {
        planner::to_result(&self.optimized()?)
    }
}
