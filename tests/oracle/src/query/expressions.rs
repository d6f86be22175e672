//! Random expressions over the exact columns of a scope.

use super::{Column, Relation};
use crate::data::Kind;
use crate::draws::Draws;

/// How deep expressions are.
const DEPTH: usize = 2;

pub(super) const KINDS: [Kind; 11] = [
    Kind::Int,
    Kind::Float,
    Kind::Text,
    Kind::Bool,
    Kind::Date,
    Kind::Wild,
    Kind::Big,
    Kind::Time,
    Kind::Decimal,
    Kind::Ints,
    Kind::Pair,
];

/// Columns that an expression may name, as it names them.
#[derive(Debug, Clone)]
pub(super) struct Scope(Vec<(String, Kind)>);

impl Scope {
    /// The exact columns of `relation`, called `alias` if it has another name here.
    pub(super) fn of(relation: &Relation, alias: &str) -> Scope {
        let name = |column: &Column| match alias {
            "" => column.name.clone(),
            alias => format!("{alias}.{}", column.name),
        };
        let exact = relation.columns.iter().filter(|column| column.exact);
        Scope(exact.map(|column| (name(column), column.kind)).collect())
    }

    pub(super) fn and(&self, other: &Scope) -> Scope {
        Scope(self.0.iter().chain(&other.0).cloned().collect())
    }

    pub(super) fn columns(&self) -> &[(String, Kind)] {
        &self.0
    }

    pub(super) fn of_kind(&self, kind: Kind) -> Vec<&str> {
        self.0.iter().filter(|(_, known)| *known == kind).map(|(name, _)| name.as_str()).collect()
    }

    /// A column of any kind for which `fits` is true.
    pub(super) fn column(&self, draws: &mut Draws<'_>, fits: impl Fn(Kind) -> bool) -> Option<(String, Kind)> {
        let fitting: Vec<_> = self.0.iter().filter(|(_, kind)| fits(*kind)).collect();
        if fitting.is_empty() { None } else { Some(fitting[draws.below(fitting.len())].clone()) }
    }

    /// A value of any kind.
    pub(super) fn any(&self, draws: &mut Draws<'_>) -> (String, Kind) {
        match self.column(draws, |_| true) {
            Some((name, kind)) if draws.below(3) < 2 => (name, kind),
            _ => {
                let kind = draws.pick(&KINDS);
                (self.value(draws, kind), kind)
            }
        }
    }

    pub(super) fn value(&self, draws: &mut Draws<'_>, kind: Kind) -> String {
        self.deep(draws, kind, DEPTH)
    }

    /// Something that is true for some of the rows.
    pub(super) fn predicate(&self, draws: &mut Draws<'_>) -> String {
        self.truth(draws, DEPTH)
    }

    fn deep(&self, draws: &mut Draws<'_>, kind: Kind, depth: usize) -> String {
        let columns = self.of_kind(kind);
        let plain = depth == 0 || draws.below(5) < 2;
        if plain {
            return match columns.is_empty() || draws.once_in(9) {
                true => literal(draws, kind),
                false => draws.pick(&columns).to_string(),
            };
        }
        let depth = depth - 1;
        let of = |kind: Kind, draws: &mut Draws<'_>| self.deep(draws, kind, depth);
        match draws.below(9) {
            0 => format!("coalesce({}, {})", of(kind, draws), of(kind, draws)),
            1 => {
                let truth = self.truth(draws, depth);
                format!("case when {truth} then {} else {} end", of(kind, draws), of(kind, draws))
            }
            2 => {
                let truth = self.truth(draws, depth);
                format!("case when {truth} then {} end", of(kind, draws))
            }
            _ => match kind {
                Kind::Int => match draws.below(7) {
                    0 => format!("({} + {})", of(Kind::Int, draws), of(Kind::Int, draws)),
                    1 => format!("cast({} % 7 as bigint)", of(Kind::Int, draws)),
                    2 => format!("cast(character_length({}) as bigint)", of(Kind::Text, draws)),
                    3 => format!("cast({} as bigint)", of(Kind::Bool, draws)),
                    4 => format!("cast(extract(month from {}) as bigint)", of(Kind::Date, draws)),
                    5 => format!("({})['a']", of(Kind::Pair, draws)),
                    _ => format!("cast(array_length({}) as bigint)", of(Kind::Ints, draws)),
                },
                Kind::Big => match draws.below(2) {
                    0 => format!("cast({} as bigint)", of(Kind::Int, draws)),
                    _ => format!("({} + {})", of(Kind::Big, draws), of(Kind::Big, draws)),
                },
                Kind::Float => match draws.below(3) {
                    0 => format!("({} + {})", of(Kind::Float, draws), of(Kind::Float, draws)),
                    1 => format!("(cast({} as double) / 4)", of(Kind::Int, draws)),
                    _ => format!("(- {})", of(Kind::Float, draws)),
                },
                Kind::Wild => match draws.below(4) {
                    0 => format!("abs({})", of(Kind::Wild, draws)),
                    1 => format!("({} + {})", of(Kind::Wild, draws), of(Kind::Wild, draws)),
                    2 => format!("({} / {})", of(Kind::Float, draws), of(Kind::Wild, draws)),
                    _ => format!("cast({} as double)", of(Kind::Float, draws)),
                },
                Kind::Text => match draws.below(6) {
                    0 => format!("upper({})", of(Kind::Text, draws)),
                    1 => format!("substr({}, 2, 9)", of(Kind::Text, draws)),
                    2 => format!("concat({}, 'é', {})", of(Kind::Text, draws), of(Kind::Text, draws)),
                    3 => format!("cast({} as varchar)", of(Kind::Int, draws)),
                    4 => format!("({})['b']", of(Kind::Pair, draws)),
                    _ => format!("replace({}, 'a', 'ää')", of(Kind::Text, draws)),
                },
                Kind::Bool => self.truth(draws, depth),
                Kind::Date => format!("cast({} as date)", of(Kind::Time, draws)),
                Kind::Time => match draws.below(2) {
                    0 => format!("date_trunc('day', {})", of(Kind::Time, draws)),
                    _ => format!("cast({} as timestamp)", of(Kind::Date, draws)),
                },
                Kind::Decimal => match draws.below(2) {
                    0 => format!("cast({} as decimal(12, 2))", of(Kind::Int, draws)),
                    _ => {
                        format!("cast(({} + {}) as decimal(14, 2))", of(Kind::Decimal, draws), of(Kind::Decimal, draws))
                    }
                },
                Kind::Ints => {
                    format!("make_array({}, {})", as_bigint(of(Kind::Int, draws)), as_bigint(of(Kind::Int, draws)))
                }
                Kind::Pair => {
                    format!(
                        "named_struct('a', {}, 'b', {})",
                        as_bigint(of(Kind::Int, draws)),
                        as_text(of(Kind::Text, draws))
                    )
                }
            },
        }
    }

    fn truth(&self, draws: &mut Draws<'_>, depth: usize) -> String {
        format!("({})", self.bare_truth(draws, depth))
    }

    fn bare_truth(&self, draws: &mut Draws<'_>, depth: usize) -> String {
        let kind = self.column(draws, |_| true).map_or(Kind::Int, |(_, kind)| kind);
        match draws.below(if depth == 0 { 6 } else { 9 }) {
            0 | 1 => {
                let operator = draws.pick(&["<", ">=", "=", "<>", ">", "<="]);
                // Nested values are only ever equal.
                let operator = match kind {
                    Kind::Ints | Kind::Pair if !matches!(operator, "=" | "<>") => "=",
                    _ => operator,
                };
                format!("{} {operator} {}", self.deep(draws, kind, depth.min(1)), literal(draws, kind))
            }
            2 => format!("{} is not null", self.deep(draws, kind, 0)),
            3 => format!("{} is null", self.deep(draws, kind, 0)),
            4 => match kind {
                Kind::Text => format!(
                    "{} like {}",
                    self.deep(draws, kind, 0),
                    draws.pick(&["'%1%'", "'größer%'", "'_'", "'t%'", "'%'"])
                ),
                Kind::Bool => self.deep(draws, kind, 0),
                _ => {
                    let values: Vec<String> = (0..1 + draws.below(5)).map(|_| literal(draws, kind)).collect();
                    let not = if draws.once_in(4) { "not " } else { "" };
                    format!("{} {not}in ({})", self.deep(draws, kind, 0), values.join(", "))
                }
            },
            5 => format!("{} is distinct from {}", self.deep(draws, kind, 0), self.deep(draws, kind, 0)),
            6 => format!("{} and {}", self.truth(draws, depth - 1), self.truth(draws, depth - 1)),
            7 => format!("{} or {}", self.truth(draws, depth - 1), self.truth(draws, depth - 1)),
            _ => format!("not {}", self.truth(draws, depth - 1)),
        }
    }
}

fn as_bigint(value: String) -> String {
    format!("cast({value} as bigint)")
}

fn as_text(value: String) -> String {
    format!("cast({value} as varchar)")
}

/// A value of `kind` in the one type that it has where rows of several relations meet.
pub(super) fn common(value: &str, kind: Kind) -> String {
    match kind {
        Kind::Int | Kind::Big => format!("cast({value} as bigint)"),
        Kind::Float | Kind::Wild => format!("cast({value} as double)"),
        Kind::Text => format!("cast({value} as varchar)"),
        Kind::Decimal => format!("cast({value} as decimal(20, 2))"),
        Kind::Time => format!("cast({value} as timestamp)"),
        Kind::Bool | Kind::Date | Kind::Ints | Kind::Pair => value.to_string(),
    }
}

fn literal(draws: &mut Draws<'_>, kind: Kind) -> String {
    let number = draws.below(23) as i64;
    match kind {
        Kind::Int => format!("{}", number - 3),
        Kind::Big => draws.pick(&["0", "9223372036854775807", "-9223372036854775807", "100"]).into(),
        Kind::Float => format!("cast({} as double)", (number - 3) as f64 / 4.0),
        Kind::Wild => match number % 6 {
            0 => "cast(1.5 as double)".into(),
            1 => "cast('NaN' as double)".into(),
            2 => "cast(0 as double)".into(),
            3 => "cast('inf' as double)".into(),
            _ => format!("cast({}.1 as double)", number * 1000),
        },
        Kind::Text => match number % 6 {
            0 => "''".into(),
            1 => "'größer als zwölf Bytes 15'".into(),
            2 => "'日本語'".into(),
            3 => "'a'".into(),
            _ => format!("'t{number}'"),
        },
        Kind::Bool => if number % 2 == 0 { "true" } else { "false" }.into(),
        Kind::Date => format!("date '2020-{:02}-15'", 1 + number % 12),
        Kind::Time => format!("timestamp '2020-{:02}-15 12:30:00'", 1 + number % 12),
        Kind::Decimal => format!("cast({} as decimal(12, 2))", (number - 3) as f64 / 4.0),
        Kind::Ints => format!("make_array(cast({number} as bigint), cast(null as bigint))"),
        Kind::Pair => format!("named_struct('a', cast({number} as bigint), 'b', cast('t{number}' as varchar))"),
    }
}
