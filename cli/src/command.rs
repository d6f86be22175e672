//! What each command does.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aqueduct::runtime::allocator;
use aqueduct::{LocalCluster, ProgressFormat};

use crate::arguments::{Explain, Head, Schema, Sql, Workers};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Target;
use crate::session;
use crate::stats::{self, Measured};

/// Runs a query, writes its rows, and tells what it did.
pub(crate) fn sql(options: &Sql, interrupt: &Interrupt) -> Result<(), Failure> {
    let output = &options.output;
    let target = Target::new(output.format, output.output.as_deref(), output.rows)?;
    let target = target.with_memory(options.workers.memory_limit);
    let text = session::text(&options.query)?;
    let cluster = session::start(&options.workers, options.progress())?;
    allocator::reset_peak();
    let ran = run(options, target, &text, &cluster, interrupt);
    // Of a query that failed there is all the more to be told.
    let told = match &options.report {
        Some(path) if !cluster.observer().jobs().is_empty() => cluster.report(path).map_err(Failure::from),
        _ => Ok(()),
    };
    ran.and(told)
}

fn run(
    options: &Sql,
    target: Target,
    text: &str,
    cluster: &LocalCluster,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let path = target.path().map(Path::to_owned);
    let begin = Instant::now();
    let mut writing = Duration::ZERO;
    // A statement that writes a file does so at once.
    let frame = interrupt.cancelling(cluster, || session::frame(cluster, &options.query, text))?;
    let mut rows = frame.stream()?;
    let mut progress = rows.show_progress(options.progress());
    // Rows and a bar do not go together on one terminal.
    let bar_vanishes = target.shows_rows_early() && options.progress() == ProgressFormat::Bar;
    let write = || -> Result<(u64, Duration), Failure> {
        let mut out = target.open()?;
        while let Some(batch) = interrupt.next(&mut rows)? {
            if bar_vanishes {
                progress = None;
            }
            let begin = Instant::now();
            out.write(&batch)?;
            writing += begin.elapsed();
        }
        let elapsed = begin.elapsed();
        Ok((out.finish(rows.schema())?, elapsed))
    };
    let written = write();
    let monitor = rows.job().monitor();
    if written.is_ok() {
        // All was read, so it ends by itself.
        monitor.wait();
    }
    // One whose rows are not wanted any more ends, too.
    drop(rows);
    if options.report.is_some() {
        monitor.wait();
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    let (written, elapsed) = written?;
    if let Some(path) = &options.stats {
        let measured = Measured { elapsed, writing, rows: written };
        stats::write(path, &measured, &monitor.metrics())?;
    }
    if let (Some(path), false) = (path, options.quiet || options.progress() == ProgressFormat::Json) {
        eprintln!("{written} rows written to {} in {:.2} s", path.display(), elapsed.as_secs_f64());
    }
    Ok(())
}

/// Shows the plan of a query.
pub(crate) fn explain(options: &Explain) -> Result<(), Failure> {
    let text = session::text(&options.query)?;
    let cluster = session::start(&options.workers, ProgressFormat::Hidden)?;
    let explained = session::frame(&cluster, &options.query, &text)?.explain()?;
    print(&format!("{explained}\n"))
}

/// Prints the first rows of a file.
pub(crate) fn head(options: &Head, interrupt: &Interrupt) -> Result<(), Failure> {
    // All of them: how many is what the user has said.
    let target = Target::new(Some(options.format), None, Some(0))?;
    let cluster = session::start(&ONE_WORKER, ProgressFormat::Hidden)?;
    let mut rows = session::read(&cluster, &options.file)?.limit(options.lines).stream()?;
    let mut out = target.open()?;
    while let Some(batch) = interrupt.next(&mut rows)? {
        out.write(&batch)?;
    }
    out.finish(rows.schema())?;
    Ok(())
}

/// Prints the columns of a file.
pub(crate) fn schema(options: &Schema) -> Result<(), Failure> {
    let cluster = session::start(&ONE_WORKER, ProgressFormat::Hidden)?;
    let schema = session::read(&cluster, &options.file)?.schema()?;
    let name_width = schema.fields().iter().map(|field| field.name().len()).max().unwrap_or(0);
    let line = |field: &std::sync::Arc<aqueduct::arrow::datatypes::Field>| {
        let null = if field.is_nullable() { "" } else { " not null" };
        format!("{:name_width$}  {}{null}\n", field.name(), field.data_type())
    };
    print(&schema.fields().iter().map(line).collect::<String>())
}

/// A look at a file takes no more.
const ONE_WORKER: Workers = Workers {
    workers: std::num::NonZeroUsize::new(1),
    threads_per_worker: None,
    memory_limit: None,
    spill_dir: None,
    dashboard: false,
};

/// Prints a text that is there already.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| Failure::io("writing", Path::new("standard output"), &error))
}
