//! The eight tables, at any scale, as batches or as Parquet files. A table's rows are the same in how many parts
//! soever it is made.

use std::fs::{self, File};
use std::io;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// Rows of a Parquet row group: `lineitem` at scale factor 1 has 50 of them.
const ROW_GROUP_ROWS: usize = 122_880;

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// 6,000,000 rows at scale factor 1.
    LineItem,
    /// 1,500,000 rows at scale factor 1.
    Orders,
    /// 800,000 rows at scale factor 1.
    PartSupp,
    /// 200,000 rows at scale factor 1.
    Part,
    /// 150,000 rows at scale factor 1.
    Customer,
    /// 10,000 rows at scale factor 1.
    Supplier,
    /// 25 rows.
    Nation,
    /// 5 rows.
    Region,
}

/// Batches as a generator makes them.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

impl Table {
    /// All tables, the largest first.
    pub const ALL: [Self; 8] = [
        Self::LineItem,
        Self::Orders,
        Self::PartSupp,
        Self::Part,
        Self::Customer,
        Self::Supplier,
        Self::Nation,
        Self::Region,
    ];

    /// Its name in queries, and that of its file without the extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::LineItem => "lineitem",
            Self::Orders => "orders",
            Self::PartSupp => "partsupp",
            Self::Part => "part",
            Self::Customer => "customer",
            Self::Supplier => "supplier",
            Self::Nation => "nation",
            Self::Region => "region",
        }
    }

    /// Its columns.
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::LineItem => LineItemArrow::schema_ref(),
            Self::Orders => OrderArrow::schema_ref(),
            Self::PartSupp => PartSuppArrow::schema_ref(),
            Self::Part => PartArrow::schema_ref(),
            Self::Customer => CustomerArrow::schema_ref(),
            Self::Supplier => SupplierArrow::schema_ref(),
            Self::Nation => NationArrow::schema_ref(),
            Self::Region => RegionArrow::schema_ref(),
        }
    }

    /// Its rows at a scale factor, in order, in batches of 8,000.
    pub fn batches(self, scale: f64) -> Batches {
        match self {
            Self::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))),
            Self::Orders => Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))),
            Self::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
            Self::Part => Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))),
            Self::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
            Self::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
            Self::Nation => Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))),
            Self::Region => Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
        }
    }

    /// Its file in a folder that [`write_parquet`] has filled.
    pub fn file(self, folder: &Path) -> PathBuf {
        folder.join(self.name()).with_extension("parquet")
    }
}

/// Why the tables could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file could not be written.
    #[error("writing {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The writer refused the rows, or the disk the writer's bytes.
    #[error("writing {path}: {source}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the writer said.
        source: ParquetError,
    },
}

/// Writes the tables to `folder`, one file each, two at a time. A file that is there is left as it is: one has its
/// name only once it is whole.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write_parquet(folder: &Path, scale: f64) -> Result<(), MakeError> {
    fs::create_dir_all(folder).map_err(|source| MakeError::Io { path: folder.into(), source })?;
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(table) = Table::ALL.get(next.fetch_add(1, Relaxed)) {
            write_table(*table, &table.file(folder), scale)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        let own = work();
        own.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn write_table(table: Table, path: &Path, scale: f64) -> Result<(), MakeError> {
    if path.exists() {
        return Ok(());
    }
    // Of this process alone: others may be making the same table.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let io = |source| MakeError::Io { path: path.into(), source };
    let parquet = |source| MakeError::Parquet { path: path.into(), source };
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let file = File::create(&part).map_err(io)?;
    let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties)).map_err(parquet)?;
    for batch in table.batches(scale) {
        let batch = batch.map_err(|error| parquet(error.into()))?;
        writer.write(&batch).map_err(parquet)?;
    }
    writer.close().map_err(parquet)?;
    // A name that somebody else gave to the same rows meanwhile stays theirs: they may be reading.
    let named = fs::hard_link(&part, path);
    fs::remove_file(&part).map_err(io)?;
    match named {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(io(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn a_file_holds_the_rows_that_the_generator_makes() {
        let folder = tempfile::tempdir().expect("a folder");
        write_parquet(folder.path(), 0.001).expect("there is room");
        for table in Table::ALL {
            let made: Vec<RecordBatch> = table.batches(0.001).map(|batch| batch.expect("a batch")).collect();
            let file = File::open(table.file(folder.path())).expect("it was written");
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").with_batch_size(8_000);
            let read: Vec<RecordBatch> =
                reader.build().expect("a reader").map(|batch| batch.expect("a batch")).collect();
            assert_eq!(read, made, "{}", table.name());
        }
        let left = folder.path().read_dir().expect("a folder").count();
        assert_eq!(left, Table::ALL.len());
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let region = Table::Region.file(folder.path());
        fs::write(&region, "mine").expect("there is room");
        write_parquet(folder.path(), 0.001).expect("there is room");
        assert_eq!(fs::read_to_string(region).expect("a file"), "mine");
    }
}
