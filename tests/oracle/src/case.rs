//! A case as proptest makes and shrinks it: numbers only, of which any combination means something.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Tables and what is done with them.
#[derive(Debug, Clone)]
pub struct Case {
    /// What each table is made of.
    pub tables: Vec<TableDraw>,
    /// Steps, each over tables and steps before it.
    pub steps: Vec<Step>,
    /// Whether the answer is to be in order.
    pub ordered: bool,
}

/// What a table is made of.
#[derive(Debug, Clone)]
pub struct TableDraw {
    /// Which of the sizes.
    pub rows: u16,
    /// Which of the ways to cut it into batches.
    pub cut: u16,
    /// For each column beside its number: kind, shape, number of values, and seed.
    pub columns: Vec<(u8, u8, u8, u16)>,
}

/// One step of a query.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which of the kinds of step.
    pub kind: u16,
    /// What it reads: 0 is what was made last.
    pub inputs: [u16; 2],
    /// All other decisions.
    pub draws: Vec<u16>,
}

impl Case {
    fn strategy() -> impl Strategy<Value = Case> {
        let columns = vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<u16>()), 1..7);
        let table = (any::<u16>(), any::<u16>(), columns);
        let table = table.prop_map(|(rows, cut, columns)| TableDraw { rows, cut, columns });
        // Rather what was made last, so that most steps follow on one another.
        let input = || any::<u16>().prop_map(|draw| if draw % 3 < 2 { 0 } else { draw / 3 });
        let step = (any::<u16>(), [input(), input()], vec(any::<u16>(), 0..40));
        let step = step.prop_map(|(kind, inputs, draws)| Step { kind, inputs, draws });
        (vec(table, 1..4), vec(step, 1..7), any::<bool>()).prop_map(|(tables, steps, ordered)| Case {
            tables,
            steps,
            ordered,
        })
    }

    /// The tree of case number `number`: its current value, and what that can be shrunk to.
    pub fn tree(number: u64) -> impl ValueTree<Value = Case> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        seed[8..14].copy_from_slice(b"oracle");
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        Case::strategy().new_tree(&mut runner).expect("nothing is filtered out")
    }
}
