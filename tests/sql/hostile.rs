//! Queries that nobody would write: those of `queries/`, taken to pieces and put together wrong. Each is planned, or
//! refused with a message; nothing panics, and nothing takes long.
//!
//! `AQUEDUCT_QUERIES` says how many are tried, `AQUEDUCT_SEED` which.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use aqueduct::LocalCluster;

/// Plans `text`, and writes the plan down.
fn plan(cluster: &LocalCluster, text: &str) -> bool {
    let start = Instant::now();
    let planned = catch_unwind(AssertUnwindSafe(|| cluster.sql(text).and_then(|frame| frame.explain())));
    assert!(start.elapsed() < Duration::from_secs(30), "planned for {:?}: {text}", start.elapsed());
    match planned {
        Ok(Ok(plan)) => !plan.is_empty(),
        Ok(Err(error)) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains("panicked"), "{error}: {text}");
            false
        }
        Err(_) => panic!("a panic: {text}"),
    }
}

/// The numbers of a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Words, numbers, texts in quotes, and signs.
fn tokens(query: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut quote = None;
    for c in query.chars() {
        let joins = tokens.last().and_then(|token| token.chars().last()).is_some_and(|last| {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            (word(last) && word(c)) || (c == '=' && "<>!".contains(last)) || (c == '|' && last == '|')
        });
        match tokens.last_mut() {
            Some(token) if quote.is_some() || joins => token.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.to_string()),
        }
        quote = match quote {
            Some(open) if open == c => {
                // What follows is a token of its own.
                tokens.push(String::new());
                None
            }
            None if c == '\'' || c == '"' => Some(c),
            open => open,
        };
        if c.is_whitespace() && quote.is_none() {
            tokens.push(String::new());
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

const STRANGE: [&str; 36] = [
    "null",
    "-1",
    "0",
    "9223372036854775808",
    "1e309",
    "''",
    "'\u{0}\u{e9}'",
    "(",
    ")",
    "()",
    "[]",
    "*",
    ",",
    ";",
    "not",
    "distinct",
    "over ()",
    "interval '1 month'",
    "date '0000-00-00'",
    "timestamp '9999-12-31'",
    "array[1, 'a']",
    "lateral",
    "union all",
    "with recursive",
    "case when",
    "cast(1 as decimal(38, 38))",
    "rollup(1)",
    "order by 99",
    "limit -1",
    "offset 1",
    "exists",
    "in (select 1)",
    "$1",
    "\"",
    "'",
    "--",
];

/// A query made of `queries`.
fn query(queries: &[Vec<String>], random: &mut Random) -> String {
    let mut query = queries[random.below(queries.len())].clone();
    for _ in 0..1 + random.below(2) {
        let other = &queries[random.below(queries.len())];
        let (at, from) = (random.below(query.len()), random.below(other.len()));
        match random.below(7) {
            0 => drop(query.remove(at)),
            1 => query[at].clone_from(&other[from]),
            2 => query.insert(at, other[from].clone()),
            3 => query[at] = STRANGE[random.below(STRANGE.len())].into(),
            4 => query.insert(at, STRANGE[random.below(STRANGE.len())].into()),
            5 => {
                query.truncate(at + 1);
                query.extend_from_slice(&other[from..]);
            }
            _ => {
                let to = (at + 1 + random.below(12)).min(query.len());
                let piece = query[at..to].to_vec();
                query.splice(at..at, piece);
            }
        }
        if query.is_empty() {
            query.push("select".into());
        }
    }
    query.join(" ")
}

#[test]
fn queries_that_are_put_together_wrong_are_planned_or_refused() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let cluster = super::cluster(2, "64MB");
    let folder = std::fs::read_dir(super::folder().join("queries")).expect("the queries");
    let mut files: Vec<_> = folder.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let queries: Vec<_> =
        files.iter().flat_map(|file| super::sections(file)).map(|(_, query)| tokens(query.trim())).collect();
    let (mut planned, count) = (0, number("AQUEDUCT_QUERIES", 300));
    let mut random = Random(number("AQUEDUCT_SEED", 0) as u64);
    for _ in 0..count {
        let text = query(&queries, &mut random);
        // A stack that overflows ends the process: the last one shown is the one that did it.
        println!("{text}");
        planned += usize::from(plan(&cluster, &text));
    }
    println!("{planned} of {count} can be planned");
    // A search that never gets behind the parser shows nothing.
    assert!(planned > 0);
}

/// Deeper than any stack that a parser could count on.
#[test]
fn queries_of_great_depth_are_planned_or_refused() {
    let cluster = super::cluster(1, "64MB");
    for depth in [20, 2_000, 200_000] {
        for (open, middle, close) in [
            ("(", "1", ")"),
            ("-", "1", ""),
            ("not ", "true", ""),
            ("case when true then ", "1", " end"),
            ("1 + ", "1", ""),
        ] {
            let (open, close) = (open.repeat(depth), close.repeat(depth));
            plan(&cluster, &format!("select {open}{middle}{close}"));
        }
        let (open, close) = ("select * from (".repeat(depth), ")".repeat(depth));
        plan(&cluster, &format!("{open}select 1{close}"));
    }
}
