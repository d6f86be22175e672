//! Random aggregates, each with what is known of its values.

use super::expressions::Scope;
use crate::data::Kind;
use crate::draws::Draws;

/// An aggregate: its text, the kind of its values, whether they are exact.
pub(super) type Called = (String, Kind, bool);

/// Types whose values have an order that all agree on.
pub(super) fn is_ordered(kind: Kind) -> bool {
    !matches!(kind, Kind::Ints | Kind::Pair)
}

/// An aggregate of any kind.
pub(super) fn aggregate(scope: &Scope, draws: &mut Draws<'_>) -> Called {
    let (text, kind, exact) = match draws.below(5) {
        0 => common(scope, draws),
        1 | 2 => of_numbers(scope, draws),
        3 => of_order(scope, draws),
        _ => distinct(scope, draws),
    };
    match draws.once_in(5) {
        true => (format!("{text} filter (where {})", scope.predicate(draws)), kind, exact),
        false => (text, kind, exact),
    }
}

/// An aggregate that any order of its rows gives, windows of them included.
pub(super) fn common(scope: &Scope, draws: &mut Draws<'_>) -> Called {
    let any = scope.column(draws, is_ordered);
    match (draws.below(5), any) {
        (0, _) | (_, None) => ("count(*)".into(), Kind::Int, true),
        (1, Some((name, _))) => (format!("count({name})"), Kind::Int, true),
        (2, Some((name, kind))) => (format!("min({})", ordered(name, kind)), kind, true),
        (3, Some((name, kind))) => (format!("max({})", ordered(name, kind)), kind, true),
        (_, Some(_)) => {
            let kind = draws.pick(&[Kind::Int, Kind::Float, Kind::Decimal]);
            (format!("sum({})", scope.value(draws, kind)), kind, true)
        }
    }
}

/// A value that is a number: what is the least of others depends on which of them comes first.
fn ordered(name: String, kind: Kind) -> String {
    if kind == Kind::Wild { format!("case when isnan({name}) then null else {name} end") } else { name }
}

fn of_numbers(scope: &Scope, draws: &mut Draws<'_>) -> Called {
    let number = |draws: &mut Draws<'_>| {
        let kind = draws.pick(&[Kind::Int, Kind::Float]);
        scope.value(draws, kind)
    };
    match draws.below(15) {
        0 => (format!("sum({})", number(draws)), Kind::Float, true),
        1 => (format!("avg({})", number(draws)), Kind::Float, false),
        2 => (format!("sum(abs({}))", scope.value(draws, Kind::Wild)), Kind::Wild, false),
        3 => (format!("avg(abs({}))", scope.value(draws, Kind::Wild)), Kind::Wild, false),
        4 => (format!("median({})", number(draws)), Kind::Float, false),
        5 => (format!("stddev({})", number(draws)), Kind::Float, false),
        6 => (format!("var_pop({})", number(draws)), Kind::Float, false),
        7 => (format!("covar_samp({}, {})", number(draws), number(draws)), Kind::Float, false),
        8 => (format!("bool_and({})", scope.value(draws, Kind::Bool)), Kind::Bool, true),
        9 => (format!("bool_or({})", scope.value(draws, Kind::Bool)), Kind::Bool, true),
        10 => (format!("bit_xor({})", scope.value(draws, Kind::Big)), Kind::Big, true),
        11 => (format!("bit_and({})", scope.value(draws, Kind::Big)), Kind::Big, true),
        12 => (format!("sum({})", scope.value(draws, Kind::Big)), Kind::Big, true),
        13 => (format!("avg({})", scope.value(draws, Kind::Decimal)), Kind::Decimal, true),
        _ => {
            let share = draws.pick(&["0.5", "0", "0.25", "1"]);
            let kind = draws.pick(&[Kind::Float, Kind::Int]);
            let value = scope.value(draws, kind);
            (format!("percentile_cont({share}) within group (order by {value})"), Kind::Float, false)
        }
    }
}

/// What depends on the order of rows, in an order that says all that matters.
fn of_order(scope: &Scope, draws: &mut Draws<'_>) -> Called {
    let direction = draws.pick(&["", " desc", " nulls first", " desc nulls last"]);
    let Some((value, kind)) = scope.column(draws, is_ordered) else { return ("count(*)".into(), Kind::Int, true) };
    let by = scope.column(draws, is_ordered).map_or(value.clone(), |(name, _)| name);
    match draws.below(6) {
        0 => (format!("first_value({value} order by {by}{direction}, {value})"), kind, true),
        1 => (format!("last_value({value} order by {by}{direction}, {value})"), kind, true),
        2 => (format!("nth_value({value}, 2 order by {by}{direction}, {value})"), kind, true),
        3 => {
            let value = scope.value(draws, Kind::Int);
            (
                format!("array_agg(cast({value} as bigint) order by cast({value} as bigint){direction})"),
                Kind::Ints,
                true,
            )
        }
        4 => {
            let text = format!("substr({}, 1, 5)", scope.value(draws, Kind::Text));
            (format!("string_agg({text}, '|' order by {text}{direction})"), Kind::Text, true)
        }
        _ => (format!("first_value({value} order by {value}{direction})"), kind, true),
    }
}

fn distinct(scope: &Scope, draws: &mut Draws<'_>) -> Called {
    let Some((name, _)) = scope.column(draws, |_| true) else { return ("count(*)".into(), Kind::Int, true) };
    match draws.below(4) {
        0 | 1 => (format!("count(distinct {name})"), Kind::Int, true),
        2 => (format!("sum(distinct {})", scope.value(draws, Kind::Int)), Kind::Int, true),
        _ => {
            let value = format!("cast({} as bigint)", scope.value(draws, Kind::Int));
            (format!("array_agg(distinct {value} order by {value})"), Kind::Ints, true)
        }
    }
}
