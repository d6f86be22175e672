//! The steps: what each makes of one or two relations.

use super::aggregates::{aggregate, is_ordered};
use super::expressions::{Scope, common};
use super::windows::{Windows, partition_key};
use super::{Column, Relation};
use crate::data::Kind;
use crate::draws::Draws;

/// Columns that a step has at the most.
const MOST_COLUMNS: usize = 10;

/// What a step is.
pub(super) struct Made {
    pub(super) sql: String,
    /// The same in other words, where DataFusion's executor does not do what these say.
    pub(super) judged: Option<String>,
    pub(super) columns: Vec<Column>,
    pub(super) what: &'static str,
}

/// The select list of a step in the making.
struct Selected {
    step: usize,
    texts: Vec<String>,
    columns: Vec<Column>,
}

impl Selected {
    fn new(step: usize) -> Self {
        Self { step, texts: Vec::new(), columns: Vec::new() }
    }

    fn add(&mut self, text: &str, kind: Kind, exact: bool) {
        // No two steps have a column in common: a name without its relation is never ambiguous.
        let name = format!("s{}_{}", self.step, self.columns.len());
        self.texts.push(format!("{text} as {name}"));
        self.columns.push(Column { name, kind, exact });
    }

    fn list(&self) -> String {
        self.texts.join(", ")
    }

    /// What the columns are made of.
    fn sources(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| text.rsplit_once(" as ").map_or(text.as_str(), |(source, _)| source))
    }

    fn made(self, what: &'static str, rest: &str) -> Made {
        Made { sql: format!("select {}{rest}", self.list()), judged: None, columns: self.columns, what }
    }
}

/// A step of the kind `kind`; what cannot be done with these relations becomes a filter.
pub(super) fn make(step: usize, kind: usize, inputs: &[Relation; 2], draws: &mut Draws<'_>) -> Made {
    let [one, other] = inputs;
    let made = match kind % 20 {
        0 | 1 => None,
        2 | 3 => Some(project(step, one, draws)),
        4..=6 => Some(join(step, one, other, draws)),
        7..=9 => Some(group(step, one, draws)),
        10 => sets(step, one, draws),
        11 => Some(union(step, one, other, draws)),
        12 => limit(step, one, draws),
        13 => distinct(step, one, draws),
        14 | 15 => windows(step, one, draws),
        16 => set_operation(step, one, other, draws),
        17 => Some(unnest(step, one, draws)),
        18 => semi(one, other, draws),
        _ => Some(scalar(step, one, other, draws)),
    };
    made.unwrap_or_else(|| filter(one, draws))
}

fn filter(one: &Relation, draws: &mut Draws<'_>) -> Made {
    let predicate = Scope::of(one, "").predicate(draws);
    let sql = format!("select * from {} where {predicate}", one.name);
    Made { sql, judged: None, columns: one.columns.clone(), what: "filter" }
}

/// Some of the columns of a relation: of many, not all.
fn pass(selected: &mut Selected, one: &Relation, alias: &str, most: usize, exact: bool, draws: &mut Draws<'_>) {
    let fitting: Vec<&Column> = one.columns.iter().filter(|column| column.exact || !exact).collect();
    let from = if fitting.len() > most { draws.below(fitting.len() - most + 1) } else { 0 };
    for column in fitting.into_iter().skip(from).take(most) {
        let text = if alias.is_empty() { column.name.clone() } else { format!("{alias}.{}", column.name) };
        selected.add(&text, column.kind, column.exact);
    }
}

fn project(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Made {
    let (scope, mut selected) = (Scope::of(one, ""), Selected::new(step));
    pass(&mut selected, one, "", MOST_COLUMNS / 2, false, draws);
    for _ in 0..1 + draws.below(4) {
        let (value, kind) = scope.any(draws);
        selected.add(&value, kind, true);
    }
    selected.made("project", &format!(" from {}", one.name))
}

fn join(step: usize, left: &Relation, right: &Relation, draws: &mut Draws<'_>) -> Made {
    let (scope_left, scope_right) = (Scope::of(left, "l"), Scope::of(right, "r"));
    let mut selected = Selected::new(step);
    let kind = draws.pick(&["join", "left join", "right join", "full join", "join"]);
    pass(&mut selected, left, "l", MOST_COLUMNS / 2, false, draws);
    pass(&mut selected, right, "r", MOST_COLUMNS / 2, false, draws);
    let (mut conditions, mut judged) = (Vec::new(), Vec::new());
    for _ in 0..1 + draws.below(2) {
        let key = scope_left.column(draws, |kind| !scope_right.of_kind(kind).is_empty());
        let Some((name, kind)) = key else { break };
        let other = draws.pick(&scope_right.of_kind(kind));
        let equal = if draws.once_in(8) { "is not distinct from" } else { "=" };
        conditions.push(format!("{name} {equal} {other}"));
        // DataFusion does not find all lists that are the same.
        let text = |list: &str| format!("array_to_string({list}, ',', 'null')");
        judged.push(match kind {
            Kind::Ints => format!("{} {equal} {}", text(&name), text(other)),
            _ => format!("{name} {equal} {other}"),
        });
    }
    if conditions.is_empty() || draws.once_in(4) {
        let predicate = scope_left.and(&scope_right).predicate(draws);
        conditions.push(predicate.clone());
        judged.push(predicate);
    }
    let both = |conditions: &[String]| {
        format!(" from {} l {kind} {} r on {}", left.name, right.name, conditions.join(" and "))
    };
    let judged = (judged != conditions).then(|| format!("select {}{}", selected.list(), both(&judged)));
    Made { judged, ..selected.made(kind, &both(&conditions)) }
}

fn keys(one: &Relation, selected: &mut Selected, most: usize, draws: &mut Draws<'_>) -> Vec<String> {
    let scope = Scope::of(one, "");
    let mut keys: Vec<String> = Vec::new();
    for _ in 0..draws.below(most + 1) {
        let (value, kind) = scope.any(draws);
        // A literal would be the place of a column.
        let constant = !scope.columns().iter().any(|(name, _)| value.contains(name.as_str()));
        if !constant && !keys.contains(&value) {
            selected.add(&value, kind, true);
            keys.push(value);
        }
    }
    keys
}

fn group(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Made {
    let (scope, mut selected) = (Scope::of(one, ""), Selected::new(step));
    let keys = keys(one, &mut selected, 3, draws);
    for _ in 0..1 + draws.below(4) {
        let (text, kind, exact) = aggregate(&scope, draws);
        selected.add(&text, kind, exact);
    }
    let group = if keys.is_empty() { String::new() } else { format!(" group by {}", keys.join(", ")) };
    let having = if draws.once_in(6) { " having count(*) > 1" } else { "" };
    selected.made("group", &format!(" from {}{group}{having}", one.name))
}

fn sets(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let (scope, mut selected) = (Scope::of(one, ""), Selected::new(step));
    let mut keys: Vec<String> = Vec::new();
    for _ in 0..1 + draws.below(3) {
        let (name, kind) = scope.column(draws, |_| true)?;
        if !keys.contains(&name) {
            selected.add(&name, kind, true);
            keys.push(name);
        }
    }
    selected.add(&format!("cast(grouping({}) as bigint)", keys[0]), Kind::Int, true);
    for _ in 0..1 + draws.below(3) {
        let (text, kind, exact) = super::aggregates::common(&scope, draws);
        selected.add(&text, kind, exact);
    }
    let sets = match draws.below(3) {
        0 => format!("rollup({})", keys.join(", ")),
        1 => format!("cube({})", keys.join(", ")),
        _ => format!("grouping sets (({}), (), ({}))", keys.join(", "), keys[0]),
    };
    Some(selected.made("grouping sets", &format!(" from {} group by {sets}", one.name)))
}

/// Two relations as rows of the same columns: lists of expressions, and what they are.
fn alike(step: usize, one: &Relation, other: &Relation, draws: &mut Draws<'_>) -> (Selected, Selected) {
    let scopes = [Scope::of(one, ""), Scope::of(other, "")];
    let (mut first, mut second) = (Selected::new(step), Selected::new(step));
    let columns: Vec<(String, Kind)> = scopes[0].columns().iter().take(MOST_COLUMNS).cloned().collect();
    for (name, kind) in columns {
        if matches!(kind, Kind::Pair) && scopes[1].of_kind(kind).is_empty() {
            continue;
        }
        let fitting = scopes[1].of_kind(kind);
        let value = if fitting.is_empty() { scopes[1].value(draws, kind) } else { draws.pick(&fitting).to_string() };
        first.add(&common(&name, kind), kind, true);
        second.add(&common(&value, kind), kind, true);
    }
    if first.columns.is_empty() {
        first.add("cast(1 as bigint)", Kind::Int, true);
        second.add("cast(2 as bigint)", Kind::Int, true);
    }
    (first, second)
}

fn union(step: usize, one: &Relation, other: &Relation, draws: &mut Draws<'_>) -> Made {
    let (first, second) = alike(step, one, other, draws);
    let mut sql =
        format!("select {} from {} union all select {} from {}", first.list(), one.name, second.list(), other.name);
    if draws.once_in(4) {
        sql += &format!(" union all select {} from {}", first.list(), one.name);
    }
    Made { sql, judged: None, columns: first.columns, what: "union all" }
}

fn set_operation(step: usize, one: &Relation, other: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let (first, second) = alike(step, one, other, draws);
    let what = draws.pick(&["union", "intersect", "except", "intersect all", "except all"]);
    let sql = format!("select {} from {} {what} select {} from {}", first.list(), one.name, second.list(), other.name);
    // DataFusion does not count how often a row is there. Of rows that are numbered there are no two alike.
    let judged = what.strip_suffix(" all").map(|what| {
        let numbered = |side: &Selected, from: &Relation| {
            let keys =
                side.columns.iter().zip(side.sources()).map(|(column, source)| partition_key(source, column.kind));
            let keys: Vec<String> = keys.collect();
            let place = format!("row_number() over (partition by {})", keys.join(", "));
            format!("select {}, {place} as place from {}", side.list(), from.name)
        };
        let names: Vec<&str> = first.columns.iter().map(|column| column.name.as_str()).collect();
        let (one, other) = (numbered(&first, one), numbered(&second, other));
        format!("select {} from ({one} {what} {other})", names.join(", "))
    });
    Some(Made { sql, judged, columns: first.columns, what })
}

fn limit(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let mut selected = Selected::new(step);
    pass(&mut selected, one, "", MOST_COLUMNS, true, draws);
    if selected.columns.is_empty() {
        return None;
    }
    let order = draws.order(selected.columns.len()).into_iter().map(|at| {
        let direction = draws.pick(&["", " desc", " nulls first", " desc nulls last"]);
        format!("{}{direction}", selected.columns[at].name)
    });
    let order: Vec<String> = order.collect();
    let count = draws.pick(&[10, 1, 0, 100, 1000]);
    let offset = draws.pick(&["", "", " offset 3", " offset 200"]);
    let rest = format!(" from {} order by {} limit {count}{offset}", one.name, order.join(", "));
    Some(selected.made("limit", &rest))
}

fn distinct(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let mut selected = Selected::new(step);
    pass(&mut selected, one, "", MOST_COLUMNS, true, draws);
    if selected.columns.is_empty() {
        return None;
    }
    if draws.once_in(3) {
        let order = draws.order(selected.columns.len());
        let source: Vec<&str> = selected.sources().collect();
        let by: Vec<&str> = order.iter().map(|at| source[*at]).collect();
        let (list, name) = (selected.list(), &one.name);
        let sql = format!("select distinct on ({}) {list} from {name} order by {}", by[0], by.join(", "));
        let key = &selected.columns[order[0]];
        // Of several batches DataFusion compares nested values as if a null was equal to all others. Its sort does not. But
        // a partition has no other zeros beside 0.
        let nested = selected.columns.iter().any(|column| !is_ordered(column.kind)) && key.kind != Kind::Wild;
        let judged = nested.then(|| {
            let names: Vec<&str> = selected.columns.iter().map(|column| column.name.as_str()).collect();
            // Nor has it frames of ranges of nested values.
            let by = format!("partition by {} order by {} rows unbounded preceding", by[0], by.join(", "));
            let names = names.join(", ");
            format!(
                "select {names} from (select {list}, row_number() over ({by}) as place from {name}) where place = 1"
            )
        });
        return Some(Made { sql, judged, columns: selected.columns, what: "distinct on" });
    }
    let sql = format!("select distinct {} from {}", selected.list(), one.name);
    Some(Made { sql, judged: None, columns: selected.columns, what: "distinct" })
}

fn windows(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let (scope, mut selected) = (Scope::of(one, ""), Selected::new(step));
    if scope.columns().is_empty() {
        return None;
    }
    pass(&mut selected, one, "", MOST_COLUMNS - 2, true, draws);
    let windows = Windows::new(&scope, draws);
    if draws.once_in(4) {
        return Some(first_of_groups(selected, one, &windows, draws));
    }
    for _ in 0..1 + draws.below(3) {
        let (text, kind, exact) = windows.function(draws);
        selected.add(&text, kind, exact);
    }
    Some(selected.made("window", &format!(" from {}", one.name)))
}

/// The first rows of each group, their place among the columns or not.
fn first_of_groups(mut selected: Selected, one: &Relation, windows: &Windows<'_>, draws: &mut Draws<'_>) -> Made {
    let inner = format!("select {}, {} as place from {}", selected.list(), windows.place(draws), one.name);
    let wanted = draws.pick(&["place <= 3", "place = 1", "place < 10", "2 >= place", "place between 2 and 4"]);
    let passed: Vec<String> = selected.columns.iter().map(|column| column.name.clone()).collect();
    selected.texts = passed.iter().map(|name| format!("{name} as {name}")).collect();
    if draws.once_in(2) {
        selected.add("place", Kind::Int, true);
    }
    selected.made("first of groups", &format!(" from ({inner}) where {wanted}"))
}

fn unnest(step: usize, one: &Relation, draws: &mut Draws<'_>) -> Made {
    let (scope, mut selected) = (Scope::of(one, ""), Selected::new(step));
    let list = match scope.of_kind(Kind::Ints).first() {
        Some(list) => (*list).to_string(),
        None => scope.value(draws, Kind::Ints),
    };
    pass(&mut selected, one, "", MOST_COLUMNS / 2, false, draws);
    // DataFusion takes the keys of what it unnests for keys of the result, if it knows what becomes of them.
    let hidden = selected.texts.iter().map(|text| {
        let (value, name) = text.rsplit_once(" as ").expect("a column and its name");
        format!("case when random() < 2 then {value} end as {name}")
    });
    let mut hidden: Vec<String> = hidden.collect();
    selected.add(&format!("unnest({list})"), Kind::Int, true);
    hidden.extend(selected.texts.last().cloned());
    let judged = Some(format!("select {} from {}", hidden.join(", "), one.name));
    Made { judged, ..selected.made("unnest", &format!(" from {}", one.name)) }
}

/// Rows of one relation for which another one has rows, or has none.
fn semi(one: &Relation, other: &Relation, draws: &mut Draws<'_>) -> Option<Made> {
    let (left, right) = (Scope::of(one, "l"), Scope::of(other, "r"));
    let (name, kind) = left.column(draws, |kind| is_ordered(kind) && !right.of_kind(kind).is_empty())?;
    let key = draws.pick(&right.of_kind(kind));
    let not = draws.pick(&["", "not "]);
    let also = if draws.once_in(3) { format!(" and {}", right.predicate(draws)) } else { String::new() };
    let (test, what) = match draws.below(3) {
        0 => (format!("{not}exists (select 1 from {} r where r_key = l_key{also})", other.name), "exists"),
        1 => (format!("l_key {not}in (select r_key from {} r)", other.name), "in"),
        _ => {
            let also = if also.is_empty() { String::new() } else { format!(" where true{also}") };
            (format!("l_key {not}in (select r_key from {} r{also})", other.name), "in")
        }
    };
    let test = test.replace("l_key", &name).replace("r_key", key);
    let sql = format!("select l.* from {} l where {test}", one.name);
    Some(Made { sql, judged: None, columns: one.columns.clone(), what })
}

/// A column whose values another relation gives: one for all rows, or one for each.
fn scalar(step: usize, one: &Relation, other: &Relation, draws: &mut Draws<'_>) -> Made {
    let (left, right) = (Scope::of(one, "l"), Scope::of(other, "r"));
    let mut selected = Selected::new(step);
    pass(&mut selected, one, "l", MOST_COLUMNS - 1, false, draws);
    let (text, kind, exact) = super::aggregates::common(&right, draws);
    let key = left.column(draws, |kind| is_ordered(kind) && !right.of_kind(kind).is_empty());
    let condition = match key {
        Some((name, kind)) if draws.once_in(2) => {
            let key = draws.pick(&right.of_kind(kind)).to_string();
            format!(" where {key} = {name}")
        }
        _ => String::new(),
    };
    selected.add(&format!("(select {text} from {} r{condition})", other.name), kind, exact);
    selected.made("scalar subquery", &format!(" from {} l", one.name))
}
