//! The 22 queries, and what each asks of the order of its rows.

/// One of the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Its number, 1 to 22.
    pub number: usize,
    /// Its text.
    pub sql: &'static str,
    /// The columns that it orders its rows by, as places in the answer.
    pub ordered_by: &'static [usize],
}

macro_rules! query {
    ($number:literal, $ordered_by:expr) => {
        Query { number: $number, sql: include_str!(concat!("../queries/q", $number, ".sql")), ordered_by: &$ordered_by }
    };
}

/// The queries, in order of their numbers.
pub const QUERIES: [Query; 22] = [
    query!(1, [0, 1]),
    query!(2, [0, 2, 1, 3]),
    query!(3, [1, 2]),
    query!(4, [0]),
    query!(5, [1]),
    query!(6, []),
    query!(7, [0, 1, 2]),
    query!(8, [0]),
    query!(9, [0, 1]),
    query!(10, [2]),
    query!(11, [1]),
    query!(12, [0]),
    query!(13, [1, 0]),
    query!(14, []),
    query!(15, [0]),
    query!(16, [3, 0, 1, 2]),
    query!(17, []),
    query!(18, [4, 3]),
    query!(19, []),
    query!(20, [0]),
    query!(21, [1, 0]),
    query!(22, [0]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_that_says_order_by_has_columns_to_check() {
        for (place, query) in QUERIES.iter().enumerate() {
            assert_eq!(query.number, place + 1);
            // The last `order by`, if there is one, is the query's own: those of subqueries would be pointless.
            assert_eq!(query.sql.contains("order by"), !query.ordered_by.is_empty(), "query {}", query.number);
        }
    }
}
