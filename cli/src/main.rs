//! The command line of Aqueduct: SQL over files, within a memory limit. What it reads it reads once, what it writes it
//! writes as it comes, and it ends with an exit status that says how it went.

use std::process::ExitCode;

use aqueduct::runtime::allocator::CountingAllocator;
use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::interrupt::Interrupt;

mod arguments;
mod command;
mod failure;
mod interrupt;
mod output;
mod session;
mod stats;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn main() -> ExitCode {
    // Ends with status 2, or with 0 for `--help`, where there is nothing to run.
    let arguments = Arguments::parse();
    aqueduct::init_tracing_without_job_errors();
    let interrupt = Interrupt::install();
    let outcome = match &arguments.command {
        Command::Sql(sql) => command::sql(sql, &interrupt),
        Command::Explain(explain) => command::explain(explain),
        Command::Head(head) => command::head(head, &interrupt),
        Command::Schema(schema) => command::schema(schema),
    };
    match (outcome, interrupt.check()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        // What failed after an interrupt failed because of it: its reader was interrupted, too.
        (Err(_), Err(interrupted)) => interrupted.report(),
        (Err(failure), Ok(())) => failure.report(),
    }
}
