//! A tree of losers: finds the least of many sources, and after that one has moved on, the next, with one
//! comparison a level.

/// Sources in the order of their play. Who beats whom is the caller's to say; of equals the first must win.
#[derive(Debug, Default)]
pub(super) struct LoserTree {
    /// The winner, then at each inner node who lost there.
    nodes: Vec<usize>,
}

impl LoserTree {
    /// A tree of `sources` sources, at least one.
    pub(super) fn new(sources: usize, beats: impl Fn(usize, usize) -> bool) -> Self {
        let mut winners = vec![0; 2 * sources];
        for (source, leaf) in winners[sources..].iter_mut().enumerate() {
            *leaf = source;
        }
        let mut nodes = vec![0; sources.max(1)];
        for node in (1..sources).rev() {
            let (a, b) = (winners[2 * node], winners[2 * node + 1]);
            let (winner, loser) = if beats(b, a) { (b, a) } else { (a, b) };
            (winners[node], nodes[node]) = (winner, loser);
        }
        nodes[0] = winners.get(1).copied().unwrap_or(0);
        Self { nodes }
    }

    pub(super) fn winner(&self) -> usize {
        self.nodes[0]
    }

    /// Plays again from the winner, whose key has changed.
    pub(super) fn replay(&mut self, beats: impl Fn(usize, usize) -> bool) {
        let mut winner = self.nodes[0];
        let mut node = (winner + self.nodes.len()) / 2;
        while node > 0 {
            if beats(self.nodes[node], winner) {
                std::mem::swap(&mut self.nodes[node], &mut winner);
            }
            node /= 2;
        }
        self.nodes[0] = winner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_out_in_order_and_equals_by_number() {
        for count in 1..20_usize {
            let mut lists: Vec<Vec<usize>> =
                (0..count).map(|list| (0..30).map(|i| (i * 7 + list) % 11 / (1 + list % 3)).collect()).collect();
            lists.iter_mut().for_each(|list| list.sort_unstable());
            let mut expected: Vec<(usize, usize)> = lists
                .iter()
                .enumerate()
                .flat_map(|(list, values)| values.iter().map(move |value| (*value, list)))
                .collect();
            expected.sort_unstable();
            let mut at = vec![0; count];
            let key = |at: &[usize], list: usize| (lists[list].get(at[list]).copied().unwrap_or(usize::MAX), list);
            let mut tree = LoserTree::new(count, |a, b| key(&at, a) < key(&at, b));
            let mut merged = Vec::new();
            while key(&at, tree.winner()).0 != usize::MAX {
                merged.push(key(&at, tree.winner()));
                at[tree.winner()] += 1;
                tree.replay(|a, b| key(&at, a) < key(&at, b));
            }
            assert_eq!(merged, expected, "{count} sources");
        }
    }
}
