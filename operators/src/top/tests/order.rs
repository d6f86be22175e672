//! Codes have the order of arrow's row format, and where they are exact they tell as much.

use arrow::row::{RowConverter, SortField};

use super::*;
use crate::top::order::{Code, Order};

fn check<C: Code>(rows: &RecordBatch, columns: &[SortColumn], order: &Order) {
    let mut codes: Vec<C> = Vec::new();
    C::of(order, rows, &mut codes).expect("codes");
    assert_eq!(codes.len(), rows.num_rows());
    let fields = columns
        .iter()
        .map(|by| SortField::new_with_options(rows.schema().field(by.column).data_type().clone(), by.options));
    let converter = RowConverter::new(fields.collect()).expect("comparable");
    let values: Vec<_> =
        columns.iter().map(|by| crate::aggregate::normalised(Arc::clone(rows.column(by.column)))).collect();
    let expected = converter.convert_columns(&values).expect("converts");
    for one in 0..rows.num_rows() {
        assert!(codes[one] < C::END);
        for other in 0..rows.num_rows() {
            let (row, peer) = (expected.row(one), expected.row(other));
            if codes[one] < codes[other] {
                assert!(row < peer, "rows {one} and {other} by {columns:?}");
            } else if codes[one] == codes[other] && codes[one].is_exact(order) {
                assert!(row == peer, "rows {one} and {other} by {columns:?}");
            }
        }
    }
}

#[test]
fn codes_are_in_the_order_of_the_rows() {
    let rows = rows(250);
    for names in ORDERS.into_iter().filter(|names| !names.is_empty()) {
        let columns = by(&rows.schema(), names);
        let order = Order::try_new(&rows.schema(), &columns).expect("comparable");
        check::<u128>(&rows, &columns, &order);
        if order.is_narrow() {
            check::<u64>(&rows, &columns, &order);
        }
    }
}

#[test]
fn one_number_has_a_narrow_code_and_most_codes_are_exact() {
    let rows = rows(250);
    let order = |names: &[&str]| Order::try_new(&rows.schema(), &by(&rows.schema(), names)).expect("comparable");
    for name in ["f", "-i", "u!", "f32", "b", "day", "at", "d"] {
        assert!(order(&[name]).is_narrow(), "{name}");
    }
    assert!(!order(&["t"]).is_narrow() && !order(&["b", "day"]).is_narrow());
    let exact = |names: &[&str]| {
        let order = order(names);
        let mut codes: Vec<u128> = Vec::new();
        Code::of(&order, &rows, &mut codes).expect("codes");
        codes.into_iter().all(|code| code.is_exact(&order))
    };
    assert!(exact(&["b", "i", "day"]) && exact(&["f", "day", "b"]));
    assert!(!exact(&["f", "i"]) && !exact(&["s"]) && !exact(&["d", "b"]));
    let mut codes: Vec<u64> = Vec::new();
    u64::of(&order(&["f"]), &rows, &mut codes).expect("codes");
    assert!(codes.iter().all(|code| code.is_exact(&order(&["f"]))), "no float is at the end of all numbers");
}
