//! What each command does.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use aqueduct::runtime::allocator;

use crate::arguments::{Explain, Head, Schema, Sql, Workers};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Target;
use crate::session;
use crate::stats::{self, Measured};

/// Runs a query, and writes its rows.
pub(crate) fn sql(options: &Sql, interrupt: &Interrupt) -> Result<(), Failure> {
    let output = &options.output;
    let target = Target::new(output.format, output.output.as_deref(), output.rows)?;
    let target = target.with_memory(options.workers.memory_limit);
    let path = target.path().map(Path::to_owned);
    let text = session::text(&options.query)?;
    let cluster = session::start(&options.workers)?;
    allocator::reset_peak();

    let begin = Instant::now();
    let mut writing = Duration::ZERO;
    // A statement that writes a file does so at once.
    let frame = interrupt.cancelling(&cluster, || session::frame(&cluster, &options.query, &text))?;
    let mut rows = frame.stream()?;
    let early = target.shows_rows_early();
    let mut out = target.open()?;
    let mut bar = if options.quiet { None } else { rows.show_progress() };
    while let Some(batch) = interrupt.next(&mut rows)? {
        if early {
            // Rows and a bar do not go together on one terminal.
            bar = None;
        }
        let begin = Instant::now();
        out.write(&batch)?;
        writing += begin.elapsed();
    }
    let elapsed = begin.elapsed();
    drop(bar);
    let written = out.finish(rows.schema())?;
    if let Some(path) = &options.stats {
        let measured = Measured { elapsed, writing, rows: written };
        stats::write(path, &measured, &rows.job().metrics())?;
    }
    if let (Some(path), false) = (path, options.quiet) {
        eprintln!("{written} rows written to {} in {:.2} s", path.display(), elapsed.as_secs_f64());
    }
    Ok(())
}

/// Shows the plan of a query.
pub(crate) fn explain(options: &Explain) -> Result<(), Failure> {
    let text = session::text(&options.query)?;
    let cluster = session::start(&options.workers)?;
    let explained = session::frame(&cluster, &options.query, &text)?.explain()?;
    print(&format!("{explained}\n"))
}

/// Prints the first rows of a file.
pub(crate) fn head(options: &Head, interrupt: &Interrupt) -> Result<(), Failure> {
    // All of them: how many is what the user has said.
    let target = Target::new(Some(options.format), None, Some(0))?;
    let cluster = session::start(&ONE_WORKER)?;
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
    let cluster = session::start(&ONE_WORKER)?;
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
