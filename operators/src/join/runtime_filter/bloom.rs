//! Which hashes were seen, in a few bits for each: one that was is always found, and few that were not.
//!
//! All bits of a hash are in one word, so that a look costs one access to memory.

use aqueduct_runtime::memory::{Account, Reservation};

/// Bits for each hash: of a hundred others, one is found.
const BITS: usize = 16;

#[derive(Debug)]
pub(super) struct Bloom {
    words: Vec<u64>,
    held: Reservation,
}

impl Bloom {
    /// A filter of all hashes in `parts`; none if there is no memory for it to spare.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a [u64]> + Clone, memory: &Account) -> Option<Self> {
        let count: usize = parts.clone().map(<[u64]>::len).sum();
        let words = (count * BITS).div_ceil(64).max(1);
        if memory.room() < memory.floor() + super::SPARE * 8 * words {
            return None;
        }
        let held = memory.try_reserve(8 * words)?;
        let mut bloom = Self { words: vec![0; words], held };
        for hash in parts.flatten() {
            let (at, bits) = bloom.place(*hash);
            bloom.words[at] |= bits;
        }
        Some(bloom)
    }

    pub(super) fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// The word of a hash, and its bits there.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        // The hash of a word is a product: of words in a row, where it ends says something of where it begins.
        let hash = (hash ^ hash >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let hash = hash ^ hash >> 32;
        let at = (u128::from(hash) * self.words.len() as u128) >> 64;
        let bit = |shift: u32| 1u64 << (hash >> shift & 63);
        (at as usize, bit(0) | bit(6) | bit(12) | bit(18))
    }

    #[inline]
    pub(super) fn has(&self, hash: u64) -> bool {
        let (at, bits) = self.place(hash);
        self.words[at] & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use aqueduct_runtime::memory::MemoryPool;
    use foldhash::fast::FixedState;

    use super::*;

    #[test]
    fn what_was_seen_is_found_and_little_else() {
        let memory = MemoryPool::new(16 << 20).account("test");
        let state = FixedState::with_seed(7);
        let hashes: Vec<u64> = (0..40_000u64).map(|n| state.hash_one(n)).collect();
        let bloom = Bloom::of(hashes[..20_000].chunks(7000), &memory).expect("room");
        assert_eq!((bloom.bytes(), memory.held()), (40_000, 40_000));
        assert!(hashes[..20_000].iter().all(|hash| bloom.has(*hash)));
        let wrong = hashes[20_000..].iter().filter(|hash| bloom.has(**hash)).count();
        assert!(wrong < 600, "{wrong} of 20,000");
        let nothing = Bloom::of([].into_iter(), &memory).expect("room");
        assert!(hashes.iter().all(|hash| !nothing.has(*hash)));
        let full = MemoryPool::new(100_000).account("test");
        assert!(Bloom::of(hashes.chunks(7000), &full).is_none());
    }

    #[test]
    fn words_in_a_row_are_spread_whatever_they_were_multiplied_by() {
        let memory = MemoryPool::new(16 << 20).account("test");
        for factor in [(1 << 61) + 1, 0x5555_5555_5555_5557, 3, u64::MAX] {
            let hash = |n: u64| {
                let product = u128::from(n) * u128::from(factor);
                (product as u64) ^ (product >> 64) as u64
            };
            let hashes: Vec<u64> = (1 << 40..).take(40_000).map(hash).collect();
            let bloom = Bloom::of([&hashes[..20_000]].into_iter(), &memory).expect("room");
            // Some have the hash of another.
            let seen: HashSet<u64> = hashes[..20_000].iter().copied().collect();
            let others = hashes[20_000..].iter().filter(|hash| !seen.contains(hash));
            let wrong = others.filter(|hash| bloom.has(**hash)).count();
            assert!(wrong < 600, "{wrong} of 20,000 for {factor:#x}");
        }
    }
}
