//! What was counted between two snapshots of a job.

use std::time::Duration;

use crate::metrics::{EdgeMetrics, JobMetrics, NodeMetrics, TaskMetrics, TaskNodeMetrics};
use crate::plan::NodeRole;

impl JobMetrics {
    /// Rows that its sources have emitted.
    pub fn source_rows(&self) -> u64 {
        self.nodes.iter().filter(|node| node.role == NodeRole::Source).map(|node| node.rows_out).sum()
    }

    /// What was counted since `earlier`, a snapshot of the same job. What is not counted, such as states and bytes
    /// held, is as it is now.
    #[must_use]
    pub fn since(&self, earlier: &JobMetrics) -> JobMetrics {
        let mut window = self.clone();
        take(&mut window.elapsed, earlier.elapsed);
        window.source_bytes_done = window.source_bytes_done.saturating_sub(earlier.source_bytes_done);
        window.nodes.iter_mut().zip(&earlier.nodes).for_each(|(now, before)| now.subtract(before));
        window.edges.iter_mut().zip(&earlier.edges).for_each(|(now, before)| now.subtract(before));
        // A job that waited in line had no tasks.
        window.tasks.iter_mut().zip(&earlier.tasks).for_each(|(now, before)| now.subtract(before));
        for (now, before) in window.workers.iter_mut().zip(&earlier.workers) {
            now.spilled_bytes = now.spilled_bytes.saturating_sub(before.spilled_bytes);
        }
        window
    }
}

fn take(time: &mut Duration, earlier: Duration) {
    *time = time.saturating_sub(earlier);
}

fn less(count: &mut u64, earlier: u64) {
    *count = count.saturating_sub(earlier);
}

impl NodeMetrics {
    fn subtract(&mut self, earlier: &Self) {
        less(&mut self.rows_in, earlier.rows_in);
        less(&mut self.batches_in, earlier.batches_in);
        less(&mut self.rows_out, earlier.rows_out);
        less(&mut self.batches_out, earlier.batches_out);
        less(&mut self.bytes_out, earlier.bytes_out);
        less(&mut self.spilled_bytes, earlier.spilled_bytes);
        take(&mut self.busy, earlier.busy);
        take(&mut self.outside, earlier.outside);
        take(&mut self.disk, earlier.disk);
    }
}

impl EdgeMetrics {
    fn subtract(&mut self, earlier: &Self) {
        less(&mut self.rows, earlier.rows);
        less(&mut self.batches, earlier.batches);
        less(&mut self.bytes, earlier.bytes);
        less(&mut self.spooled_bytes, earlier.spooled_bytes);
        take(&mut self.parked, earlier.parked);
    }
}

impl TaskMetrics {
    fn subtract(&mut self, earlier: &Self) {
        less(&mut self.steps, earlier.steps);
        take(&mut self.running, earlier.running);
        take(&mut self.busy, earlier.busy);
        take(&mut self.idle, earlier.idle);
        take(&mut self.parked, earlier.parked);
        take(&mut self.waiting_for_memory, earlier.waiting_for_memory);
        take(&mut self.blocked, earlier.blocked);
        self.nodes.iter_mut().zip(&earlier.nodes).for_each(|(now, before)| now.subtract(before));
    }

    /// Time that it has been there for.
    pub(crate) fn lifetime(&self) -> Duration {
        self.busy + self.idle + self.parked + self.waiting_for_memory + self.blocked
    }
}

impl TaskNodeMetrics {
    fn subtract(&mut self, earlier: &Self) {
        less(&mut self.rows_in, earlier.rows_in);
        less(&mut self.rows_out, earlier.rows_out);
        less(&mut self.spilled_bytes, earlier.spilled_bytes);
        take(&mut self.busy, earlier.busy);
        take(&mut self.outside, earlier.outside);
        take(&mut self.disk, earlier.disk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::bottleneck::tests::pipeline;

    #[test]
    fn a_window_counts_what_lies_between_its_ends() {
        let earlier = pipeline(1, 1.0);
        let mut later = pipeline(1, 3.0);
        later.nodes[1].rows_in = 700;
        later.nodes[1].state_bytes = 5;
        let mut before = earlier.clone();
        before.nodes[1].rows_in = 200;
        before.nodes[1].state_bytes = 9;
        let window = later.since(&before);
        assert_eq!(window.elapsed, Duration::from_secs(2));
        assert_eq!((window.nodes[1].rows_in, window.nodes[1].state_bytes), (500, 5));
        let from_the_start = later.since(&JobMetrics { tasks: Vec::new(), ..before });
        assert_eq!(from_the_start.tasks.len(), later.tasks.len());
    }
}
