//! Any text at all, as a query: the fuzz target `sql`, whose corpus is replayed here. It is planned or refused; nothing
//! runs.

use std::sync::LazyLock;

use aqueduct::LocalCluster;

/// A cluster with the tables that the corpus asks for: their columns, and no file behind them.
static PLANNED: LazyLock<LocalCluster> = LazyLock::new(|| {
    let builder = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false);
    let cluster = builder.start().expect("the cluster starts");
    let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100))).expect("a source");
    cluster.register_table("numbers", &numbers).expect("a good frame");
    let text = "cast(n as varchar)";
    for (name, columns) in [
        ("bands", format!("n as low, n + 1 as high, {text} as label")),
        ("departments", format!("n as id, {text} as name, {text} as city, n as budget")),
        (
            "employees",
            format!(
                "n as id, {text} as name, n as dept_id, n / 2.0 as salary, date '2020-02-03' as hired, n as manager_id"
            ),
        ),
        ("fruits", format!("{text} as product, {text} as color")),
        ("others", "n as a, n as c".into()),
        ("pairs", "n as a, n as b".into()),
        (
            "sales",
            format!(
                "n as id, n as emp_id, {text} as product, cast(n as double) as amount, n as quantity,
                 timestamp '2024-01-08 01:40:00' as sold, {text} as region"
            ),
        ),
    ] {
        cluster.sql(format!("create view {name} as select {columns} from numbers")).expect("a good view");
    }
    cluster
});

/// What would run something, change the tables for the next text, or look at files: not here.
const LEFT_OUT: [&str; 9] = ["analyze", "copy", "create", "drop", "insert", ".csv", ".tsv", ".parquet", ".pq"];

/// Plans `data`: a plan, or an error that says something.
pub(crate) fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words = text.to_lowercase();
    if LEFT_OUT.iter().any(|word| words.contains(word)) {
        return;
    }
    match PLANNED.sql(text).and_then(|frame| frame.explain()) {
        Ok(plan) => assert!(!plan.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(not(fuzzing))]
#[test]
fn the_corpus_of_the_fuzz_target_is_planned_or_refused() {
    aqueduct_runtime::testing::hostile::replay("sql", sql);
}
