//! The search: case after case, and of one that fails the simplest that fails the same way.
//!
//! `AQUEDUCT_GRAPHS=1000` tries more cases, `AQUEDUCT_GRAPHS=500..1000` those, and `AQUEDUCT_GRAPH=17` one of them, without
//! shrinking it if `AQUEDUCT_SHRINK=0`. `AQUEDUCT_KEEP_GOING` names all that fail, and shrinks none; `AQUEDUCT_SHOW` prints
//! every query.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use proptest::strategy::ValueTree;

use crate::answer::{Oracle, Rows, Unanswered};
use crate::case::Case;
use crate::query::Query;

/// What shrinking may take.
const SHRINKING: (usize, Duration) = (600, Duration::from_secs(120));
/// What a case needs of stack: queries are trees.
const STACK_BYTES: usize = 256 << 20;

/// How a case went that did not fail.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The same rows.
    Agreed,
    /// Nothing to compare: why.
    Skipped(String),
}

/// How a case failed: what broke, and how.
#[derive(Debug, Clone)]
pub struct Failure {
    /// A few words that simpler cases must have in common.
    pub kind: String,
    /// All there is to say.
    pub detail: String,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: impl Into<String>, detail: impl Into<String>) -> Failure {
        Failure { kind: kind.into(), detail: detail.into() }
    }
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cases with the same rows.
    pub agreed: u64,
    /// Rows that were compared.
    pub rows: u64,
    /// Cases that could not be compared, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Steps of the cases that agreed, by kind.
    pub steps: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Cases that could not be compared.
    pub fn skipped(&self) -> u64 {
        self.skipped.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cases with the same rows, {} of them in all; steps: {:?}", self.agreed, self.rows, self.steps)?;
        write!(f, "{} cases that could not be compared", self.skipped())?;
        self.skipped.iter().try_for_each(|(why, times)| write!(f, "\n  {times:>5} {why}"))
    }
}

/// Tries `count` cases, or as many as the environment says, and calls `check` with the query, its number and the oracle's
/// answer.
///
/// # Panics
///
/// At the first case that fails, with the simplest one that fails the same way.
pub fn search(count: u64, check: impl Fn(u64, &Query, &Rows) -> Result<Outcome, Failure> + Send + Sync) -> Tally {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("search".into()).stack_size(STACK_BYTES);
        let running = thread.spawn_scoped(scope, || search_here(count, &check)).expect("a thread");
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn search_here(count: u64, check: &impl Fn(u64, &Query, &Rows) -> Result<Outcome, Failure>) -> Tally {
    let oracle = Oracle::new();
    // Panics are caught, and told at the end. Whoever looks at one case wants to see them.
    let hook = std::panic::take_hook();
    if std::env::var("AQUEDUCT_GRAPH").is_err() {
        std::panic::set_hook(Box::new(|_| ()));
    }
    let found = found(count, check, &oracle);
    std::panic::set_hook(hook);
    found.unwrap_or_else(|failure| panic!("{failure}"))
}

fn found(
    count: u64,
    check: &impl Fn(u64, &Query, &Rows) -> Result<Outcome, Failure>,
    oracle: &Oracle,
) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let keeps_going = std::env::var("AQUEDUCT_KEEP_GOING").is_ok();
    let mut failures = Vec::new();
    for number in numbers(count) {
        let mut tree = Case::tree(number);
        let tried = |case: &Case| tried(oracle, number, case, check);
        match tried(&tree.current()) {
            Ok((query, rows, Outcome::Agreed)) => {
                tally.agreed += 1;
                tally.rows += rows as u64;
                query.steps.iter().for_each(|step| *tally.steps.entry(step).or_default() += 1);
            }
            Ok((_, _, Outcome::Skipped(why))) => *tally.skipped.entry(why).or_default() += 1,
            Err(failure) if keeps_going => {
                println!("AQUEDUCT_GRAPH={number}: {}: {}", failure.kind, failure.detail.lines().next().unwrap_or(""));
                failures.push(number);
            }
            Err(failure) => {
                let (case, failure) = shrunk(&mut tree, failure, &tried);
                let (Failure { kind, detail }, query) = (failure, Query::new(&case));
                let draws = &case.tables;
                return Err(format!(
                    "{kind}\n{detail}\n\n{query}\n{draws:?}\n\nto see it again: AQUEDUCT_GRAPH={number}"
                ));
            }
        }
    }
    if failures.is_empty() { Ok(tally) } else { Err(format!("{tally}\nthese failed: {failures:?}")) }
}

fn tried(
    oracle: &Oracle,
    number: u64,
    case: &Case,
    check: &impl Fn(u64, &Query, &Rows) -> Result<Outcome, Failure>,
) -> Result<(Query, usize, Outcome), Failure> {
    let query = Query::new(case);
    if std::env::var("AQUEDUCT_SHOW").is_ok() {
        println!("-- {number}\n{query}\n");
    }
    let answered = catch_unwind(AssertUnwindSafe(|| oracle.answer(&query)));
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(Unanswered::TooLarge)) => return Ok((query, 0, Outcome::Skipped("too large".into()))),
        Ok(Err(Unanswered::Refused(why))) => {
            let why: String = why.chars().take(100).filter(|c| *c != '\n').collect();
            return Ok((query, 0, Outcome::Skipped(format!("refused by DataFusion: {why}"))));
        }
        Err(_) => return Ok((query, 0, Outcome::Skipped("DataFusion panics".into()))),
    };
    let checked = catch_unwind(AssertUnwindSafe(|| check(number, &query, &answer)));
    let outcome = checked.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Failure::new("panic", text.unwrap_or_default()))
    })?;
    Ok((query, answer.count(), outcome))
}

/// The simplest case that fails as `failure` did.
fn shrunk(
    tree: &mut impl ValueTree<Value = Case>,
    failure: Failure,
    tried: &impl Fn(&Case) -> Result<(Query, usize, Outcome), Failure>,
) -> (Case, Failure) {
    let mut simplest = (tree.current(), failure);
    if std::env::var("AQUEDUCT_SHRINK").is_ok_and(|shrink| shrink == "0") {
        return simplest;
    }
    let (begin, mut tries) = (Instant::now(), 0);
    let mut goes_on = tree.simplify();
    while goes_on && tries < SHRINKING.0 && begin.elapsed() < SHRINKING.1 {
        tries += 1;
        let case = tree.current();
        goes_on = match tried(&case) {
            Err(failure) if failure.kind == simplest.1.kind => {
                simplest = (case, failure);
                tree.simplify()
            }
            _ => tree.complicate(),
        };
    }
    simplest
}

fn numbers(count: u64) -> Range<u64> {
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|_| panic!("`{text}` is not a number"));
    if let Ok(one) = std::env::var("AQUEDUCT_GRAPH") {
        return number(&one)..number(&one) + 1;
    }
    match std::env::var("AQUEDUCT_GRAPHS") {
        Ok(text) => match text.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => 0..number(&text),
        },
        Err(_) => 0..count,
    }
}
