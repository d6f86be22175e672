//! Random tables: nulls, odd floats, empty batches, one row, long and non-ASCII strings, lists, structs, skew.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
    Int32Array, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray, StructArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, Int32Type, Int64Type, Schema, SchemaRef};

use crate::case::TableDraw;
use crate::draws::{Random, mixed};

/// What can be done with values: those of one kind may meet in an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Small whole numbers, whose sums nobody need fear.
    Int,
    /// Whole numbers up to the largest and the smallest there are.
    Big,
    /// Small multiples of a quarter, whose sums are exact in any order.
    Float,
    /// NaN, infinities, two zeros, very large and very small ones.
    Wild,
    /// Text: empty, long, not ASCII.
    Text,
    /// Truth values.
    Bool,
    /// Days.
    Date,
    /// Points in time.
    Time,
    /// Decimals.
    Decimal,
    /// Lists of whole numbers.
    Ints,
    /// Structs of a whole number and a text.
    Pair,
}

/// Kinds of columns, as they are stored.
const STORED: [Stored; 18] = [
    Stored::Int64,
    Stored::Utf8,
    Stored::Float64,
    Stored::Int32,
    Stored::Wild,
    Stored::Date,
    Stored::Utf8View,
    Stored::Bool,
    Stored::Big,
    Stored::Decimal,
    Stored::Time,
    Stored::Ints,
    Stored::Pair,
    Stored::UInt8,
    Stored::LargeUtf8,
    Stored::Dictionary,
    Stored::Float32,
    Stored::Int64,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Int64,
    Int32,
    UInt8,
    Big,
    Float64,
    Float32,
    Wild,
    Utf8,
    Utf8View,
    LargeUtf8,
    Dictionary,
    Bool,
    Date,
    Time,
    Decimal,
    Ints,
    Pair,
}

impl Stored {
    fn kind(self) -> Kind {
        match self {
            Stored::Int64 | Stored::Int32 | Stored::UInt8 => Kind::Int,
            Stored::Big => Kind::Big,
            Stored::Float64 | Stored::Float32 => Kind::Float,
            Stored::Wild => Kind::Wild,
            Stored::Utf8 | Stored::Utf8View | Stored::LargeUtf8 | Stored::Dictionary => Kind::Text,
            Stored::Bool => Kind::Bool,
            Stored::Date => Kind::Date,
            Stored::Time => Kind::Time,
            Stored::Decimal => Kind::Decimal,
            Stored::Ints => Kind::Ints,
            Stored::Pair => Kind::Pair,
        }
    }
}

/// How the values of a column are spread over its rows.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Random,
    Sorted,
    Skewed,
    Constant,
    Null,
}

const SIZES: [usize; 10] = [40, 0, 1, 7, 100, 300, 300, 1000, 3000, 300];
const SHAPES: [Shape; 8] = [
    Shape::Random,
    Shape::Random,
    Shape::Sorted,
    Shape::Skewed,
    Shape::Skewed,
    Shape::Constant,
    Shape::Null,
    Shape::Random,
];

/// A table: the column `t0_id` numbers its rows, those behind it are called `t0_0`, `t0_1` …
#[derive(Debug, Clone)]
pub struct Table {
    /// What queries call it.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// Kind of each column.
    pub kinds: Vec<Kind>,
    about: String,
}

impl Table {
    /// The table that `draw` stands for, called `name`.
    pub fn new(name: String, draw: &TableDraw) -> Table {
        let rows = SIZES[usize::from(draw.rows) % SIZES.len()];
        let mut fields = vec![Field::new(format!("{name}_id"), arrow::datatypes::DataType::Int64, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..rows as i64))];
        let mut kinds = vec![Kind::Int];
        let mut about = format!("{rows} rows");
        for (index, &(stored, shape, values, seed)) in draw.columns.iter().enumerate() {
            let stored = STORED[usize::from(stored) % STORED.len()];
            let shape = SHAPES[usize::from(shape) % SHAPES.len()];
            let values = [3, 30, 2, rows as u64 + 1, 1000][usize::from(values) % 5];
            let column = array(stored, &ranks(shape, rows, values, u64::from(seed)));
            about += &format!(", {index}: {stored:?} {shape:?} of {values}");
            fields.push(Field::new(format!("{name}_{index}"), column.data_type().clone(), true));
            columns.push(column);
            kinds.push(stored.kind());
        }
        let schema = Arc::new(Schema::new(fields));
        let whole = RecordBatch::try_new(Arc::clone(&schema), columns).expect("columns of one length");
        let batches = cut(&whole, usize::from(draw.cut));
        about += &format!("; {} batches", batches.len());
        Table { name, schema, batches, kinds, about }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.about)
    }
}

/// The batches of a table: one, many small ones, large and small ones, empty ones among them.
fn cut(whole: &RecordBatch, way: usize) -> Vec<RecordBatch> {
    let sizes: &[usize] = match way % 6 {
        0 => return vec![whole.clone()],
        1 => &[7],
        2 => &[100],
        3 => &[0, 33, 1, 0, 200],
        4 => &[1000],
        _ => &[50, 0],
    };
    let (mut batches, mut from) = (Vec::new(), 0);
    for size in sizes.iter().cycle() {
        if from == whole.num_rows() {
            break;
        }
        let size = (*size).min(whole.num_rows() - from);
        batches.push(whole.slice(from, size));
        from += size;
    }
    batches
}

/// Which of a column's values each row has; `None` is a null.
fn ranks(shape: Shape, rows: usize, values: u64, seed: u64) -> Vec<Option<u64>> {
    let mut random = Random(seed.wrapping_mul(0x51_7cc1_b727_220a));
    let nulls = [0, 8, 2][(seed % 3) as usize];
    let mut ranks: Vec<u64> = (0..rows)
        .map(|_| match shape {
            Shape::Skewed if random.below(10) > 0 => 1,
            Shape::Constant => 2,
            _ => random.below(values),
        })
        .collect();
    if let Shape::Sorted = shape {
        ranks.sort_unstable();
    }
    let null = |random: &mut Random| nulls > 0 && random.below(nulls) == 0;
    match shape {
        Shape::Null => vec![None; rows],
        _ => ranks.into_iter().map(|rank| (!null(&mut random)).then_some(rank)).collect(),
    }
}

fn small(rank: u64) -> i64 {
    // In order for the first few, so that a sorted column is sorted.
    if rank < 100 { rank as i64 - 3 } else { (mixed(rank) % 2001) as i64 - 1000 }
}

fn big(rank: u64) -> i64 {
    match rank % 5 {
        0 => i64::MAX - (rank / 5) as i64,
        1 => i64::MIN + (rank / 5) as i64,
        2 => rank as i64,
        _ => mixed(rank) as i64,
    }
}

fn wild(rank: u64) -> f64 {
    const ODD: [f64; 12] =
        [1.5, f64::NAN, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1, -2.25, 1e15, 5e-324, f64::MAX, f64::MIN];
    match rank {
        0..12 => ODD[rank as usize],
        _ => (mixed(rank) % 1_000_000) as f64 / 7.0,
    }
}

fn text(rank: u64) -> String {
    match rank % 13 {
        0 => String::new(),
        1 => "a".into(),
        2 => format!("größer als zwölf Bytes {rank}"),
        3 => format!("größer als zwölf Bytes, und anders {rank}"),
        4 => "日本語".into(),
        5 => format!("{rank}"),
        6 if rank > 26 => format!("{rank} ").repeat(300),
        7 => "👩‍👩‍👧 e\u{301}".into(),
        8 => "A".into(),
        9 => format!("zwölf {}", rank % 3),
        10 => "\0 'quoted\" %_\\ ".into(),
        _ => format!("t{}", rank % 50),
    }
}

fn array(stored: Stored, ranks: &[Option<u64>]) -> ArrayRef {
    let ranks = || ranks.iter().copied();
    let texts = || ranks().map(|rank| rank.map(text));
    match stored {
        Stored::Int64 => Arc::new(ranks().map(|rank| rank.map(small)).collect::<Int64Array>()),
        Stored::Int32 => Arc::new(ranks().map(|rank| rank.map(|rank| small(rank) as i32)).collect::<Int32Array>()),
        Stored::UInt8 => Arc::new(ranks().map(|rank| rank.map(|rank| rank as u8)).collect::<UInt8Array>()),
        Stored::Big => Arc::new(ranks().map(|rank| rank.map(big)).collect::<Int64Array>()),
        Stored::Float64 => {
            Arc::new(ranks().map(|rank| rank.map(|rank| small(rank) as f64 / 4.0)).collect::<Float64Array>())
        }
        Stored::Float32 => {
            Arc::new(ranks().map(|rank| rank.map(|rank| small(rank) as f32 / 4.0)).collect::<Float32Array>())
        }
        Stored::Wild => Arc::new(ranks().map(|rank| rank.map(wild)).collect::<Float64Array>()),
        Stored::Utf8 => Arc::new(texts().collect::<StringArray>()),
        Stored::Utf8View => Arc::new(texts().collect::<StringViewArray>()),
        Stored::LargeUtf8 => Arc::new(texts().collect::<LargeStringArray>()),
        Stored::Dictionary => {
            let texts: Vec<Option<String>> = texts().collect();
            Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())
        }
        Stored::Bool => Arc::new(ranks().map(|rank| rank.map(|rank| rank % 2 == 1)).collect::<BooleanArray>()),
        Stored::Date => {
            Arc::new(ranks().map(|rank| rank.map(|rank| 18_262 + (rank % 800) as i32)).collect::<Date32Array>())
        }
        Stored::Time => {
            let time = |rank: u64| 1_577_836_800_000_000 + (mixed(rank) % 100_000_000_000_000) as i64;
            Arc::new(ranks().map(|rank| rank.map(time)).collect::<TimestampMicrosecondArray>())
        }
        Stored::Decimal => {
            let decimals = ranks().map(|rank| rank.map(|rank| i128::from(small(rank)) * 7));
            Arc::new(decimals.collect::<Decimal128Array>().with_precision_and_scale(12, 2).expect("it fits"))
        }
        Stored::Ints => {
            let list = |rank: u64| {
                let values =
                    (0..rank % 5).map(move |at| (!(rank + at).is_multiple_of(7)).then_some(small(rank % 11 + at)));
                values.collect::<Vec<_>>()
            };
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(ranks().map(|rank| rank.map(list))))
        }
        Stored::Pair => {
            let valid: NullBuffer = ranks().map(|rank| rank.is_some()).collect::<Vec<_>>().into();
            let numbers: Int64Array =
                ranks().map(|rank| rank.and_then(|rank| (rank % 7 > 0).then(|| small(rank % 40)))).collect();
            let texts: StringArray =
                ranks().map(|rank| rank.and_then(|rank| (rank % 5 > 0).then(|| text(rank % 60)))).collect();
            let fields = vec![
                Field::new("a", numbers.data_type().clone(), true),
                Field::new("b", texts.data_type().clone(), true),
            ];
            Arc::new(StructArray::new(fields.into(), vec![Arc::new(numbers), Arc::new(texts)], Some(valid)))
        }
    }
}
