//! The jobs whose failpoints are tried: each bundled operator, with more rows than its memory holds where it keeps any.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, Int64Array, ListArray, StringViewArray};
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::arrow::record_batch::RecordBatch;
use aqueduct::operators::Generator;
use aqueduct::prelude::*;
use aqueduct::runtime::operator::Map;
use aqueduct_chaos::Digest;

const ROWS: u64 = 12_000;
const FEW_ROWS: u64 = 2_000;
const BATCH_ROWS: u64 = 500;

type Run = dyn Fn(&Tables) -> aqueduct::Result<Digest> + Send + Sync;

/// A job: what it is called, and how it is run.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Box<Run>,
}

/// The tables that jobs read, in one cluster.
pub(crate) struct Tables {
    pub(crate) cluster: LocalCluster,
    folder: PathBuf,
}

/// Rows `places`: what one holds depends on its place alone. One key in nine is null.
fn rows(places: std::ops::Range<u64>) -> RecordBatch {
    let mixed = |place: u64| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as i64;
    let text = |place: u64| format!("größer als zwölf Bytes: {} ", mixed(place) % 5_000).repeat(2 + place as usize % 4);
    let number = |of: fn(i64) -> i64| Int64Array::from_iter_values(places.clone().map(|place| of(mixed(place))));
    let key = |place: u64| (!place.is_multiple_of(9)).then(|| mixed(place) % 6_000);
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from_iter_values(places.clone().map(|place| place as i64)))),
        ("k", Arc::new(places.clone().map(key).collect::<Int64Array>())),
        ("v", Arc::new(number(|mixed| mixed % 97))),
        ("t", Arc::new(StringViewArray::from_iter_values(places.clone().map(text)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name == "k")))
        .expect("columns of one length")
}

fn batches(count: u64) -> Vec<RecordBatch> {
    (0..count / BATCH_ROWS).map(|batch| rows(batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS)).collect()
}

/// Writes the files that jobs read: once for all of them.
pub(crate) fn write_files(folder: &Path) {
    let cluster = LocalCluster::builder().workers(1).memory_limit("256MB").progress(false).start().expect("a cluster");
    let table = cluster.from_batches(rows(0..0).schema(), batches(ROWS)).expect("a table");
    let csv = folder.join("rows.csv");
    table.write_csv(&csv).expect("written");
    table.write_parquet(folder.join("rows.parquet")).expect("written");
    let file = std::fs::File::create(folder.join("rows.csv.gz")).expect("a file");
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(&std::fs::read(csv).expect("the text")).expect("written");
    gzip.finish().expect("written");
}

impl Tables {
    pub(crate) fn open(folder: &Path, memory_limit_bytes: usize) -> aqueduct::Result<Self> {
        let builder = LocalCluster::builder().workers(2).memory_limit_bytes(memory_limit_bytes).progress(false);
        let cluster = builder.without_dashboard().start()?;
        let schema = rows(0..0).schema();
        cluster.register_table("rows", &cluster.from_batches(Arc::clone(&schema), batches(ROWS))?)?;
        cluster.register_table("few", &cluster.from_batches(schema, batches(FEW_ROWS))?)?;
        cluster.register_table("parquet_rows", &cluster.read_parquet(folder.join("rows.parquet"))?)?;
        Ok(Self { cluster, folder: folder.to_path_buf() })
    }

    fn read(&self, frame: &Frame, ordered: bool) -> aqueduct::Result<Digest> {
        let mut digest = Digest::new(ordered);
        for batch in frame.stream()? {
            digest.add(&batch?);
        }
        Ok(digest)
    }

    /// Writes a file by `write` over one that is there, which a failure leaves as it was and a success replaces.
    fn written(
        &self,
        name: &str,
        write: impl FnOnce(&Frame, &Path) -> aqueduct::Result<u64>,
        read: impl FnOnce(&Path) -> aqueduct::Result<Frame>,
    ) -> aqueduct::Result<Digest> {
        let folder = tempfile::tempdir_in(&self.folder).expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, "as it was").expect("written");
        let ended = write(&self.cluster.sql("select * from rows where v > 5")?, &path);
        let names = std::fs::read_dir(folder.path()).expect("the folder").count();
        assert_eq!(names, 1, "{name}: something is left beside it");
        if let Err(error) = ended {
            assert_eq!(std::fs::read(&path).expect("the file"), b"as it was", "{name} after {error}");
            return Err(error);
        }
        self.read(&read(&path)?, true)
    }
}

fn sql(name: &'static str, query: &'static str) -> Case {
    Case { name, run: Box::new(move |tables| tables.read(&tables.cluster.sql(query)?, false)) }
}

/// As [`sql`], where the order of the rows counts.
fn ordered(name: &'static str, query: &'static str) -> Case {
    Case { name, run: Box::new(move |tables| tables.read(&tables.cluster.sql(query)?, true)) }
}

fn case(name: &'static str, run: impl Fn(&Tables) -> aqueduct::Result<Digest> + Send + Sync + 'static) -> Case {
    Case { name, run: Box::new(run) }
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = sources();
    cases.extend(transforms());
    cases.extend(joins());
    cases.extend(aggregates());
    cases.extend(sorted());
    cases.extend(sinks());
    cases
}

fn sources() -> Vec<Case> {
    vec![
        case("csv source", |tables| tables.read(&tables.cluster.read_csv(tables.folder.join("rows.csv"))?, true)),
        case("csv.gz source", |tables| tables.read(&tables.cluster.read_csv(tables.folder.join("rows.csv.gz"))?, true)),
        case("parquet source", |tables| {
            tables.read(&tables.cluster.read_parquet(tables.folder.join("rows.parquet"))?, true)
        }),
        sql("parquet, pruned", "select id, t from parquet_rows where v between 40 and 50 and k < 3000"),
        case("generator", |tables| {
            let generate = |offset: u64, count: usize| Ok(rows(offset..offset + count as u64));
            let source = Generator::new(rows(0..0).schema(), Some(ROWS), generate).with_split_rows(BATCH_ROWS);
            tables.read(&tables.cluster.from_source("generated", source)?, true)
        }),
        ordered("memory source", "select * from rows"),
    ]
}

fn transforms() -> Vec<Case> {
    vec![
        ordered("filter", "select * from rows where v > 50"),
        ordered("project", "select id + k as s, upper(t) as u from rows"),
        ordered("limit", "select * from rows limit 3000 offset 100"),
        case("sample", |tables| {
            let rows = tables.cluster.sql("select * from rows")?;
            tables.read(&rows.sample_with_seed(0.5, 7), false)
        }),
        case("map", |tables| {
            let spec = Map::new("map", |batch: RecordBatch| Ok(batch.slice(0, batch.num_rows())));
            tables.read(&tables.cluster.sql("select * from rows")?.apply("map", spec), false)
        }),
        sql("union", "select id, t from rows union all select v, t from few"),
        case("repartition", |tables| {
            tables.read(&tables.cluster.sql("select * from rows")?.repartition_by("v", 5), false)
        }),
        sql("unnest", "select id, unnest(l) as x from (select id, make_array(v, k, id) as l, t from rows)"),
        case("explode", |tables| {
            let lists = (0..400).map(|row| Some((0..row % 50).map(|n| Some(i64::from(n))).collect::<Vec<_>>()));
            let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
            let batch = RecordBatch::try_from_iter([("l", Arc::new(lists) as ArrayRef)]).expect("a column");
            let frame = tables.cluster.from_batches(batch.schema(), vec![batch; 10])?;
            tables.read(&frame.explode("l"), false)
        }),
        sql(
            "recursion",
            "with recursive r(id, n) as (select id, 1 from few where id < 300
             union all select id, n + 1 from r where n < 4) select * from r",
        ),
        sql(
            "diamond",
            "with s as (select k, v, t from rows where v > 20)
             select a.k, a.t, b.c from s a join (select k, count(*) as c from s group by k) b on a.k = b.k",
        ),
    ]
}

fn joins() -> Vec<Case> {
    vec![
        sql("inner join", "select r.id, r.t, f.t as u from rows r join rows f on r.k = f.k"),
        sql("left join", "select r.id, r.t, f.t as u from rows r left join rows f on r.k = f.k and f.v > 30"),
        sql("right join", "select f.id, r.t, f.t as u from rows f right join rows r on r.k = f.k and f.v > 30"),
        sql(
            "full join",
            "select r.id, f.id as o, r.t, f.t as u from rows r full join rows f on r.k = f.k and r.v > f.v",
        ),
        sql("semi join", "select * from rows where k in (select k from rows where v > 60)"),
        sql("anti join", "select * from rows r where not exists (select 1 from rows f where f.k = r.k and f.v > 90)"),
        sql("mark join", "select * from rows where v > 90 or k in (select k from rows where v > 60)"),
        sql("join of equals", "select a.id, b.id as o from rows a join rows b on a.t = b.t and a.v = b.v"),
        sql(
            "runtime filter",
            "select p.id, p.t from parquet_rows p join (select k from few where id < 200) f on p.k = f.k",
        ),
        sql(
            "nested loop join",
            "select a.id, b.id as o, a.t from (select * from rows where id < 1500) a
             join (select * from few where id < 60) b on a.k between b.k and b.k + 150",
        ),
        sql(
            "nested loop, full",
            "select a.id, b.id as o, a.t from (select * from rows where id < 1000) a
             full join (select * from few where id < 60) b on a.k between b.k and b.k + 150",
        ),
        sql(
            "cross join",
            "select a.id, b.t from (select * from rows where id < 300) a, (select * from few where id < 50) b",
        ),
        case("asof join", |tables| {
            let (rows, few) =
                (tables.cluster.sql("select * from rows")?, tables.cluster.sql("select id, v, t from few")?);
            tables.read(&rows.join_asof(&few, AsOf::backward("id").by("v"), JoinType::Left), false)
        }),
    ]
}

fn aggregates() -> Vec<Case> {
    vec![
        sql("total", "select count(*) as c, sum(v) as s, max(t) as m from rows"),
        sql("group by number", "select k, count(*) as c, sum(v) as s from rows group by k"),
        sql("group by text", "select t, id % 4 as f, count(*) as c, max(id) as m from rows group by t, id % 4"),
        sql("median, distinct", "select v, median(id) as m, count(distinct t) as d from rows group by v"),
        sql("array_agg", "select k, array_agg(v order by id) as a from rows group by k"),
        sql(
            "rollup",
            "select v % 7 as a, k % 50 as b, count(*) as c, sum(id) as s from rows group by rollup (v % 7, k % 50)",
        ),
        sql("distinct", "select distinct t, v from rows"),
    ]
}

fn sorted() -> Vec<Case> {
    vec![
        ordered("sort", "select * from rows order by t desc, id"),
        ordered("top", "select * from rows order by v desc, id limit 700"),
        sql(
            "window",
            "select id, sum(v) over (partition by k order by id) as s, row_number() over (partition by k order by id) as n, t from rows",
        ),
        sql(
            "window ahead",
            "select id, lead(t, 2) over (order by id) as n, max(id) over (partition by v) as m from rows",
        ),
        sql(
            "window frame",
            "select id, min(v) over (partition by v % 5 order by id rows between 20 preceding and 10 following) as m from rows",
        ),
    ]
}

fn sinks() -> Vec<Case> {
    vec![
        case("csv sink", |tables| {
            tables.written("out.csv", |rows, path| rows.write_csv(path), |path| tables.cluster.read_csv(path))
        }),
        case("parquet sink", |tables| {
            tables.written(
                "out.parquet",
                |rows, path| rows.write_parquet(path),
                |path| tables.cluster.read_parquet(path),
            )
        }),
        case("store", |tables| {
            let kept = tables.cluster.sql("select * from rows where v > 10")?.cache()?;
            tables.read(&kept.filter(col("v").lt(lit(80))), true)
        }),
    ]
}
