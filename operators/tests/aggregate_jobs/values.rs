//! Results that are values of a whole group: one that does not fit is a typed error, which names a limit that is
//! enough. What is small in the end does not fail, however large its group.

use aqueduct_runtime::{OperatorError, SourceSpec};
use arrow::array::{Array, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::Int64Type;
use datafusion_functions_aggregate::array_agg::array_agg_udaf;
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion_functions_aggregate::string_agg::string_agg_udaf;
use datafusion_physical_expr::expressions::lit;

use super::*;

const TEXT_BYTES: usize = 60;

fn by_value(schema: &SchemaRef) -> Vec<PhysicalSortExpr> {
    let options = SortOptions { descending: true, nulls_first: false };
    vec![PhysicalSortExpr::new(col("v", schema).expect("v"), options)]
}

/// Runs `calls` over one group of nearly all of `rows` rows.
fn attempt(
    limit_bytes: usize,
    rows: u64,
    keys: &[&str],
    calls: &dyn Fn(&SchemaRef) -> Vec<Call>,
) -> Result<Outcome, ExecutionError> {
    let cluster = cluster(2, limit_bytes);
    let source = skewed(rows, 10, TEXT_BYTES);
    let schema = source.schema();
    let mut graph = Graph::new();
    let numbers = graph.source("rows", source);
    let groups = aggregate(&mut graph, numbers, &schema, keys, &calls(&schema));
    run(&cluster, graph, groups)
}

/// The value of all rows is too large for two workers of 16 MB; with the limit that the error names it is not.
fn check(keys: &[&str], call: impl Fn(&SchemaRef) -> Call) {
    let rows = 300_000;
    let calls = |schema: &SchemaRef| vec![call(schema), Call::new(count_udaf(), vec![lit(1i64)])];
    let error = attempt(SMALL_BYTES, rows, keys, &calls).expect_err("a value larger than the limit");
    println!("{error}");
    let ExecutionError::Operator { at, cause } = &error else { panic!("{error}") };
    let OperatorError::RowTooLarge { needed_bytes, sufficient_limit_bytes, .. } = **cause else { panic!("{error}") };
    assert!(at.to_string().contains("aggregate"), "{at}");
    assert!(needed_bytes > SMALL_BYTES / 4 && sufficient_limit_bytes < 40 * SMALL_BYTES, "{error}");
    let outcome = attempt(sufficient_limit_bytes, rows, keys, &calls).expect("the limit that was named is enough");
    let mut counted = 0;
    for batch in &outcome.batches {
        let counts = batch.column(keys.len() + 1).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let values = batch.column(keys.len());
            let values = match values.as_list_opt::<i32>() {
                Some(lists) => lists.value_length(row) as usize,
                None => {
                    let one = arrow::compute::cast(&values.slice(row, 1), &arrow::datatypes::DataType::LargeUtf8);
                    let bytes = one.expect("a text").as_string::<i64>().value(0).len();
                    (bytes + 1) / (TEXT_BYTES + 1)
                }
            };
            assert_eq!(values, counts.value(row) as usize);
            counted += values;
        }
    }
    assert_eq!(counted, rows as usize);
}

fn texts(schema: &SchemaRef) -> Vec<Expression> {
    vec![col("t", schema).expect("t")]
}

fn joined(schema: &SchemaRef) -> Vec<Expression> {
    vec![col("t", schema).expect("t"), lit(",")]
}

#[test]
fn a_list_that_does_not_fit_names_a_limit_that_does() {
    for keys in [&["k"][..], &[]] {
        within(280, move || check(keys, |schema| Call::new(array_agg_udaf(), texts(schema))));
    }
}

#[test]
fn an_ordered_list_that_does_not_fit_names_a_limit_that_does() {
    let call = |schema: &SchemaRef| Call { order_by: by_value(schema), ..Call::new(array_agg_udaf(), texts(schema)) };
    for keys in [&["k"][..], &[]] {
        within(280, move || check(keys, call));
    }
}

#[test]
fn a_distinct_list_that_does_not_fit_names_a_limit_that_does() {
    for keys in [&["k"][..], &[]] {
        within(280, move || check(keys, |schema| Call::distinct(array_agg_udaf(), texts(schema))));
    }
}

#[test]
fn a_text_that_does_not_fit_names_a_limit_that_does() {
    for keys in [&["k"][..], &[]] {
        within(280, move || check(keys, |schema| Call::new(string_agg_udaf(), joined(schema))));
    }
}

#[test]
fn an_ordered_text_that_does_not_fit_names_a_limit_that_does() {
    let call = |schema: &SchemaRef| Call { order_by: by_value(schema), ..Call::new(string_agg_udaf(), joined(schema)) };
    for keys in [&["k"][..], &[]] {
        within(280, move || check(keys, call));
    }
}

#[test]
fn a_list_beside_distinct_texts_that_does_not_fit_is_a_typed_error_too() {
    within(280, || {
        let calls = |schema: &SchemaRef| {
            vec![Call::new(array_agg_udaf(), texts(schema)), Call::distinct(count_udaf(), texts(schema))]
        };
        let error = attempt(SMALL_BYTES, 300_000, &["k"], &calls).expect_err("a value larger than the limit");
        let ExecutionError::Operator { cause, .. } = &error else { panic!("{error}") };
        let OperatorError::RowTooLarge { sufficient_limit_bytes, .. } = **cause else { panic!("{error}") };
        let outcome = attempt(sufficient_limit_bytes, 300_000, &["k"], &calls).expect("the limit that was named");
        let lists: usize = outcome.batches.iter().map(|batch| batch.column(1).as_list::<i32>().values().len()).sum();
        assert_eq!(lists, 300_000);
    });
}

#[test]
fn the_first_of_ordered_values_of_one_huge_group_fits() {
    within(280, || {
        let calls = |schema: &SchemaRef| {
            [first_value_udaf(), last_value_udaf()]
                .map(|function| Call { order_by: by_value(schema), ..Call::new(function, texts(schema)) })
                .to_vec()
        };
        let outcome = attempt(SMALL_BYTES, 300_000, &[], &calls).expect("runs");
        let text_of = |column: usize| outcome.batches[0].column(column).as_string_view().value(0).to_string();
        assert_eq!((text_of(0), text_of(1)), (text(299_999, TEXT_BYTES), text(0, TEXT_BYTES)));
    });
}
