//! What counting costs: the same updates that a step and a batch make, again and again, with nothing between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::actor::SystemClock;
use crate::metrics::{EdgeCounters, NodeCounters, add, add_time};
use crate::observe::LifeRecorder;
use crate::task::{Clock, TaskShared, Waiting};

/// Time that a step's counting takes, and that of a batch, on average over `times`.
///
/// A step reads the clock, books what the task did before and does now, and adds to the life of the job. A batch adds its
/// rows and bytes where it comes from, on its edge, and where it goes to, and reads the clock around the operator's code.
pub fn counting_cost(times: u32) -> (Duration, Duration) {
    let clock = SystemClock::new();
    let counters = Arc::new(NodeCounters::default());
    let task = TaskShared::new(0, 0, 0, vec![(Arc::from("node"), Arc::clone(&counters))]);
    let life = LifeRecorder::new(1);
    life.begin(clock.now());
    let begun = Instant::now();
    for _ in 0..times {
        let start = clock.now();
        task.set_waiting(Waiting::Running, start);
        add(&task.counters.steps, 1);
        let end = clock.now();
        add_time(&task.counters.running_ns, end.saturating_sub(start));
        life.add_step(0, 0, (start, end), 1);
        task.set_waiting(Waiting::Input(Vec::new()), end);
    }
    let step = begun.elapsed() / times;
    let edge = EdgeCounters::default();
    let begun = Instant::now();
    for _ in 0..times {
        let start = clock.now();
        task.enter(0);
        for counter in [&counters.rows_in, &counters.batches_in, &counters.rows_out, &counters.batches_out] {
            add(counter, 1);
        }
        for counter in [&counters.bytes_out, &edge.rows, &edge.batches, &edge.bytes] {
            add(counter, 1);
        }
        add_time(&counters.busy_ns, clock.now().saturating_sub(start));
    }
    (step, begun.elapsed() / times)
}
