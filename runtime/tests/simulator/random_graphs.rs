//! Graphs that a seed makes: any shape, of a few nodes, each run under a few seeds of its own.
//!
//! `AQUEDUCT_GRAPHS=1000` tries more graphs, and `AQUEDUCT_GRAPH=17` one of them; `AQUEDUCT_SEEDS` and `AQUEDUCT_SEED`
//! are for the runs of each.

use aqueduct_runtime::testing::{BuildThenProbe, Concatenate, CountingSink, EvenOdd, NumbersSource, simulate};
use aqueduct_runtime::{Graph, Input, NodeId, Partitions};

use crate::operators::{Hold, Means, Merge, Sort, Union};

/// Numbers that a seed decides.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(end)) >> 64) as u64
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// What may still be read, all of it rows of one schema.
#[derive(Clone)]
struct Open {
    input: Input,
    /// Whether anybody reads it.
    read: bool,
    /// Rows that come out here, at the most: copies of a broadcast add up.
    rows: u64,
}

struct Maker {
    draw: Draw,
    graph: Graph,
    open: Vec<Open>,
    nodes: usize,
}

impl Maker {
    fn name(&mut self, kind: &str) -> String {
        self.nodes += 1;
        format!("{kind} {}", self.nodes)
    }

    /// Somewhere to read from: rather where nobody reads yet, so that most nodes have one reader and some several.
    fn choose(&mut self) -> usize {
        let unread: Vec<usize> = (0..self.open.len()).filter(|&at| !self.open[at].read).collect();
        let again = unread.is_empty() || self.draw.below(4) == 0;
        let at = if again { self.draw.below(self.open.len() as u64) as usize } else { self.draw.pick(&unread) };
        self.open[at].read = true;
        at
    }

    /// An edge that neither needs as many partitions on both sides nor multiplies rows.
    fn exchanged(&mut self, at: usize) -> Input {
        let input = self.open[at].input.clone();
        match self.draw.below(4) {
            0 => input.hash(["n"]),
            1 => input.round_robin(),
            2 => input.gather(),
            _ => input.hash(["n"]),
        }
    }

    fn add(&mut self, node: NodeId, output: usize, rows: u64) {
        self.open.push(Open { input: node.output(output), read: false, rows });
    }

    fn node(&mut self) {
        let at = self.choose();
        let rows = self.open[at].rows;
        match self.draw.below(10) {
            0 | 1 => {
                let (name, fixed) = (self.name("map"), self.draw.below(3) == 0);
                // A gather makes one partition, whatever is asked for.
                let input = if fixed { self.open[at].input.clone().hash(["n"]) } else { self.exchanged(at) };
                let node = self.graph.map(name, input, Ok);
                if fixed {
                    let partitions = 1 + self.draw.below(4) as usize;
                    self.graph.set_partitions(node, Partitions::Fixed(partitions));
                }
                self.add(node, 0, rows);
            }
            2 => {
                let name = self.name("forward");
                let node = self.graph.map(name, self.open[at].input.clone(), Ok);
                self.add(node, 0, rows);
            }
            3 if rows < 4_000 => {
                let (name, input) = (self.name("copies"), self.open[at].input.clone().broadcast());
                let node = self.graph.map(name, input, Ok);
                self.graph.set_partitions(node, Partitions::Fixed(3));
                self.add(node, 0, 3 * rows);
            }
            3 | 4 => {
                let (name, input) = (self.name("halves"), self.exchanged(at));
                let node = self.graph.operator(name, EvenOdd, input);
                self.add(node, 0, rows);
                self.add(node, 1, rows);
            }
            5 | 6 => {
                let inputs: Vec<usize> = (0..self.draw.below(2)).map(|_| self.choose()).chain([at]).collect();
                let rows = inputs.iter().map(|&at| self.open[at].rows).sum();
                let name = self.name("union");
                let inputs: Vec<Input> = inputs.into_iter().map(|at| self.exchanged(at)).collect();
                // All inputs of a node have as many partitions, or the plan would refuse it.
                let inputs: Vec<Input> =
                    if inputs.len() > 1 { inputs.into_iter().map(|input| input.hash(["n"])).collect() } else { inputs };
                let node = self.graph.operator_with(name, Union(inputs.len()), inputs);
                self.add(node, 0, rows);
            }
            7 => {
                let (name, input) = (self.name("hold"), self.exchanged(at));
                let node = self.graph.operator(name, Hold, input);
                self.add(node, 0, rows);
            }
            8 => {
                let name = self.name("sort");
                let input = self.open[at].input.clone().hash(["n"]);
                let sorted = self.graph.operator(name, Sort, input);
                let name = self.name("merge");
                let merged = self.graph.operator(name, Merge, sorted.lanes());
                self.add(merged, 0, rows);
            }
            _ => {
                let other = self.choose();
                let rows = rows + self.open[other].rows;
                let inputs = [at, other].map(|at| self.open[at].input.clone().gather());
                let name = self.name("concatenate");
                let node = self.graph.operator_with(name, Concatenate, inputs);
                self.add(node, 0, rows);
            }
        }
    }

    /// Gives everything that nobody reads to somebody.
    fn finish(&mut self) {
        let mut results = 0;
        for at in 0..self.open.len() {
            if self.open[at].read {
                continue;
            }
            let input = self.open[at].input.clone();
            match self.draw.below(5) {
                0 => {
                    let name = self.name("means");
                    let node = self.graph.operator(name, Means(97), input.gather());
                    let name = self.name("sink");
                    self.graph.sink(name, CountingSink::new(), node);
                }
                1 => {
                    let other = self.draw.below(self.open.len() as u64) as usize;
                    let other = self.open[other].input.clone();
                    let name = self.name("join");
                    let node = self.graph.operator_with(name, BuildThenProbe, [input.hash(["n"]), other.hash(["n"])]);
                    let name = self.name("sink");
                    self.graph.sink(name, CountingSink::new(), node);
                }
                2 | 3 if results < 3 => {
                    results += 1;
                    let ordered = self.draw.below(3) == 0;
                    let name = self.name("result");
                    self.graph.result(name, if ordered { input.gather_in_order() } else { input.gather() });
                }
                _ => {
                    let (name, input) = (self.name("sink"), self.exchanged(at));
                    self.graph.sink(name, CountingSink::new(), input);
                }
            }
        }
    }
}

/// Graph number `seed`.
fn graph(seed: u64) -> Graph {
    let draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
    let mut maker = Maker { draw, graph: Graph::new(), open: Vec::new(), nodes: 0 };
    // All rows have the same columns, so that any of them may meet.
    let row_bytes = maker.draw.pick(&[8, 100, 512]);
    for _ in 0..1 + maker.draw.below(2) {
        let rows = maker.draw.pick(&[0, 1, 10, 300, 1_000, 1_000]);
        let source = NumbersSource::new(rows).split_rows(maker.draw.pick(&[7, 50, 200]));
        let source = source.row_bytes(row_bytes).batch_rows(maker.draw.pick(&[10, 64, 8192]));
        let name = maker.name("numbers");
        let node = maker.graph.source(name, source);
        maker.open.push(Open { input: node.output(0), read: false, rows });
    }
    for _ in 0..1 + maker.draw.below(6) {
        maker.node();
    }
    maker.finish();
    maker.graph
}

#[test]
fn graphs_of_any_shape() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let graphs = match number("AQUEDUCT_GRAPH") {
        Some(one) => one..one + 1,
        None => 0..number("AQUEDUCT_GRAPHS").unwrap_or(100),
    };
    let (mut runs, mut spooled) = (0, 0);
    for seed in graphs {
        let simulation = simulate(move || graph(seed)).seeds(10 * seed..10 * seed + 3);
        match simulation.find() {
            Ok(report) => {
                runs += report.runs;
                spooled += report.spooled_bytes;
            }
            Err(found) => panic!("AQUEDUCT_GRAPH={seed}: {found}"),
        }
    }
    println!("{runs} runs, {spooled} bytes spooled");
    assert!(runs < 100 || spooled > 0, "nothing spooled");
}
