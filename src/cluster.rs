//! The cluster in this process: what a program starts first. Everything it started is gone when it is closed.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

#[cfg(feature = "dashboard")]
use aqueduct_dashboard::{Dashboard, DashboardConfig};
use aqueduct_operators::Store;
use aqueduct_operators::csv::{CsvOptions, CsvSource};
use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
#[cfg(feature = "dashboard")]
use aqueduct_runtime::ExecutionError;
use aqueduct_runtime::config::machine_memory_bytes;
use aqueduct_runtime::{Cluster, ClusterConfig, SourceSpec, parse_bytes};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion_common::TableReference;
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder};
use parking_lot::Mutex;

use crate::error::Result;
use crate::frame::Frame;
use crate::planner::ScanTable;
use crate::progress::ProgressFormat;
use crate::sql::Catalog;

/// Workers in this process, each with its threads and its memory limit.
///
/// May be started and used from plain `main` and from inside an async runtime. Methods that run a job block the
/// thread, save those that say otherwise. Dropping it closes it.
///
/// It is a runtime [`Cluster`] too, so graphs of one's own run on it: [`Cluster::run`], [`Cluster::plan`].
#[derive(Debug)]
pub struct LocalCluster {
    /// There until the cluster is dropped.
    session: Option<Arc<Session>>,
    #[cfg(feature = "dashboard")]
    dashboard: Option<Dashboard>,
}

/// What a cluster's frames share. They hold it weakly: a cluster that is closed is closed.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) cluster: Cluster,
    pub(crate) progress: ProgressFormat,
    /// How often each table name was given: plans tell tables apart by their names.
    names: Mutex<HashMap<String, usize>>,
    /// What SQL calls the tables.
    pub(crate) catalog: Catalog,
    /// The rows that frames keep on disk.
    kept: Mutex<Vec<Weak<Store>>>,
}

impl LocalCluster {
    /// A cluster to set up: one worker per core, one thread each, limits together 75 % of the memory there is.
    pub fn builder() -> LocalClusterBuilder {
        LocalClusterBuilder::default()
    }

    /// A lazy frame over a CSV file, or over all files that match a pattern such as `logs/*.csv`, compressed
    /// ones included. Reads a sample, to find out the types of the columns.
    ///
    /// # Errors
    ///
    /// If there is no such file, or its beginning is not CSV.
    pub fn read_csv(&self, path: impl AsRef<Path>) -> Result<Frame> {
        self.read_csv_with(path, CsvOptions::default())
    }

    /// As [`LocalCluster::read_csv`], with options: delimiter, header, quotes, spellings of null, a schema, and
    /// what a value does that is not of its column's inferred type.
    ///
    /// # Errors
    ///
    /// As for [`LocalCluster::read_csv`].
    pub fn read_csv_with(&self, path: impl AsRef<Path>, options: CsvOptions) -> Result<Frame> {
        let path = path.as_ref();
        let source = CsvSource::open(path, options)?;
        self.table(stem(path), ScanTable::csv(source))
    }

    /// A lazy frame over a Parquet file, or over all files that match a pattern such as `data/*.parquet`. Reads the
    /// footers, to find out the columns.
    ///
    /// # Errors
    ///
    /// If there is no such file, one is not Parquet, or their columns are not the same.
    pub fn read_parquet(&self, path: impl AsRef<Path>) -> Result<Frame> {
        self.read_parquet_with(path, ParquetOptions::default())
    }

    /// As [`LocalCluster::read_parquet`], with options.
    ///
    /// # Errors
    ///
    /// As for [`LocalCluster::read_parquet`].
    pub fn read_parquet_with(&self, path: impl AsRef<Path>, options: ParquetOptions) -> Result<Frame> {
        let source = ParquetSource::open(path.as_ref(), options)?;
        self.table(stem(path.as_ref()), ScanTable::parquet(source))
    }

    /// A lazy frame over batches in memory.
    ///
    /// # Errors
    ///
    /// If a batch does not have `schema`.
    pub fn from_batches(&self, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Frame> {
        let batches = crate::table::Table::try_new(SchemaRef::clone(&schema), batches)?.into_batches();
        self.table("batches", ScanTable::batches(schema, batches))
    }

    /// A lazy frame over a source of one's own, such as a [`Generator`](crate::operators::Generator), called
    /// `name` in plans and metrics.
    ///
    /// # Errors
    ///
    /// If two of its columns have one name.
    pub fn from_source(&self, name: &str, source: impl SourceSpec) -> Result<Frame> {
        self.table(name, ScanTable::source(source))
    }

    /// A lazy frame over a plan of one's own, whose tables come from [`Frame::logical_plan`] of other frames.
    pub fn frame(&self, plan: LogicalPlan) -> Frame {
        Frame::new(Arc::downgrade(self.session()), plan)
    }

    /// What to open in a browser to see what the cluster does; `None` if it is not served.
    ///
    /// ```no_run
    /// # fn main() -> aqueduct::Result<()> {
    /// # use aqueduct::LocalCluster;
    /// let cluster = LocalCluster::builder().start()?;
    /// println!("watch it at {}", cluster.dashboard_link().unwrap_or("nowhere"));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "dashboard")]
    pub fn dashboard_link(&self) -> Option<&str> {
        self.dashboard.as_ref().map(Dashboard::link)
    }

    /// Ends all jobs, and returns when all threads have ended and all files are gone. Silent, and under half a
    /// second.
    pub fn close(self) {}

    fn table(&self, name: &str, table: ScanTable) -> Result<Frame> {
        self.session().table(name, table)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        self.session.as_ref().expect("the session is taken by drop alone")
    }
}

/// What a file's table is called: its name before the first dot.
fn stem(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()).unwrap_or_default()
}

impl Session {
    /// A frame over a table, called `name` in plans and metrics.
    pub(crate) fn table(self: &Arc<Self>, name: &str, table: ScanTable) -> Result<Frame> {
        let name = self.unique_name(name);
        let plan = LogicalPlanBuilder::scan(TableReference::bare(name), Arc::new(table), None)?.build()?;
        Ok(Frame::new(Arc::downgrade(self), plan))
    }

    /// Has the files of a store go when the cluster closes, whoever holds it then.
    pub(crate) fn keep(&self, store: Store) -> Arc<Store> {
        let store = Arc::new(store);
        let mut kept = self.kept.lock();
        kept.retain(|kept| kept.strong_count() > 0);
        kept.push(Arc::downgrade(&store));
        store
    }

    fn close(self) {
        let Self { cluster, kept, .. } = self;
        cluster.close();
        kept.into_inner().iter().filter_map(Weak::upgrade).for_each(|store| store.clear());
    }

    fn unique_name(&self, name: &str) -> String {
        let name = if name.is_empty() { "table" } else { name };
        let mut names = self.names.lock();
        let given = names.entry(name.into()).or_default();
        *given += 1;
        match *given {
            1 => name.into(),
            again => format!("{name}#{again}"),
        }
    }
}

impl Deref for LocalCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.session().cluster
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        #[cfg(feature = "dashboard")]
        drop(self.dashboard.take());
        let Some(mut session) = self.session.take() else { return };
        // Frames hold on to the session while they hand a graph over, no longer, and on other threads at that.
        loop {
            match Arc::try_unwrap(session) {
                Ok(session) => return session.close(),
                Err(shared) => session = shared,
            }
            std::thread::yield_now();
        }
    }
}

/// How a [`LocalCluster`] is to be set up.
#[derive(Debug, Clone)]
#[must_use = "call `start`"]
pub struct LocalClusterBuilder {
    workers: Option<usize>,
    threads_per_worker: Option<usize>,
    memory_limit: Option<Size>,
    spill_dir: Option<PathBuf>,
    spill_limit: Option<Size>,
    spill_compression: bool,
    progress: ProgressFormat,
    #[cfg(feature = "dashboard")]
    dashboard: Watch,
}

/// Whether there is a dashboard.
#[cfg(feature = "dashboard")]
#[derive(Debug, Clone)]
enum Watch {
    /// If it can be had.
    Tried,
    /// As it was asked for, or the cluster does not start.
    Wanted(DashboardConfig),
    Off,
}

#[cfg(feature = "dashboard")]
impl Watch {
    fn start(self, cluster: &Cluster) -> Result<Option<Dashboard>> {
        match self {
            Self::Off => Ok(None),
            Self::Wanted(config) => match Dashboard::start(cluster.observer(), config) {
                Ok(dashboard) => Ok(Some(dashboard)),
                Err(error) => Err(ExecutionError::Resource(error.to_string()).into()),
            },
            Self::Tried => {
                let dashboard = Dashboard::start(cluster.observer(), DashboardConfig::default());
                Ok(dashboard.inspect_err(|error| tracing::warn!(%error, "there is no dashboard")).ok())
            }
        }
    }
}

/// A size as it was given: text is read when the cluster starts, so that the builder need not fail.
#[derive(Debug, Clone)]
enum Size {
    Bytes(usize),
    Text(String),
}

impl Size {
    fn bytes(self) -> Result<usize> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => Ok(parse_bytes(&text)?),
        }
    }
}

impl Default for LocalClusterBuilder {
    fn default() -> Self {
        Self {
            workers: None,
            threads_per_worker: None,
            memory_limit: None,
            spill_dir: None,
            spill_limit: None,
            spill_compression: false,
            progress: ProgressFormat::default(),
            #[cfg(feature = "dashboard")]
            dashboard: Watch::Tried,
        }
    }
}

impl LocalClusterBuilder {
    /// Number of workers: groups of threads with one memory limit each. One per core unless set.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Threads of each worker. One unless set.
    pub fn threads_per_worker(mut self, threads: usize) -> Self {
        self.threads_per_worker = Some(threads);
        self
    }

    /// Memory limit of each worker, such as `2GB` or `512MiB`. Unless set, the limits of all workers together
    /// are 75 % of the smaller of the machine's memory and the cgroup's limit.
    pub fn memory_limit(mut self, limit: impl Into<String>) -> Self {
        self.memory_limit = Some(Size::Text(limit.into()));
        self
    }

    /// Memory limit of each worker, in bytes.
    pub fn memory_limit_bytes(mut self, limit_bytes: usize) -> Self {
        self.memory_limit = Some(Size::Bytes(limit_bytes));
        self
    }

    /// Where state goes that does not fit: a folder on a disk. The system's temporary folder unless set.
    pub fn spill_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spill_dir = Some(folder.into());
        self
    }

    /// What all spill files may take together, such as `10GB`. No limit unless set.
    pub fn spill_limit(mut self, limit: impl Into<String>) -> Self {
        self.spill_limit = Some(Size::Text(limit.into()));
        self
    }

    /// Whether spill files are compressed with LZ4: for slow disks. Off unless set.
    pub fn spill_compression(mut self, compress: bool) -> Self {
        self.spill_compression = compress;
        self
    }

    /// How the progress of jobs is shown on standard error: by a bar, where that is a terminal, unless set. `false`
    /// shows nothing, [`ProgressFormat::Json`] writes lines for programs.
    pub fn progress(mut self, progress: impl Into<ProgressFormat>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Serves a page that shows what the cluster does as `config` says: at another port or address, with a token. The
    /// cluster does not start if that cannot be had. Unless set, it is served on loopback, at port 8787 or the next that
    /// is free, if one is.
    #[cfg(feature = "dashboard")]
    pub fn dashboard(mut self, config: DashboardConfig) -> Self {
        self.dashboard = Watch::Wanted(config);
        self
    }

    /// Serves no page.
    #[cfg(feature = "dashboard")]
    pub fn without_dashboard(mut self) -> Self {
        self.dashboard = Watch::Off;
        self
    }

    /// Starts the cluster.
    ///
    /// # Errors
    ///
    /// If a size cannot be read, a number makes no sense, or threads and folders cannot be had.
    pub fn start(self) -> Result<LocalCluster> {
        let progress = self.progress;
        #[cfg(feature = "dashboard")]
        let watch = self.dashboard.clone();
        let cluster = Cluster::start(self.config()?)?;
        #[cfg(feature = "dashboard")]
        let dashboard = watch.start(&cluster)?;
        let session =
            Session { cluster, progress, names: Mutex::default(), catalog: Catalog::default(), kept: Mutex::default() };
        Ok(LocalCluster {
            session: Some(Arc::new(session)),
            #[cfg(feature = "dashboard")]
            dashboard,
        })
    }

    fn config(self) -> Result<ClusterConfig> {
        let mut config = ClusterConfig::default();
        if let Some(workers) = self.workers {
            config.workers = workers;
            config.memory_limit_bytes = machine_memory_bytes() / 4 * 3 / workers.max(1);
        }
        if let Some(limit) = self.memory_limit {
            config.memory_limit_bytes = limit.bytes()?;
        }
        config.threads_per_worker = self.threads_per_worker.unwrap_or(config.threads_per_worker);
        config.spill_dir = self.spill_dir.or(config.spill_dir);
        if let Some(limit) = self.spill_limit {
            config.spill_limit_bytes = Some(limit.bytes()? as u64);
        }
        config.spill_compression = self.spill_compression;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_when_the_cluster_starts() {
        let config = LocalCluster::builder().workers(4).memory_limit("2GB").spill_limit("10GiB").config();
        let config = config.expect("good sizes");
        assert_eq!((config.workers, config.memory_limit_bytes), (4, 2_000_000_000));
        assert_eq!(config.spill_limit_bytes, Some(10 << 30));
        let error = LocalCluster::builder().memory_limit("2 gigs").config().expect_err("not a size").to_string();
        assert!(error.contains("2 gigs") && error.contains("2GB"), "{error}");
    }

    #[cfg(feature = "dashboard")]
    #[test]
    fn a_dashboard_is_served_unless_it_is_switched_off_and_ends_with_the_cluster() {
        use std::io::{Read, Write};

        let small = || LocalCluster::builder().workers(1).memory_limit("64MiB").progress(false);
        let off = small().without_dashboard().start().expect("it starts");
        assert_eq!(off.dashboard_link(), None);
        assert!(small().start().expect("it starts").dashboard_link().is_some());
        // At a port that no other test takes next.
        let cluster = small().dashboard(DashboardConfig::default().port(0)).start().expect("it starts");
        let link = cluster.dashboard_link().expect("it is served");
        let host = link.trim_start_matches("http://").trim_end_matches('/').to_string();
        let mut stream = std::net::TcpStream::connect(&host).expect("it listens");
        write!(stream, "GET /health HTTP/1.0\r\nhost: {host}\r\n\r\n").expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
        let port = host.split(':').nth(1).and_then(|port| port.parse().ok()).expect("a port");
        let error = small().dashboard(DashboardConfig::default().port(port)).start().expect_err("in use").to_string();
        assert!(error.contains(&host), "{error}");
        let start = std::time::Instant::now();
        cluster.close();
        assert!(start.elapsed() < std::time::Duration::from_millis(500), "{:?}", start.elapsed());
        std::net::TcpStream::connect(&host).expect_err("nobody listens");
    }

    #[test]
    fn unset_limits_share_the_machine_among_the_workers() {
        let config = LocalCluster::builder().workers(64).config().expect("defaults are good");
        assert!(64 * config.memory_limit_bytes <= machine_memory_bytes() / 4 * 3);
    }
}
