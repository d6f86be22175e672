//! The cluster, the tables and the query of a command.

use std::io::{IsTerminal, Read};
use std::path::Path;

use aqueduct::dashboard::DashboardConfig;
use aqueduct::{Frame, LocalCluster, ProgressFormat};

use crate::arguments::{Query, Workers};
use crate::failure::Failure;

/// Starts a cluster as the options say. Statements show their progress in this format.
pub(crate) fn start(options: &Workers, progress: ProgressFormat) -> Result<LocalCluster, Failure> {
    let mut builder = LocalCluster::builder().progress(progress);
    if let Some(workers) = options.workers {
        builder = builder.workers(workers.get());
    }
    if let Some(threads) = options.threads_per_worker {
        builder = builder.threads_per_worker(threads.get());
    }
    if let Some(limit_bytes) = options.memory_limit {
        builder = builder.memory_limit_bytes(limit_bytes);
    }
    if let Some(folder) = &options.spill_dir {
        builder = builder.spill_dir(folder);
    }
    // A query is over soon: whoever wants to watch it says so.
    builder =
        if options.dashboard { builder.dashboard(DashboardConfig::default()) } else { builder.without_dashboard() };
    let cluster = builder.start()?;
    if let Some(link) = cluster.dashboard_link() {
        eprintln!("watch it at {link}");
    }
    Ok(cluster)
}

/// The text of the query.
pub(crate) fn text(options: &Query) -> Result<String, Failure> {
    let text = match (&options.query, &options.file) {
        (Some(query), _) if query != "-" => query.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).map_err(|error| Failure::io("reading", file, &error))?,
        _ => {
            if std::io::stdin().is_terminal() {
                return Err(Failure::usage("there is no query")
                    .with_hint("write it as an argument: aqueduct sql \"select 1\", or name a file: --file FILE"));
            }
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            read.map_err(|error| Failure::io("reading", Path::new("standard input"), &error))?;
            text
        }
    };
    if text.trim().is_empty() { Err(Failure::usage("the query is empty")) } else { Ok(text) }
}

/// The query as a frame, with its tables registered.
pub(crate) fn frame(cluster: &LocalCluster, options: &Query, sql: &str) -> Result<Frame, Failure> {
    for table in &options.tables {
        cluster.register_table(&table.name, &read(cluster, &table.path)?)?;
    }
    Ok(cluster.sql(sql)?)
}

/// A file, as what its name says that it is: what a query that names it in place would read.
pub(crate) fn read(cluster: &LocalCluster, path: &Path) -> Result<Frame, Failure> {
    let Some(path) = path.to_str() else {
        return Err(Failure::usage(format!("{} is not a text, and cannot be named in a query", path.display())));
    };
    Ok(cluster.sql(format!("select * from '{}'", path.replace('\'', "''")))?)
}
