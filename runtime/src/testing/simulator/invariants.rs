//! What has to hold once all is over: one right error or none, every row where it belongs, and nothing left.

use std::collections::BTreeMap;

use super::compare::Rows;
use super::job::{Reading, SimulatedJob};
use super::report::{Rule, Run, Violation};
use super::run::Simulator;
use super::scenario::Fault;
use super::watched::{Happened, injected};
use crate::error::{ExecutionError, Place};
use crate::graph::Exchange;
use crate::metrics::JobMetrics;
use crate::plan::{Order, Plan};

fn broken<T>(rule: Rule, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation::new(rule, detail.into()))
}

/// Checks how each job ended, and what it gave.
pub(super) fn check_ended(
    simulator: &mut Simulator<'_>,
    reference: Option<&Run>,
    any_rows: bool,
) -> Result<Vec<Run>, Violation> {
    let happened = simulator.world.happened();
    for happened in &happened {
        *simulator.facts.faults.entry(happened.fault.name()).or_default() += 1;
    }
    simulator.facts.disk_bytes = simulator.disk.bytes_written();
    let mut runs = Vec::new();
    for index in 0..simulator.jobs.len() {
        let done = simulator.world.done_nodes(index);
        let faults = &simulator.scenario.faults;
        let job = &mut simulator.jobs[index];
        let error = job.core.error().cloned();
        let mine: Vec<Happened> =
            happened.iter().filter(|happened| happened.job.is_none_or(|job| job == index)).cloned().collect();
        check_error(error.as_ref(), &mine, faults)?;
        check_told(job, error.as_ref(), &mine)?;
        let metrics = job.core.metrics();
        match &error {
            None => simulator.facts.finished += 1,
            Some(ExecutionError::Cancelled) => simulator.facts.cancelled += 1,
            Some(_) => simulator.facts.failed += 1,
        }
        simulator.facts.spooled_bytes += metrics.edges.iter().map(|edge| edge.spooled_bytes).sum::<u64>();
        simulator.facts.deadlocks += metrics.deadlocks.len() as u64;
        let mut run = Run { error, metrics, results: BTreeMap::new(), sinks: BTreeMap::new() };
        check_sinks(job, &mut run)?;
        if run.error.is_none() {
            if !job.is_left {
                check_edges(&job.core.plan, job, &run.metrics, &done)?;
            }
            take_results(job, &mut run)?;
            if let Some(reference) = reference.filter(|_| !any_rows) {
                check_rows(&job.core.plan, &run, reference)?;
            }
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Checks that the job failed if it was to fail, of what it was to fail of.
fn check_error(error: Option<&ExecutionError>, happened: &[Happened], faults: &[Fault]) -> Result<(), Violation> {
    let is_must = |happened: &&Happened| {
        matches!(
            happened.fault,
            Fault::Error { .. }
                | Fault::Panic { .. }
                | Fault::PanicInDrop { .. }
                | Fault::Cancel { .. }
                | Fault::DropJob { .. }
        )
    };
    let first = happened.iter().find(is_must);
    let Some(error) = error else {
        return match first {
            Some(first) => broken(Rule::MissingError, format!("the job ended well, in spite of {:?}", first.fault)),
            None => Ok(()),
        };
    };
    // A disk may fail of what nobody wants any more: then it need not be the error, but it may be.
    let of_disk = happened.iter().any(|happened| happened.job.is_none())
        || faults.iter().any(|fault| matches!(fault, Fault::SpillLimit { .. }));
    if of_disk && is_of_disk(error) {
        return Ok(());
    }
    match first {
        Some(first) if is_of(error, first) => Ok(()),
        Some(first) => broken(
            Rule::UnexpectedError,
            format!("`{error}` instead of that of {:?} at {:?}", first.fault, first.place),
        ),
        None => broken(Rule::UnexpectedError, format!("`{error}`")),
    }
}

fn is_of_disk(error: &ExecutionError) -> bool {
    let text = error.to_string();
    matches!(error, ExecutionError::Operator { .. })
        && ["os error 28", "os error 5", "is damaged", "spill limit"].iter().any(|known| text.contains(known))
}

fn is_of(error: &ExecutionError, happened: &Happened) -> bool {
    let at = |place: &Place| {
        happened.place.as_ref().is_none_or(|(node, partition)| {
            *node == place.node && partition.is_none_or(|partition| partition == place.partition)
        })
    };
    match (error, happened.fault) {
        (ExecutionError::Operator { at: place, cause }, Fault::Error { call }) => {
            at(place) && cause.to_string() == injected(call)
        }
        (ExecutionError::Panic { at: place, message }, Fault::Panic { call }) => {
            at(place) && *message == injected(call)
        }
        // Its place is that of the node whose code ran last.
        (ExecutionError::Panic { message, .. }, Fault::PanicInDrop { drop }) => *message == injected(drop),
        (ExecutionError::Cancelled, Fault::Cancel { .. } | Fault::DropJob { .. }) => true,
        _ => false,
    }
}

/// Checks that whoever reads a result or waits for the job hears of its error, and of no other.
fn check_told(job: &mut SimulatedJob, error: Option<&ExecutionError>, happened: &[Happened]) -> Result<(), Violation> {
    let expected = error.map(ToString::to_string);
    for reader in &job.readers {
        let found: Vec<String> = reader.errors.iter().map(ToString::to_string).collect();
        // The job may have ended well before its last rows could not be read.
        let of_disk = happened.iter().any(|happened| happened.job.is_none());
        if error.is_none() && of_disk && reader.errors.len() == 1 && is_of_disk(&reader.errors[0]) {
            continue;
        }
        // A stream that was read to its end before the job failed has heard nothing.
        if found.len() > 1 || found.first().is_some_and(|found| Some(found) != expected.as_ref()) {
            let detail = format!("a result said {found:?}, and the job {expected:?}");
            return broken(Rule::Errors, detail);
        }
    }
    if let Some(waited) = job.job.take() {
        let found = waited.wait().err().map(|error| error.to_string());
        if found != expected {
            return broken(Rule::Errors, format!("waiting for the job said {found:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

fn check_sinks(job: &SimulatedJob, run: &mut Run) -> Result<(), Violation> {
    for (&node, record) in job.records.lock().iter() {
        let plan = &job.core.plan;
        let name = plan.nodes[node].name.to_string();
        let (commits, aborts) = (record.commits, record.aborts);
        let right = match run.error {
            None => (commits, aborts) == (1, 0),
            // Another sink's commit may be what has failed.
            Some(_) => commits <= 1 && aborts == 1,
        };
        if !right {
            let how = if run.error.is_none() { "well" } else { "with an error" };
            let detail = format!("the job ended {how}; sink `{name}` had {commits} commits and {aborts} aborts");
            return broken(Rule::Commit, detail);
        }
        if run.error.is_none() {
            let rows = Rows::of(&plan.nodes[node].inputs[0], &record.batches);
            let rows = rows.map_err(|detail| Violation::new(Rule::WrongRows, detail))?;
            run.sinks.insert(node, (name, rows));
        }
    }
    Ok(())
}

/// Checks that what left a node has come to the next, unless that one wanted no more.
fn check_edges(plan: &Plan, job: &SimulatedJob, metrics: &JobMetrics, done: &[usize]) -> Result<(), Violation> {
    for stage in &plan.stages {
        let stopped = stage.outputs.iter().any(|edge| job.stopped_edges.contains(edge));
        let takes_all = !stopped && stage.nodes.iter().all(|node| !done.contains(node));
        let name = |node: usize| &plan.nodes[node].name;
        if takes_all {
            for pair in stage.nodes.windows(2) {
                let (out, into) = (metrics.nodes[pair[0]].rows_out, metrics.nodes[pair[1]].rows_in);
                if out != into {
                    let detail = format!("`{}` gave {out} rows and `{}` took {into}", name(pair[0]), name(pair[1]));
                    return broken(Rule::EdgeRows, detail);
                }
            }
            let (first, sent) =
                (stage.nodes[0], stage.inputs.iter().map(|&edge| metrics.edges[edge].rows).sum::<u64>());
            let taken = metrics.nodes[first].rows_in;
            if !stage.inputs.is_empty() && sent != taken {
                return broken(Rule::EdgeRows, format!("`{}` was sent {sent} rows and took {taken}", name(first)));
            }
        }
        let Some(&last) = stage.nodes.last() else { continue };
        let mut by_output: BTreeMap<usize, u64> = BTreeMap::new();
        for &index in stage.outputs.iter().filter(|_| !stopped) {
            let edge = &plan.edges[index];
            let copies = if edge.exchange == Exchange::Broadcast { edge.receivers as u64 } else { 1 };
            let (rows, name) = (metrics.edges[index].rows / copies, name(last));
            let other = *by_output.entry(edge.output).or_insert(rows);
            if rows != other || !metrics.edges[index].rows.is_multiple_of(copies) {
                let detail = format!("output {} of `{name}` sent {rows} rows here and {other} there", edge.output);
                return broken(Rule::EdgeRows, detail);
            }
        }
        let (sent, out) = (by_output.values().sum::<u64>(), metrics.nodes[last].rows_out);
        if !stopped && by_output.len() == plan.nodes[last].outputs.len() && !stage.outputs.is_empty() && sent != out {
            return broken(Rule::EdgeRows, format!("`{}` gave {out} rows and sent {sent}", name(last)));
        }
    }
    for reader in job.readers.iter().filter(|reader| reader.state == Reading::Ended) {
        let edges = plan.edges.iter().zip(&metrics.edges).filter(|(edge, _)| edge.to == reader.node);
        let sent: u64 = edges.map(|(_, metrics)| metrics.rows).sum();
        let read: u64 = reader.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if sent != read {
            let name = &plan.nodes[reader.node].name;
            return broken(Rule::EdgeRows, format!("the caller was sent {sent} rows of `{name}` and read {read}"));
        }
    }
    Ok(())
}

fn take_results(job: &mut SimulatedJob, run: &mut Run) -> Result<(), Violation> {
    let plan = &job.core.plan;
    for reader in job.readers.iter_mut().filter(|reader| reader.state == Reading::Ended) {
        let node = &plan.nodes[reader.node];
        let rows = Rows::of(&node.inputs[0], &std::mem::take(&mut reader.batches));
        let rows = rows.map_err(|detail| Violation::new(Rule::WrongRows, detail))?;
        run.results.insert(reader.node, (node.name.to_string(), rows));
    }
    Ok(())
}

fn check_rows(plan: &Plan, run: &Run, reference: &Run) -> Result<(), Violation> {
    let is_ordered = |node: usize| {
        let edge = plan.edges.iter().find(|edge| edge.to == node);
        edge.is_some_and(|edge| edge.ordered && plan.stages[edge.from_stage].order != Order::Partition)
    };
    let results = run.results.iter().map(|(node, found)| (found, reference.results.get(node), is_ordered(*node)));
    let sinks = run.sinks.iter().map(|(node, found)| (found, reference.sinks.get(node), false));
    for ((name, found), expected, ordered) in results.chain(sinks) {
        if let Some(difference) = expected.and_then(|(_, expected)| found.differ(expected, ordered)) {
            return broken(Rule::WrongRows, format!("`{name}`: {difference}"));
        }
    }
    Ok(())
}

/// Lets go of everything and checks that nothing is left: permits, memory, files.
pub(super) fn check_clean(simulator: &mut Simulator<'_>) -> Result<(), Violation> {
    let jobs = std::mem::take(&mut simulator.jobs);
    for SimulatedJob { core, job, tasks, ports, readers, records, .. } in jobs {
        drop((job, readers, tasks, records));
        for (edge, port) in ports.iter().enumerate().flat_map(|(edge, ports)| ports.iter().map(move |p| (edge, p))) {
            if let Some(left) = port.left_over() {
                let to = &core.plan.nodes[core.plan.edges[edge].to].name;
                return broken(Rule::Permit, format!("a port of `{to}`: {left}"));
            }
        }
    }
    simulator.drain_queues();
    for (worker, pool) in simulator.pools.iter().enumerate() {
        if pool.charged() > 0 {
            let mut detail = format!("{} bytes of worker {worker} are still charged", pool.charged());
            for (name, held, _) in pool.accounts() {
                detail += &format!("\n    `{name}` holds {held} bytes");
            }
            return broken(Rule::Leak, detail);
        }
    }
    let files = simulator.disk.files();
    if !files.is_empty() || simulator.dir_bytes() > 0 {
        let detail = format!("{} bytes in {files:?}", simulator.dir_bytes());
        return broken(Rule::FileLeft, detail);
    }
    Ok(())
}
