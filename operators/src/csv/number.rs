//! Text to numbers: eight digits at a time for what is short and plain, arrow's parsers for the rest.
//!
//! The short path is exact: at most eight digits are an integer below 2^53, and one division by a power of
//! ten that is itself exact rounds once. Whatever it does not take goes to arrow's parser, which decides
//! what is a value at all.

use arrow::array::ArrowPrimitiveType;
use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::*;

use super::simd::{Level, Run};

const ZEROS: u64 = 0x3030_3030_3030_3030;

/// A type that fields are parsed to.
pub(crate) trait Number: ArrowPrimitiveType {
    /// The value of `bytes[start..end]`, valid UTF-8; `None` if it is none. `bytes` goes on for 8 bytes.
    fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<Self::Native>;

    /// Adds the values of rows several at a time, up to the first ones that are not short and plain; gives their
    /// number. It need not get far.
    fn parse_run(_level: Level, _run: Run<'_>, _values: &mut Vec<Self::Native>) -> usize {
        0
    }
}

/// Eight bytes from `start`, the first one lowest.
#[inline(always)]
fn word(bytes: &[u8], start: usize) -> u64 {
    u64::from_le_bytes(bytes[start..start + 8].try_into().expect("8 bytes"))
}

/// The value of one to eight digits, which are the high bytes of `word`.
#[inline(always)]
fn digits(word: u64, count: usize) -> Option<u64> {
    // Two shifts, as one by 64 is none.
    let word = word | (ZEROS >> (4 * count) >> (4 * count));
    let plain =
        (word & 0xF0F0_F0F0_F0F0_F0F0) | ((word.wrapping_add(0x0606_0606_0606_0606) & 0xF0F0_F0F0_F0F0_F0F0) >> 4);
    if plain != 0x3333_3333_3333_3333 {
        return None;
    }
    // Pairs of digits, then fours, then all eight (Lemire's "parse eight digits").
    let word = word & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let even = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(100 + (1_000_000 << 32));
    let odd = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(1 + (10_000 << 32));
    Some(even.wrapping_add(odd) >> 32)
}

/// A non-negative integer of one to sixteen digits.
#[inline(always)]
fn integer(bytes: &[u8], start: usize, end: usize) -> Option<u64> {
    match end - start {
        length @ 1..=8 => digits(word(bytes, start) << (64 - 8 * length), length),
        length @ 9..=16 => {
            let high = digits(word(bytes, start) << (128 - 8 * length), length - 8)?;
            Some(high * 100_000_000 + digits(word(bytes, end - 8), 8)?)
        }
        _ => None,
    }
}

/// A decimal of up to eight bytes, the point included and the sign not.
#[inline(always)]
fn short_decimal(bytes: &[u8], start: usize, end: usize) -> Option<f64> {
    const POWERS: [f64; 8] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
    let length = end - start;
    if length == 0 || length > 8 {
        return None;
    }
    let word = word(bytes, start) << (64 - 8 * length);
    let point = word ^ 0x2E2E_2E2E_2E2E_2E2E;
    let point = point.wrapping_sub(0x0101_0101_0101_0101) & !point & 0x8080_8080_8080_8080;
    if point == 0 {
        return digits(word, length).map(|value| value as f64);
    }
    if length == 1 {
        return None;
    }
    // The whole part moves up by the byte of the point.
    let below = (point & point.wrapping_neg()) >> 7;
    let whole = word & (below - 1);
    let fraction = word & !((below - 1) | (below * 0xFF));
    let fraction_digits = 7 - below.trailing_zeros() as usize / 8;
    let value = digits(fraction | (whole << 8), length - 1)?;
    Some(value as f64 / POWERS[fraction_digits])
}

#[inline(always)]
fn text(bytes: &[u8], start: usize, end: usize) -> Option<&str> {
    simdutf8::basic::from_utf8(&bytes[start..end]).ok()
}

macro_rules! integers {
    ($($kind:ty),*) => { $(
        impl Number for $kind {
            #[inline(always)]
            fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<Self::Native> {
                let negative = bytes[start] == b'-' && end > start;
                if let Some(value) = integer(bytes, start + usize::from(negative), end) {
                    let value = if negative { -(value as i64) } else { value as i64 };
                    return Self::Native::try_from(value).ok().or_else(|| slow::<Self>(bytes, start, end));
                }
                slow::<Self>(bytes, start, end)
            }

            fn parse_run(level: Level, run: Run<'_>, values: &mut Vec<Self::Native>) -> usize {
                run.integers(level, values)
            }
        }
    )* };
}
integers!(Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type);

macro_rules! by_arrow {
    ($($kind:ty),*) => { $(
        impl Number for $kind {
            fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<Self::Native> {
                slow::<Self>(bytes, start, end)
            }
        }
    )* };
}
by_arrow!(Float16Type, Date32Type, Date64Type, TimestampNanosecondType);
by_arrow!(Time32SecondType, Time32MillisecondType, Time64MicrosecondType, Time64NanosecondType);

#[cold]
#[inline(never)]
fn slow<T: Parser>(bytes: &[u8], start: usize, end: usize) -> Option<T::Native> {
    T::parse(text(bytes, start, end)?)
}

impl Number for Float64Type {
    #[inline(always)]
    fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<f64> {
        let negative = bytes[start] == b'-' && end > start;
        if let Some(value) = short_decimal(bytes, start + usize::from(negative), end) {
            return Some(if negative { -value } else { value });
        }
        long_float(bytes, start, end)
    }

    fn parse_run(level: Level, run: Run<'_>, values: &mut Vec<f64>) -> usize {
        run.decimals(level, values)
    }
}

#[inline(never)]
fn long_float(bytes: &[u8], start: usize, end: usize) -> Option<f64> {
    fast_float2::parse(&bytes[start..end]).ok().or_else(|| slow::<Float64Type>(bytes, start, end))
}

impl Number for Float32Type {
    #[inline(always)]
    fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<f32> {
        // Not by way of f64, which would round twice.
        fast_float2::parse(&bytes[start..end]).ok().or_else(|| slow::<Self>(bytes, start, end))
    }
}

macro_rules! timestamps {
    ($($kind:ty, $unit:ident);*) => { $(
        impl Number for $kind {
            fn parse_field(bytes: &[u8], start: usize, end: usize) -> Option<i64> {
                // arrow's own way leads through nanoseconds, which end in 2262.
                let text = text(bytes, start, end)?;
                <$kind>::parse(text).or_else(|| {
                    let utc: Tz = "+00:00".parse().ok()?;
                    let time = arrow::compute::kernels::cast_utils::string_to_datetime(&utc, text).ok()?;
                    Some(time.$unit())
                })
            }
        }
    )* };
}
timestamps!(TimestampSecondType, timestamp; TimestampMillisecondType, timestamp_millis; TimestampMicrosecondType, timestamp_micros);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse<T: Number>(text: &str) -> Option<T::Native> {
        let mut bytes = text.as_bytes().to_vec();
        // What follows a field must not matter.
        bytes.extend_from_slice(b",7.8-9\n.0\"1234567890");
        T::parse_field(&bytes, 0, text.len())
    }

    proptest! {
        #[test]
        fn floats_are_those_of_the_standard_library(text in r"-?[0-9]{0,12}\.?[0-9]{0,12}(e-?[0-9]{1,3})?") {
            let expected = text.parse::<f64>().ok().map(f64::to_bits);
            prop_assert_eq!(parse::<Float64Type>(&text).map(f64::to_bits), expected, "{}", text);
            let expected = text.parse::<f32>().ok().map(f32::to_bits);
            prop_assert_eq!(parse::<Float32Type>(&text).map(f32::to_bits), expected, "{}", text);
        }

        #[test]
        fn short_floats_are_those_of_the_standard_library(text in r"-?[0-9.]{0,8}") {
            let expected = text.parse::<f64>().ok().map(f64::to_bits);
            prop_assert_eq!(parse::<Float64Type>(&text).map(f64::to_bits), expected, "{}", text);
        }

        #[test]
        fn integers_are_those_of_arrow(text in r"[-+ ]?[0-9]{0,21}[-+. x:/]?") {
            prop_assert_eq!(parse::<Int64Type>(&text), Int64Type::parse(&text));
            prop_assert_eq!(parse::<UInt64Type>(&text), UInt64Type::parse(&text));
            prop_assert_eq!(parse::<Int8Type>(&text), Int8Type::parse(&text));
            prop_assert_eq!(parse::<UInt32Type>(&text), UInt32Type::parse(&text));
        }
    }

    #[test]
    fn words_for_infinity_and_not_a_number_are_floats() {
        for text in ["inf", "-inf", "Infinity", "NaN", "nan", "-0.0", " 1.5", "1.5 ", "1e400", "5e-324", ".5", "5."] {
            let expected = text.trim().parse::<f64>().expect(text);
            let parsed = parse::<Float64Type>(text).expect(text);
            assert!(parsed.to_bits() == expected.to_bits() || parsed.is_nan() && expected.is_nan(), "{text}");
        }
        for text in ["", ".", "-", "-.", "1.2.3", "1,5", "abc", "0x10", "1e", "--1"] {
            assert_eq!(parse::<Float64Type>(text), None, "{text}");
        }
    }

    #[test]
    fn dates_outside_of_nanoseconds_are_timestamps() {
        assert_eq!(parse::<TimestampSecondType>("3000-01-01T00:00:00"), Some(32_503_680_000));
        assert_eq!(parse::<TimestampMicrosecondType>("1970-01-01 00:00:00.000007"), Some(7));
        assert_eq!(parse::<TimestampSecondType>("soon"), None);
    }
}
