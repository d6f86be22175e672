//! The one source of chance of a simulation: the same seed gives the same numbers, here and on any machine.

/// Numbers that a seed decides (SplitMix64).
#[derive(Debug, Clone)]
pub(in crate::testing) struct Random(u64);

impl Random {
    pub(in crate::testing) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another stream of numbers, for a purpose of its own: one that draws more changes no other.
    pub(in crate::testing) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(in crate::testing) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub(in crate::testing) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    pub(in crate::testing) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True once in `times`; never if that is 0.
    pub(in crate::testing) fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    pub(in crate::testing) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A number below `2^bits`, as often below 2 as between 2 and 4 or between 4 and 8.
    pub(in crate::testing) fn magnitude(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits + 1);
        self.below(1 << bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_the_seed_alone_and_spread_over_their_range() {
        let draw = |seed| {
            (0..1000)
                .map({
                    let mut random = Random::new(seed);
                    move |_| random.below(10)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for number in 0..10 {
            let times = draw(7).iter().filter(|n| **n == number).count();
            assert!((60..140).contains(&times), "{number} came {times} times");
        }
        let mut random = Random::new(3);
        let large = (0..1000).filter(|_| random.magnitude(16) >= 1 << 8).count();
        assert!((250..750).contains(&large), "{large}");
    }
}
