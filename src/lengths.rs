//! Functions whose results are as long as an argument says, `repeat('a', 1000000000)`: what a call would make is worked
//! out before it is made, and refused where it is too much.
//!
//! An optimiser computes what is constant, so without a bound even a query that is only explained could take all memory.
//! What is refused there stays in the plan as it was written.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Result as QueryResult, exec_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use regex::Regex;

use crate::stack::is_on_large_stack;

/// What a call makes at the most for the rows of a batch.
const CALL_BYTES: u128 = 1 << 30;

/// What is computed at the most while a query is planned. The result may be wanted for each row of a batch.
const PLANNED_BYTES: u128 = 4 << 10;

/// Has every such function in `plan` work out the length first.
pub(crate) fn bounded(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let changed =
        plan.transform_up_with_subqueries(|plan| plan.map_expressions(|expr| expr.transform_up(bounded_call)));
    Ok(changed?.data)
}

fn bounded_call(expr: Expr) -> QueryResult<Transformed<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(Transformed::no(expr)) };
    let inner: &dyn ScalarUDFImpl = func.inner().as_ref();
    let Some(length) = Length::of(func.name()).filter(|_| !inner.is::<Bounded>()) else {
        return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })));
    };
    let func = Arc::new(ScalarUDF::new_from_impl(Bounded { function: func, length }));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
}

/// How the arguments say how much there will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Length {
    /// The first argument so many times.
    Times,
    /// So many characters.
    Characters,
    /// So many elements, the last argument or nulls among them.
    Elements,
    /// From, to, and in which steps.
    Steps,
    /// The first argument, with the third in the place of the second.
    Replaced,
    /// The same where the second is a regular expression: for its first match, or for all if the fourth says `g`.
    Matched,
}

impl Length {
    fn of(function: &str) -> Option<Self> {
        Some(match function {
            "repeat" | "array_repeat" => Self::Times,
            "lpad" | "rpad" => Self::Characters,
            "array_resize" => Self::Elements,
            "range" | "generate_series" => Self::Steps,
            "replace" => Self::Replaced,
            "regexp_replace" => Self::Matched,
            _ => return None,
        })
    }

    /// Bytes that are made of row `row` of the arguments, or a few more; without `counted`, which looks for what is
    /// replaced, many more. `kind` is the type of the first argument. What is the same for all rows is an array of one.
    fn bytes(self, kind: &DataType, args: &[ArrayRef], row: usize, counted: Option<&mut Expression>) -> Option<u128> {
        let at = |array: &ArrayRef| if array.len() == 1 { 0 } else { row };
        let number = |index: usize| {
            let array = args.get(index)?;
            let (numbers, row) = (array.as_primitive_opt::<Int64Type>()?, at(array));
            numbers.is_valid(row).then(|| i128::from(numbers.value(row)))
        };
        let count = |index| number(index).map(|count| count.max(0) as u128);
        let value = |index: usize| args.get(index).map_or(1, |array| value_bytes(array, at(array)));
        match self {
            Self::Times => Some(count(1)?.saturating_mul(value(0))),
            Self::Characters if args[0].is_null(at(&args[0])) => None,
            Self::Characters => Some(count(1)?.saturating_mul(if args.len() > 2 { 4 } else { 1 })),
            Self::Elements => Some(count(1)?.saturating_mul(if args.len() > 2 { value(2) } else { 8 })),
            Self::Replaced | Self::Matched => {
                let [whole, from, to] = [0, 1, 2].map(|index| args.get(index).and_then(|texts| text(texts, at(texts))));
                let (whole, from, to) = (whole?, from?, to?);
                let flags = args.get(3).and_then(|texts| text(texts, at(texts))).unwrap_or_default();
                let times = match (self, counted) {
                    // Nothing is found nowhere.
                    (Self::Replaced, _) if from.is_empty() => 0,
                    (Self::Replaced, None) => whole.len() / from.len(),
                    (Self::Replaced, Some(_)) => whole.matches(from).count(),
                    _ if !flags.contains('g') => 1,
                    (_, None) => whole.len() + 1,
                    (_, Some(expression)) => expression.matches(from, flags, whole)?,
                };
                // Each reference to a group is at most what was matched, and no two matches overlap.
                let references = if self == Self::Matched { to.matches(['\\', '$']).count() } else { 0 };
                Some((1 + references) as u128 * whole.len() as u128 + times as u128 * to.len() as u128)
            }
            Self::Steps => {
                let interval =
                    args.get(2).and_then(|step| Some((step.as_primitive_opt::<IntervalMonthDayNanoType>()?, at(step))));
                let Some((interval, row)) = interval else {
                    let (from, to) = if args.len() > 1 { (number(0)?, number(1)?) } else { (0, number(0)?) };
                    let step = if args.len() > 2 { number(2)? } else { 1 };
                    return Some(elements(to - from, step)?.saturating_mul(8));
                };
                let step = interval.is_valid(row).then(|| interval.value(row))?;
                let (months, days) = (i128::from(step.months), i128::from(step.days));
                // Dates are counted in days, and heed no part of one.
                let nanoseconds = if *kind == DataType::Date32 { 0 } else { i128::from(step.nanoseconds) };
                let parts = [months, days, nanoseconds];
                if parts.iter().any(|part| *part < 0) && parts.iter().any(|part| *part > 0) {
                    // There and back again, perhaps for ever.
                    return Some(u128::MAX);
                }
                // The shortest that a month and a day can be.
                let step = match kind {
                    DataType::Date32 => months * 28 + days,
                    _ => (months * 28 + days) * 23 * NANOSECONDS_PER_HOUR + nanoseconds,
                };
                Some(elements(number(1)? - number(0)?, step)?.saturating_mul(8))
            }
        }
    }
}

/// The regular expression of the row before, which is most often that of all rows.
#[derive(Default)]
struct Expression {
    source: String,
    regex: Option<Regex>,
}

impl Expression {
    /// Matches in `whole`; `None` if the function itself has something to say of the expression.
    fn matches(&mut self, pattern: &str, flags: &str, whole: &str) -> Option<usize> {
        let flags = flags.replace('g', "");
        let source = if flags.is_empty() { pattern.to_string() } else { format!("(?{flags}){pattern}") };
        if self.regex.is_none() || self.source != source {
            *self = Self { regex: Some(Regex::new(&source).ok()?), source };
        }
        Some(self.regex.as_ref()?.find_iter(whole).count())
    }
}

const NANOSECONDS_PER_HOUR: i128 = 3_600_000_000_000;

/// Steps of `step` that go through `distance`; `None` if the function itself has something to say.
fn elements(distance: i128, step: i128) -> Option<u128> {
    match (distance.cmp(&0), step.cmp(&0)) {
        (_, Ordering::Equal) => None,
        (Ordering::Less, Ordering::Greater) | (Ordering::Greater, Ordering::Less) => Some(0),
        _ => Some(distance.unsigned_abs() / step.unsigned_abs() + 1),
    }
}

/// About what the value of a row takes.
fn value_bytes(values: &ArrayRef, row: usize) -> u128 {
    let kind = values.data_type();
    let length = match kind.primitive_width() {
        _ if kind.is_string() => text(values, row).map_or(0, str::len),
        Some(width) => width,
        None => values.slice(row, 1).to_data().get_slice_memory_size().unwrap_or(8).max(8),
    };
    length as u128
}

/// The text of a row, if that is one.
fn text(values: &ArrayRef, row: usize) -> Option<&str> {
    let text = match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().value(row),
        DataType::LargeUtf8 => values.as_string::<i64>().value(row),
        DataType::Utf8View => values.as_string_view().value(row),
        _ => return None,
    };
    values.is_valid(row).then_some(text)
}

/// Numbers as 64 bits, dates as days, times as nanoseconds; the rest as it is.
fn normal(value: &ColumnarValue) -> QueryResult<ArrayRef> {
    let array = value.to_array(1)?;
    Ok(match array.data_type() {
        DataType::Date32 => cast(&cast(&array, &DataType::Int32)?, &DataType::Int64)?,
        DataType::Timestamp(unit, _) => {
            let factor = match unit {
                TimeUnit::Second => 1_000_000_000,
                TimeUnit::Millisecond => 1_000_000,
                TimeUnit::Microsecond => 1_000,
                TimeUnit::Nanosecond => 1,
            };
            let counts = cast(&array, &DataType::Int64)?;
            Arc::new(counts.as_primitive::<Int64Type>().unary::<_, Int64Type>(|count| count.saturating_mul(factor)))
        }
        kind if kind.is_integer() => cast(&array, &DataType::Int64)?,
        _ => array,
    })
}

/// A function that makes nothing that is too long.
#[derive(Debug)]
struct Bounded {
    function: Arc<ScalarUDF>,
    length: Length,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> QueryResult<()> {
        let arrays: Vec<ArrayRef> = args.args.iter().map(normal).collect::<QueryResult<_>>()?;
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let kind = args.args.first().map_or(DataType::Null, ColumnarValue::data_type);
        let times = if constant { args.number_rows.max(1) as u128 } else { 1 };
        let total = |mut counted: Option<Expression>| {
            let bytes = (0..rows).filter_map(|row| self.length.bytes(&kind, &arrays, row, counted.as_mut()));
            bytes.fold(0, u128::saturating_add).saturating_mul(times)
        };
        let most = if is_on_large_stack() { PLANNED_BYTES } else { CALL_BYTES };
        // What is replaced is looked for only where that matters: the function does so once more.
        if total(None) > most
            && let bytes = total(Some(Expression::default()))
            && bytes > most
        {
            let name = self.function.name();
            return exec_err!("{name} would make a result of {bytes} bytes for a batch of rows; {most} are the most");
        }
        Ok(())
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> QueryResult<String> {
        self.function.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, kinds: &[DataType]) -> QueryResult<DataType> {
        self.function.return_type(kinds)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> QueryResult<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.function.is_strict()
    }

    fn coerce_types(&self, kinds: &[DataType]) -> QueryResult<Vec<DataType>> {
        self.function.coerce_types(kinds)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> QueryResult<ExprSimplifyResult> {
        self.function.simplify(args, context)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> QueryResult<ColumnarValue> {
        self.check(&args)?;
        self.function.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use crate::LocalCluster;

    fn cluster() -> LocalCluster {
        LocalCluster::builder().workers(1).memory_limit("64MiB").progress(false).start().expect("a small cluster")
    }

    /// A thousand million times ten bytes.
    const REPLACED: &str = "replace(replace(replace(replace(replace(replace(replace(replace(replace('aaaaaaaaaa', \
        'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), \
        'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa')";

    #[test]
    fn calls_that_would_fill_the_memory_are_planned_and_refused_when_they_run() {
        let cluster = cluster();
        for call in [
            "repeat('ab', 1000000000)",
            "repeat('a', 2147483647)",
            "lpad('a', 2147483647)",
            "rpad('a', 2147483647, 'bc')",
            "array_repeat(1, 300000000)",
            "array_repeat(['a', 'b'], 300000000)",
            "array_resize([1], 300000000)",
            "array_resize([1], 300000000, 7)",
            "generate_series(300000000)",
            "range(1, -300000000, -1)",
            "range(-9223372036854775807, 9223372036854775807)",
            "generate_series(timestamp '2024-01-01 00:00:00', timestamp '2025-01-01 00:00:00', interval '1 microsecond')",
            // It never gets there.
            "generate_series(date '2024-01-01', date '2023-01-01', interval '1 month -31 days')",
            "upper(lpad(lpad('a', 2147483647), 2147483647))",
            "regexp_replace(repeat('a', 1000000), 'A', repeat('b', 10000), 'gi')",
            "regexp_replace(repeat('a', 1000000), '(a+)', repeat('\\1', 10000))",
        ] {
            let frame = cluster.sql(format!("select {call} as made")).unwrap_or_else(|error| panic!("{call}: {error}"));
            frame.explain().unwrap_or_else(|error| panic!("{call}: {error}"));
            let error = frame.compute().expect_err(call).to_string();
            assert!(error.contains("would make a result of"), "{call}: {error}");
        }
        // To run it would be to make what is allowed.
        cluster.sql(format!("select {REPLACED} as made")).and_then(|frame| frame.explain()).expect("planned");
    }

    #[test]
    fn the_length_is_that_of_all_rows_of_a_batch() {
        let cluster = cluster();
        let numbers = cluster.from_source("numbers", aqueduct_operators::range("n", Some(100))).expect("a source");
        cluster.register_table("numbers", &numbers).expect("a table");
        for call in [
            "repeat('a', n * 1000000)",
            "lpad('a', 50000000)",
            "generate_series(0, n * 1000000)",
            "replace(repeat('a', 1000000 + n), 'a', '0123456789 0123456789 0123456789')",
        ] {
            let query = format!("select count({call}) as made from numbers");
            // A count that looks at no value computes none.
            let made = format!("select max(made) as made from (select {call} as made from numbers)");
            assert!(cluster.sql(query).and_then(|frame| frame.explain()).is_ok(), "{call}");
            let error = cluster.sql(made).and_then(|frame| frame.compute()).expect_err(call).to_string();
            assert!(error.contains("would make a result of"), "{call}: {error}");
        }
    }

    #[test]
    fn what_is_short_is_made_as_ever() {
        let cluster = cluster();
        for (call, made) in [
            ("repeat('ab', 3)", "ababab"),
            ("lpad('é', 3, 'xy')", "xyé"),
            ("replace('abc', 'b', 'xyz')", "axyzc"),
            ("replace('éa', '', '-')", "éa"),
            ("replace(null, 'b', 'xyz')", ""),
            ("regexp_replace('abcB', '(b)', '<\\1>', 'gi')", "a<b>c<B>"),
            (
                "character_length(regexp_replace(repeat('a', 100000) || 'b', 'b', repeat('c', 100000), 'g'))::varchar",
                "200000",
            ),
            ("regexp_replace(null, 'b', repeat('c', 100000))", ""),
            ("lpad(null, 2147483647)", ""),
            ("repeat(null, 2147483647)", ""),
            ("repeat('a', -2147483647)", ""),
            ("array_to_string(array_repeat(7, 3), ' ')", "7 7 7"),
            ("array_to_string(array_resize([1], 3, 2), ' ')", "1 2 2"),
            ("array_to_string(range(1, 9223372036854775807, 4611686018427387904), ' ')", "1 4611686018427387905"),
            ("array_to_string(range(5, 1), ' ')", ""),
            ("array_length(generate_series(date '0001-01-01', date '0011-01-01', interval '1 year'))::varchar", "11"),
            ("character_length(repeat('a', 100000))::varchar", "100000"),
        ] {
            let table = cluster.sql(format!("select coalesce({call}, '') as made")).and_then(|frame| frame.compute());
            let table = table.unwrap_or_else(|error| panic!("{call}: {error}"));
            let strings = arrow::compute::cast(table.to_batch().expect("one row").column(0), &super::DataType::Utf8);
            let strings = strings.expect("a text");
            assert_eq!(super::AsArray::as_string::<i32>(&strings).value(0), made, "{call}");
        }
    }
}
