//! A plan as text, DOT and Mermaid: all of it is its shape's.

use std::fmt;

use crate::plan::Plan;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape().fmt(f)
    }
}

impl Plan {
    /// The plan in the DOT language of Graphviz: nodes boxed by stage, edges with their exchange.
    pub fn to_dot(&self) -> String {
        self.shape().to_dot()
    }

    /// The plan as a Mermaid flowchart.
    pub fn to_mermaid(&self) -> String {
        self.shape().to_mermaid()
    }
}
