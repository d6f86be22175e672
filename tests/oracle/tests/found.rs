//! Queries that were answered wrongly once, or broke another promise, each as small as the search made it.

use aqueduct_oracle::case::TableDraw;
use aqueduct_oracle::search::Outcome;
use aqueduct_oracle::{Oracle, Query, Table, clusters, simulated};

/// Seeds of each in the simulator.
const SEEDS: u64 = 6;

/// A table by its size, its cut into batches, and its columns: kind, shape, number of values, seed.
fn table(rows: u16, cut: u16, columns: &[(u8, u8, u8, u16)]) -> TableDraw {
    TableDraw { rows, cut, columns: columns.to_vec() }
}

/// Asks everybody, on a thread that has room for what walks the query.
fn all_agree(tables: &[TableDraw], sql: &str, columns: usize) {
    all_agree_with(tables, sql, sql, columns);
}

/// The same, where DataFusion is asked in other words.
fn all_agree_with(tables: &[TableDraw], sql: &str, judged: &str, columns: usize) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        let running = thread.spawn_scoped(scope, || all_agree_here(tables, sql, judged, columns)).expect("a thread");
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn all_agree_here(tables: &[TableDraw], sql: &str, judged: &str, columns: usize) {
    let tables = tables.iter().enumerate().map(|(at, draw)| Table::new(format!("t{at}"), draw)).collect();
    let query = Query {
        tables,
        sql: sql.into(),
        judged: judged.into(),
        exact: vec![true; columns],
        ordered: false,
        steps: Vec::new(),
    };
    let expected = Oracle::new().answer(&query).expect("DataFusion answers");
    let agreed = |outcome: Outcome| assert!(matches!(outcome, Outcome::Agreed), "{outcome:?}");
    agreed(clusters::check(&query, &expected).unwrap_or_else(|failure| panic!("{failure:?}")));
    for seed in 0..SEEDS {
        agreed(simulated::check(seed, &query, &expected).unwrap_or_else(|failure| panic!("{failure:?}")));
    }
}

/// The values of a dictionary stayed charged to the job that had read them.
#[test]
fn a_filter_over_a_dictionary() {
    all_agree(&[table(2, 0, &[(15, 0, 0, 1)])], "select * from t0 where t0_0 is null", 2);
}

/// Packed values were sent to other partitions than the same values unpacked.
#[test]
fn a_join_of_a_dictionary_with_what_was_grouped_by_it() {
    let sql = "select l.*, (select max(r.t0_id) from t0 r where r.t0_0 = l.t0_0) as m from t0 l";
    all_agree(&[table(5, 3, &[(15, 0, 1, 5)])], sql, 3);
}

/// The second key was left out by one part of DataFusion's accumulator and missed by another.
#[test]
fn an_aggregate_that_names_a_key_of_its_order_twice() {
    all_agree(&[table(0, 0, &[(0, 0, 0, 1)])], "select first_value(t0_0 order by t0_0, t0_0) from t0", 1);
}

/// A list of a few kilobytes waited for the memory of the job's own results.
#[test]
fn a_text_of_all_rows_at_the_smallest_limit() {
    let sql = "select t0_0, string_agg(substr(t0_0, 1, 5), '|' order by t0_0) from t0 group by t0_0";
    all_agree(&[table(4, 0, &[(1, 0, 0, 3)])], sql, 2);
}

/// A dictionary counted all of its values for each slice of it: 1,000 short texts were too large for a floor.
#[test]
fn lists_of_packed_texts_at_the_smallest_limit() {
    for kind in [15, 6] {
        let tables = [table(7, 3, &[(kind, 0, 1, 3), (0, 0, 1, 5)])];
        all_agree(&tables, "select array_agg(t0_0 order by t0_0, t0_id) as l from t0", 1);
        all_agree(&tables, "select t0_1, array_agg(substr(t0_0, 1, 5) order by t0_id) as l from t0 group by t0_1", 2);
    }
}

/// Each group counted all the structs of its batch, and which of several batches' structs is the first was open.
#[test]
fn the_first_row_of_each_key_in_an_order_of_structs() {
    for (key, cut) in [(1, 0), (4, 1)] {
        let tables = [table(5, cut, &[(12, 0, key, 5), (12, 3, 0, 2), (5, 0, 0, 2)])];
        let sql = "select distinct on (t0_0) t0_id, t0_0, t0_1 from t0 order by t0_0, t0_1, t0_2 desc, t0_id";
        let judged = "select t0_id, t0_0, t0_1 from (select *, row_number() over (partition by t0_0 \
                      order by t0_1, t0_2 desc, t0_id rows unbounded preceding) as place from t0) where place = 1";
        all_agree_with(&tables, sql, judged, 3);
    }
}
