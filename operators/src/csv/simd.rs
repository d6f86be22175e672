//! The inner loops that want vector instructions: finding field ends, parsing short numbers, making short views.
//!
//! Every loop exists in portable code, and again for what the machine turns out to have. All give the same.
#![allow(unsafe_code, reason = "vector loads, and calls of functions for a level that `Level::detect` has found")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::column::Chunk;

/// Marks the end of a field that is also the end of a record.
pub(crate) const NEWLINE: u32 = 1 << 31;

/// How far [`Search::run`] may write behind the entries that it counts.
pub(crate) const SLACK_ENTRIES: usize = 64;

/// Instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Those that every processor has.
    Portable,
    /// AVX2 and the bit instructions that came with it.
    Avx2,
    /// AVX-512 with the instructions that compress bytes.
    Avx512,
}

impl Level {
    /// The best that this machine has.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Self {
        let bits = is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        let bits = bits && is_x86_feature_detected!("popcnt") && is_x86_feature_detected!("lzcnt");
        if !bits || !is_x86_feature_detected!("avx2") {
            return Self::Portable;
        }
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        if wide && is_x86_feature_detected!("avx512vbmi2") { Self::Avx512 } else { Self::Avx2 }
    }

    /// The best that this machine has.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect() -> Self {
        Self::Portable
    }

    /// All that this machine has.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let best = Self::detect();
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(move |level| *level as u8 <= best as u8)
    }
}

/// A search for newlines and delimiters.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    /// Goes on for 64 bytes behind `limit`.
    pub(crate) bytes: &'a [u8],
    pub(crate) from: usize,
    pub(crate) limit: usize,
    pub(crate) delimiter: u8,
    /// Where positions are written to, newlines with [`NEWLINE`].
    pub(crate) ends: &'a mut [u32],
}

impl Search<'_> {
    /// Finds all newlines and delimiters, or all up to a bound with which less than [`SLACK_ENTRIES`] entries are
    /// left. Gives the number of entries.
    pub(crate) fn run(self, level: Level) -> usize {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was detected.
            Level::Avx512 => unsafe { search_avx512(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was detected.
            Level::Avx2 => unsafe { search_avx2(self) },
            _ => search_portable(self),
        }
    }

    /// The search, 64 bytes at a time. `find` gives a block's newlines and delimiters, `write` writes the entries
    /// for one block: its position, its newlines, and those with its delimiters.
    #[inline(always)]
    fn blocks(
        self,
        find: impl Fn(&[u8; 64]) -> (u64, u64),
        write: impl Fn(u32, u64, u64, &mut [u32; SLACK_ENTRIES]),
    ) -> usize {
        let Self { bytes, from, limit, ends, .. } = self;
        let mut count = 0;
        let mut at = from;
        while at < limit
            && let Some(entries) = ends.get_mut(count..).and_then(|rest| rest.first_chunk_mut())
        {
            let block: &[u8; 64] = bytes[at..at + 64].try_into().expect("64 bytes");
            let (mut newlines, mut delimiters) = find(block);
            if limit - at < 64 {
                let inside = (1 << (limit - at)) - 1;
                newlines &= inside;
                delimiters &= inside;
            }
            let found = newlines | delimiters;
            write(at as u32, newlines, found, entries);
            count += found.count_ones() as usize;
            at += 64;
        }
        count
    }
}

/// Writes an entry for each bit of `found`.
#[inline(always)]
fn write_bits(at: u32, newlines: u64, mut found: u64, entries: &mut [u32; SLACK_ENTRIES]) {
    let total = found.count_ones() as usize;
    // Eight at a time without looking at how many there are: what is too much is overwritten.
    for eight in entries.as_chunks_mut::<8>().0.iter_mut().take(total.div_ceil(8)) {
        for entry in eight {
            let bit = found.trailing_zeros();
            *entry = at.wrapping_add(bit) | (newlines.wrapping_shr(bit) as u32) << 31;
            found &= found.wrapping_sub(1);
        }
    }
}

fn search_portable(search: Search<'_>) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let delimiter = search.delimiter;
    let mask = |word: u64, needle: u8| {
        let differs = word ^ (LOW * u64::from(needle));
        let equal = !(((differs & SEVEN) + SEVEN) | differs | SEVEN);
        (equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    };
    let find = |block: &[u8; 64]| {
        let (mut newlines, mut delimiters) = (0, 0);
        for (i, lane) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*lane);
            newlines |= mask(word, b'\n') << (8 * i);
            delimiters |= mask(word, delimiter) << (8 * i);
        }
        (newlines, delimiters)
    };
    search.blocks(find, write_bits)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[expect(clippy::redundant_closure, reason = "a function that is named is not compiled for these instructions")]
fn search_avx2(search: Search<'_>) -> usize {
    let (newline, delimiter) = (_mm256_set1_epi8(b'\n' as i8), _mm256_set1_epi8(search.delimiter as i8));
    let find = |block: &[u8; 64]| {
        // SAFETY: both halves are inside of the block; the load need not be aligned.
        let (low, high) =
            unsafe { (_mm256_loadu_si256(block.as_ptr().cast()), _mm256_loadu_si256(block.as_ptr().add(32).cast())) };
        let mask = |needle: __m256i| {
            let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(low, needle)) as u32;
            let high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, needle)) as u32;
            u64::from(high) << 32 | u64::from(low)
        };
        (mask(newline), mask(delimiter))
    };
    // Not `write_bits` as it stands: a closure is compiled for the instructions of the function around it.
    search.blocks(find, |at, newlines, found, entries| write_bits(at, newlines, found, entries))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,bmi2,popcnt,lzcnt")]
fn search_avx512(search: Search<'_>) -> usize {
    const POSITIONS: [u8; 64] = {
        let mut positions = [0; 64];
        let mut i = 0;
        while i < 64 {
            positions[i] = i as u8;
            i += 1;
        }
        positions
    };
    let (newline, delimiter) = (_mm512_set1_epi8(b'\n' as i8), _mm512_set1_epi8(search.delimiter as i8));
    // SAFETY: 64 bytes are loaded of 64, aligned or not; also below.
    let positions = unsafe { _mm512_loadu_si512(POSITIONS.as_ptr().cast()) };
    let find = |block: &[u8; 64]| {
        let block = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        (_mm512_cmpeq_epi8_mask(block, newline), _mm512_cmpeq_epi8_mask(block, delimiter))
    };
    let write = |at: u32, newlines: u64, found: u64, entries: &mut [u32; SLACK_ENTRIES]| {
        let at = _mm512_set1_epi32(at as i32);
        let mark = _mm512_set1_epi32(NEWLINE as i32);
        let mut bits = _mm512_maskz_compress_epi8(found, positions);
        let mut marks = _pext_u64(newlines, found);
        let total = found.count_ones() as usize;
        for sixteen in entries.as_chunks_mut::<16>().0.iter_mut().take(total.div_ceil(16)) {
            let ends = _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(bits)), at);
            let ends = _mm512_mask_or_epi32(ends, marks as u16, ends, mark);
            // SAFETY: sixteen entries have 64 bytes.
            unsafe { _mm512_storeu_si512(sixteen.as_mut_ptr().cast(), ends) };
            bits = _mm512_alignr_epi32::<4>(bits, bits);
            marks >>= 16;
        }
    };
    search.blocks(find, write)
}

/// The rows of a column that are still to be parsed.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) chunk: &'a Chunk<'a>,
    pub(crate) column: usize,
    /// The next row.
    pub(crate) row: usize,
    /// The row behind the last.
    pub(crate) rows: usize,
}

impl Run<'_> {
    /// Adds the rows' values as decimals for as long as they are of at most eight bytes, a sign and a point among
    /// them. Stops before four rows of which one is anything else, so at the latest before the last three; gives
    /// the number of values that it has added. Without vector instructions that is none.
    pub(crate) fn decimals(self, level: Level, values: &mut Vec<f64>) -> usize {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was detected, and AVX-512 comes with AVX2.
            Level::Avx2 | Level::Avx512 => unsafe { decimals_avx2(self, values) },
            _ => 0,
        }
    }

    /// As [`Run::decimals`], for integers without a point.
    pub(crate) fn integers<V: Copy + Default + TryFrom<i64>>(self, level: Level, values: &mut Vec<V>) -> usize {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for decimals.
            Level::Avx2 | Level::Avx512 => unsafe { integers_avx2(self, values) },
            _ => 0,
        }
    }

    /// Takes four rows after the other, each as its first eight bytes and its length.
    #[inline(always)]
    fn fours<V: Copy>(self, values: &mut Vec<V>, parse: impl Fn([u64; 4], [u64; 4]) -> Option<[V; 4]>) -> usize {
        let mut row = self.row;
        while row + 4 <= self.rows {
            let (mut words, mut lengths) = ([0; 4], [0; 4]);
            for i in 0..4 {
                let (start, end) = self.chunk.raw(row + i, self.column);
                words[i] = u64::from_le_bytes(self.chunk.bytes[start..start + 8].try_into().expect("8 bytes"));
                lengths[i] = (end - start) as u64;
            }
            let Some(four) = parse(words, lengths) else { break };
            values.extend_from_slice(&four);
            row += 4;
        }
        row - self.row
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn decimals_avx2(run: Run<'_>, values: &mut Vec<f64>) -> usize {
    run.fours(values, |words, lengths| four_decimals(words, lengths))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn integers_avx2<V: Copy + Default + TryFrom<i64>>(run: Run<'_>, values: &mut Vec<V>) -> usize {
    run.fours(values, |words, lengths| {
        let mut four = [V::default(); 4];
        for (value, whole) in four.iter_mut().zip(four_integers(words, lengths)?) {
            *value = V::try_from(whole).ok()?;
        }
        Some(four)
    })
}

/// Four fields without their signs.
#[cfg(target_arch = "x86_64")]
struct Unsigned {
    /// In the high bytes of each word, zeros below.
    text: __m256i,
    lengths: __m256i,
    /// All ones where there was a minus.
    negative: __m256i,
    /// All ones where the field was longer than a word.
    too_long: __m256i,
}

/// Fields of up to eight bytes, of which the first is the lowest of its word.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn unsigned(words: [u64; 4], lengths: [u64; 4]) -> Unsigned {
    let vector = |[a, b, c, d]: [u64; 4]| _mm256_set_epi64x(d as i64, c as i64, b as i64, a as i64);
    let (words, lengths) = (vector(words), vector(lengths));
    let first = _mm256_set1_epi64x(0xFF);
    let signs = _mm256_and_si256(_mm256_cmpeq_epi8(words, _mm256_set1_epi64x(i64::from(b'-'))), first);
    let negative = _mm256_cmpeq_epi64(signs, first);
    // A shift by more than there is gives zero, as it should.
    let shifts = _mm256_slli_epi64::<3>(_mm256_sub_epi64(_mm256_set1_epi64x(8), lengths));
    Unsigned {
        text: _mm256_sllv_epi64(_mm256_andnot_si256(signs, words), shifts),
        lengths: _mm256_add_epi64(lengths, negative),
        negative,
        too_long: _mm256_cmpgt_epi64(lengths, _mm256_set1_epi64x(8)),
    }
}

/// The value of each byte of `text`, of which the high `count` should be digits; and what is not zero where one of
/// them is none, or `count` is not positive.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn digits(text: __m256i, count: __m256i) -> (__m256i, __m256i) {
    let zeros = _mm256_set1_epi8(b'0' as i8);
    let filled = _mm256_or_si256(text, _mm256_srlv_epi64(zeros, _mm256_slli_epi64::<3>(count)));
    let digits = _mm256_sub_epi8(filled, zeros);
    let too_high = _mm256_subs_epu8(digits, _mm256_set1_epi8(9));
    (digits, _mm256_or_si256(too_high, _mm256_cmpgt_epi64(_mm256_set1_epi64x(1), count)))
}

/// Eight digits per word, the first the lowest byte, as numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn numbers(digits: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(1 << 8 | 10));
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1 << 16 | 100));
    let high = _mm256_mul_epu32(fours, _mm256_set1_epi64x(10_000));
    _mm256_add_epi64(high, _mm256_srli_epi64::<32>(fours))
}

/// Numbers below 2^52.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn floats(numbers: __m256i) -> __m256d {
    // As the low bits of 2^52 they are a float once that is taken away.
    let magic = _mm256_set1_pd((1_u64 << 52) as f64);
    _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(numbers), magic), magic)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn is_zero(bits: __m256i) -> bool {
    _mm256_testz_si256(bits, bits) == 1
}

/// Four integers: a sign and digits, up to eight bytes together, of which the first is the lowest of a word. `None`
/// if one of them is anything else.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn four_integers(words: [u64; 4], lengths: [u64; 4]) -> Option<[i64; 4]> {
    let Unsigned { text, lengths, negative, too_long } = unsigned(words, lengths);
    let (digits, wrong) = digits(text, lengths);
    if !is_zero(_mm256_or_si256(wrong, too_long)) {
        return None;
    }
    let signed = _mm256_sub_epi64(_mm256_xor_si256(numbers(digits), negative), negative);
    let mut four = [0; 4];
    // SAFETY: four values have 32 bytes; the store need not be aligned.
    unsafe { _mm256_storeu_si256(four.as_mut_ptr().cast(), signed) };
    Some(four)
}

/// As [`four_integers`], with up to one point.
///
/// The digits are an integer below 10^8 and are divided by a power of ten: both are exact, so that the quotient
/// is rounded once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn four_decimals(words: [u64; 4], lengths: [u64; 4]) -> Option<[f64; 4]> {
    let Unsigned { text, lengths, negative, too_long } = unsigned(words, lengths);
    let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi64x(1));

    // The lowest bit of the first point, or none.
    let points = _mm256_cmpeq_epi8(text, _mm256_set1_epi8(b'.' as i8));
    let point = _mm256_and_si256(points, _mm256_sub_epi64(zero, points));
    let no_point = _mm256_cmpeq_epi64(point, zero);
    // What is before the point moves up by its byte.
    let before = _mm256_andnot_si256(no_point, _mm256_sub_epi64(point, one));
    let through = _mm256_andnot_si256(no_point, _mm256_sub_epi64(_mm256_slli_epi64::<8>(point), one));
    let moved = _mm256_slli_epi64::<8>(_mm256_and_si256(text, before));
    let joined = _mm256_or_si256(_mm256_andnot_si256(through, text), moved);

    let (digits, wrong) = digits(joined, _mm256_sub_epi64(lengths, _mm256_add_epi64(one, no_point)));
    if !is_zero(_mm256_or_si256(wrong, too_long)) {
        return None;
    }
    // The point's own bit stands where the one of its power of ten has to.
    let power = _mm256_or_si256(point, _mm256_slli_epi64::<56>(_mm256_and_si256(no_point, one)));
    let quotient = _mm256_div_pd(floats(numbers(digits)), floats(numbers(power)));
    let signed = _mm256_xor_pd(quotient, _mm256_castsi256_pd(_mm256_slli_epi64::<63>(negative)));
    let mut four = [0.0; 4];
    // SAFETY: four values have 32 bytes; the store need not be aligned.
    unsafe { _mm256_storeu_pd(four.as_mut_ptr(), signed) };
    Some(four)
}

/// Bytes that a string view holds itself.
pub(crate) const INLINE_BYTES: usize = 12;

/// By length: which bytes of sixteen belong to the text.
static MASKS: [u128; INLINE_BYTES + 1] = {
    let mut masks = [0; INLINE_BYTES + 1];
    let mut length = 1;
    while length <= INLINE_BYTES {
        masks[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// The view of a text of at most [`INLINE_BYTES`], with what is behind it.
#[inline(always)]
pub(crate) fn short_view(text: &[u8; 16], length: usize) -> u128 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of the architecture; 16 bytes are loaded of 16, aligned or not, and stored likewise.
    unsafe {
        let text = _mm_loadu_si128(text.as_ptr().cast());
        let mask = _mm_loadu_si128((&raw const MASKS[length]).cast());
        let view = _mm_bslli_si128::<4>(_mm_and_si128(text, mask));
        let view = _mm_or_si128(view, _mm_cvtsi32_si128(length as i32));
        let mut bits = 0_u128;
        _mm_storeu_si128((&raw mut bits).cast(), view);
        bits
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        (u128::from_le_bytes(*text) & MASKS[length]) << 32 | length as u128
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Wherever a search begins and ends, and whatever room it has, with not a byte more behind it than is promised.
    #[test]
    fn every_offset_and_length_is_searched_alike() {
        let (lengths, rooms) = if cfg!(miri) { (140, 3) } else { (200, 1) };
        let pattern = |at: usize| match (at * at + at / 7) % 11 {
            0 | 4 => b',',
            3 | 9 => b'\n',
            other => b"abc\r\"\xe9"[other % 6],
        };
        for length in (0..lengths).step_by(rooms) {
            let mut bytes: Vec<u8> = (0..length).map(pattern).collect();
            bytes.extend_from_slice(&[b'\n'; 64]);
            let bytes = bytes.into_boxed_slice();
            for from in (0..=length).step_by(rooms) {
                let expected: Vec<u32> = (from..length)
                    .filter(|at| b",\n".contains(&bytes[*at]))
                    .map(|at| at as u32 | if bytes[at] == b'\n' { NEWLINE } else { 0 })
                    .collect();
                for level in Level::all() {
                    let mut ends = vec![0; expected.len() + SLACK_ENTRIES].into_boxed_slice();
                    let search = Search { bytes: &bytes, from, limit: length, delimiter: b',', ends: &mut ends };
                    let count = search.run(level);
                    assert_eq!(&ends[..count], &expected, "{level:?} {from}..{length}");
                }
            }
        }
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "minutes for each case; the test above takes every offset")]
        fn all_levels_find_what_a_plain_loop_finds(
            text in prop::collection::vec(prop_oneof![Just(b','), Just(b'\n'), any::<u8>()], 0..300),
            from in 0_usize..300,
            room in 0_usize..400,
        ) {
            let from = from.min(text.len());
            let expected: Vec<u32> = text.iter().enumerate().skip(from).filter(|(_, byte)| b",\n".contains(*byte))
                .map(|(at, byte)| at as u32 | if *byte == b'\n' { NEWLINE } else { 0 }).collect();
            // What follows must not matter.
            let mut bytes = text.clone();
            bytes.extend_from_slice(&[b','; 64]);
            for level in Level::all() {
                let mut ends = vec![0; room];
                let search = Search { bytes: &bytes, from, limit: text.len(), delimiter: b',', ends: &mut ends };
                let count = search.run(level);
                prop_assert!(count == expected.len() || room < count + SLACK_ENTRIES);
                prop_assert_eq!(&ends[..count], &expected[..count], "{:?}", level);
            }
        }

        #[test]
        #[cfg(target_arch = "x86_64")]
        fn four_short_numbers_are_those_of_the_standard_library(
            decimals in prop::array::uniform4(
                prop_oneof![4 => r"-?[0-9]{0,5}\.?[0-9]{1,3}", 1 => r"[-0-9.,\n\r+ e]{0,10}"],
            ),
            integers in prop::array::uniform4(prop_oneof![9 => r"-?[0-9]{1,7}", 1 => r"[-0-9.,\n/:+]{0,10}"]),
        ) {
            fn expected<T: std::str::FromStr>(texts: &[String; 4]) -> Option<Vec<T>> {
                let plain = |text: &&String| text.len() <= 8 && text.bytes().all(|byte| b"-.0123456789".contains(&byte));
                texts.iter().map(|text| Some(text).filter(plain)?.parse().ok()).collect()
            }
            if Level::detect() == Level::Portable {
                return Ok(());
            }
            let word = |text: &String| {
                let mut bytes = text.clone().into_bytes();
                bytes.extend_from_slice(b",7.8-9\n.0");
                u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))
            };
            let length = |text: &String| text.len() as u64;
            // SAFETY: the level was detected.
            let found = unsafe { four_decimals(decimals.each_ref().map(word), decimals.each_ref().map(length)) };
            let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(found.map(|four| bits(four.to_vec())), expected(&decimals).map(bits), "{:?}", decimals);
            // SAFETY: the level was detected.
            let found = unsafe { four_integers(integers.each_ref().map(word), integers.each_ref().map(length)) };
            prop_assert_eq!(found.map(|four| four.to_vec()), expected(&integers), "{:?}", integers);
        }

        #[test]
        fn a_short_view_is_that_of_arrow(bytes: [u8; 16], length in 0..=INLINE_BYTES) {
            prop_assert_eq!(short_view(&bytes, length), arrow::array::make_view(&bytes[..length], 0, 0));
        }
    }
}
