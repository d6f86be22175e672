//! The search: every bundled operator x every failpoint x its first, middle and last pass.
//!
//! `AQUEDUCT_FAILPOINTS=all` tries all three passes and refuses every second growth besides; else each pair is tried
//! at one of the three, each at another.

mod cases;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use aqueduct::prelude::*;
use aqueduct::runtime::failpoint::{Failing, Passes, Point, Scenario};
use aqueduct::runtime::testing::assert_no_threads_left;
use aqueduct::runtime::{ExecutionError, PlanError};
use aqueduct_chaos::{Digest, assert_clean, within};

use cases::{Case, Tables, cases, write_files};

/// What is left to float beside the floors of a job: some growth, then spilling.
const FLOATING_BYTES: usize = 512 << 10;
/// What any of these jobs may take.
const SECONDS: u64 = 30;

/// How a job ended whose failpoint was armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// One clear error.
    Error,
    /// The right rows, although something failed.
    Right,
    /// The right rows: the pass was not reached this time.
    Missed,
}

/// A case in a cluster with little more memory than its floors.
struct Bench {
    case: Arc<Case>,
    tables: Arc<Tables>,
}

impl Bench {
    fn run(&self, what: &str) -> std::thread::Result<aqueduct::Result<Digest>> {
        let (case, tables) = (Arc::clone(&self.case), Arc::clone(&self.tables));
        within(SECONDS, what, move || (case.run)(&tables))
    }

    /// The smallest cluster that admits the case, and what it comes to there without any failure.
    fn open(case: Case, folder: &Path) -> (Self, Digest) {
        let case = Arc::new(case);
        let mut limit_bytes = 1000;
        for _ in 0..8 {
            let tables = Tables::open(folder, limit_bytes);
            let bench = tables.map(|tables| Self { case: Arc::clone(&case), tables: Arc::new(tables) });
            let outcome = bench.and_then(|bench| {
                let outcome = bench.run(case.name).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome.map(|digest| (bench, digest))
            });
            match outcome {
                Ok((bench, digest)) => return (bench, digest),
                Err(error) => limit_bytes = needed_bytes(case.name, &error) + FLOATING_BYTES,
            }
        }
        panic!("{}: no limit is enough", case.name);
    }
}

#[track_caller]
fn needed_bytes(name: &str, error: &Error) -> usize {
    if let Error::Plan(plan) | Error::Execution(ExecutionError::Plan(plan)) = error
        && let PlanError::LimitTooSmall { needed_bytes, .. } = **plan
    {
        return needed_bytes;
    }
    panic!("{name}: {error}");
}

/// How `passes` of a run that passed `count` times are named, and which they are.
fn tries(count: u64, turn: usize, all: bool) -> Vec<(usize, Passes)> {
    let passes = [1, count.div_ceil(2).max(1), count.max(1)];
    let all_of = (0..3).map(|at| (at, Passes::Nth(passes[at])));
    if all { all_of.collect() } else { all_of.skip(turn % 3).take(1).collect() }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Asserts that `error` names a node and what failed there, each once.
fn assert_clear(what: &str, error: &Error, point: Point) {
    let text = error.to_string();
    let node = match error {
        Error::Execution(ExecutionError::Operator { at, .. } | ExecutionError::Panic { at, .. }) => &at.node,
        other => panic!("{what}: an error of another kind: {other:?}"),
    };
    assert!(!node.is_empty(), "{what}: {text}");
    let cause = format!("failpoint {point:?}");
    assert_eq!(text.matches(&cause).count(), 1, "{what}: {text}");
    assert_eq!(text.matches("node `").count() + usize::from(node == "the start of the job"), 1, "{what}: {text}");
}

/// Runs the case with a failpoint armed and looks at all that is promised.
fn try_one(bench: &Bench, clean: Digest, point: Point, failing: Failing, passes: Passes) -> End {
    let what = format!("{}, {failing:?} at {point:?}, {passes:?}", bench.case.name);
    let scenario = Scenario::failing(point, failing, passes);
    let outcome = bench.run(&what);
    let tripped = scenario.tripped() > 0;
    let outcome =
        outcome.unwrap_or_else(|panic| panic!("{what}: the caller's thread panicked: {}", panic_text(&*panic)));
    let end = match outcome {
        Ok(digest) => {
            assert_eq!(digest, clean, "{what}: wrong rows");
            if tripped { End::Right } else { End::Missed }
        }
        Err(error) => {
            assert!(tripped, "{what}: an error without a cause: {error}");
            assert_clear(&what, &error, point);
            End::Error
        }
    };
    // Nobody is refused what the job's end depends on: it waits, or spills.
    assert!(point != Point::Grow || end != End::Error, "{what}: a refusal is no failure");
    assert_clean(&what, &bench.tables.cluster);
    drop(scenario);
    end
}

type Row = BTreeMap<(usize, usize), [Option<End>; 3]>;

/// Tries all failpoints at one case.
fn search(case: Case, turn: usize, all: bool, folder: &Path) -> (Row, u64) {
    let (bench, clean) = Bench::open(case, folder);
    let name = bench.case.name;
    let scenario = Scenario::counting();
    let again = bench.run(name).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(again.expect("no failure"), clean, "{name}");
    let passed = Point::ALL.map(|point| scenario.passed(point));
    assert_clean(name, &bench.tables.cluster);
    drop(scenario);
    let mut row = Row::new();
    let mut jobs = 0;
    for (at, point) in Point::ALL.into_iter().enumerate().filter(|(at, _)| passed[*at] > 0) {
        for (how, failing) in point.failures().iter().enumerate() {
            let ends = row.entry((at, how)).or_default();
            for (place, passes) in tries(passed[at], turn + at + how, all) {
                ends[place] = Some(try_one(&bench, clean, point, *failing, passes));
                jobs += 1;
            }
        }
    }
    if all {
        try_one(&bench, clean, Point::Grow, Failing::Error, Passes::Every(2));
    }
    // The cluster is as good as before.
    let last = bench.run(name).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(last.expect("the next job runs"), clean, "{name}");
    assert_clean(name, &bench.tables.cluster);
    drop(bench);
    assert_no_threads_left();
    (row, jobs)
}

fn print_table(table: &[(&'static str, Row)]) {
    let columns = Point::ALL.into_iter().enumerate().flat_map(|(at, point)| {
        point.failures().iter().enumerate().map(move |(how, failing)| ((at, how), format!("{point:?} {failing:?}")))
    });
    let columns: Vec<_> = columns.collect();
    println!("E: one clear error, R: right rows all the same, -: not reached, .: not tried; first, middle, last pass");
    print!("{:<20}", "");
    columns.iter().for_each(|(_, name)| print!(" {:>17}", name.replace("Error", "error").replace("Panic", "panic")));
    println!();
    for (name, row) in table {
        print!("{name:<20}");
        for (column, _) in &columns {
            let letters = row.get(column).map_or(String::new(), |ends| {
                let letter = |end: &Option<End>| match end {
                    Some(End::Error) => 'E',
                    Some(End::Right) => 'R',
                    Some(End::Missed) => '-',
                    None => '.',
                };
                ends.iter().map(letter).collect()
            });
            print!(" {letters:>17}");
        }
        println!();
    }
}

/// Keeps the panics that are asked for out of the output.
fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !panic_text(info.payload()).starts_with("failpoint ") {
            usual(info);
        }
    }));
}

/// `AQUEDUCT_FAILPOINTS_CASE` names one case, to look at it alone.
#[test]
fn every_operator_gets_over_a_failure_at_every_point_or_ends_with_one_clear_error() {
    quiet_panics();
    let all = std::env::var("AQUEDUCT_FAILPOINTS").is_ok_and(|which| which == "all");
    let wanted = std::env::var("AQUEDUCT_FAILPOINTS_CASE").ok();
    let folder = tempfile::tempdir().expect("a folder");
    write_files(folder.path());
    let (mut table, mut jobs, mut broken) = (Vec::new(), 0, Vec::new());
    for (turn, case) in cases().into_iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| wanted != case.name) {
            continue;
        }
        let (name, start) = (case.name, std::time::Instant::now());
        match catch_unwind(AssertUnwindSafe(|| search(case, turn, all, folder.path()))) {
            Ok((row, tried)) => {
                eprintln!("{name}: {tried} failures in {:.1?}", start.elapsed());
                table.push((name, row));
                jobs += tried;
            }
            Err(panic) => broken.push(panic_text(&*panic)),
        }
    }
    print_table(&table);
    println!("{} operators, {jobs} failures", table.len());
    assert!(broken.is_empty(), "{} broke a promise:\n{}", broken.len(), broken.join("\n"));
}
