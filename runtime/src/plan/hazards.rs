//! Finds the edges that could deadlock if they parked (C4), and marks them to spool.
//!
//! A node that may leave a port or a lane unread is a hazard where the same producer feeds what it reads
//! and what it leaves: the producer parks on the one and never ends the other. A node in between that emits
//! nothing before its input has ended takes everything in whatever happens below it, so no producer above it
//! parks on what is left unread. Several such nodes may hold each other up as well: one waits for a producer that is
//! parked at the next, and so on in a circle.

use std::collections::BTreeSet;

use crate::graph::{Exchange, Graph, NodeKind};
use crate::plan::Plan;
use crate::planted::{Bug, is_planted};

pub(super) fn mark(graph: &Graph, plan: &mut Plan) {
    let above = Above::of(graph);
    for index in 0..plan.edges.len() {
        let (from, to) = (plan.edges[index].from, plan.edges[index].to);
        let hazardous = above.feeds_a_neighbour(graph, index_of_input(plan, index), from, to)
            || above.feeds_a_result(graph, from, to)
            || lanes_share_a_producer(plan, index, &above);
        plan.edges[index].hazardous = hazardous;
    }
    mark_circles(graph, plan, &above);
}

/// Edges that a search for circles looks at, at the most. Beyond that the watchdog is left.
const SEARCHED: usize = 20_000;

/// Marks edges that are no hazard by themselves, but hold each other up in a circle: each is left unread until a producer
/// has ended that is parked on the next one. In a circle no node comes twice, for each reads at least one of its inputs.
fn mark_circles(graph: &Graph, plan: &mut Plan, above: &Above) {
    let is_unread = |edge: &usize| {
        let edge = &plan.edges[*edge];
        !edge.hazardous && matches!(&graph.nodes[edge.to].kind, NodeKind::Operator(spec) if !spec.reads_all_ports())
    };
    let unread: Vec<usize> = (0..plan.edges.len()).filter(is_unread).collect();
    let waits_for = |&one: &usize, &other: &usize| {
        let (input, edge, other) = (index_of_input(plan, one), &plan.edges[one], &plan.edges[other]);
        let inputs = graph.nodes[edge.to].inputs.iter().enumerate().filter(|(index, _)| *index != input);
        let mut needed = inputs.map(|(_, input)| &above.all[input.from.0]);
        edge.to != other.to && needed.any(|needed| !above.held_up[other.from].is_disjoint(needed))
    };
    let next: Vec<Vec<usize>> =
        unread.iter().map(|one| (0..unread.len()).filter(|&other| waits_for(one, &unread[other])).collect()).collect();
    let receivers: Vec<usize> = unread.iter().map(|&edge| plan.edges[edge].to).collect();
    let mut left = SEARCHED;
    let circles: Vec<bool> =
        (0..unread.len()).map(|start| has_circle(&next, &receivers, start, &mut vec![start], &mut left)).collect();
    for (&edge, _) in unread.iter().zip(circles).filter(|(_, circle)| *circle) {
        plan.edges[edge].hazardous = true;
    }
}

/// Whether `path` can be led back to its `start` without coming to any receiver twice.
fn has_circle(next: &[Vec<usize>], receivers: &[usize], start: usize, path: &mut Vec<usize>, left: &mut usize) -> bool {
    let Some(&last) = path.last() else { return false };
    for &edge in &next[last] {
        if edge == start {
            return true;
        }
        if *left == 0 || path.iter().any(|&before| receivers[before] == receivers[edge]) {
            continue;
        }
        *left -= 1;
        path.push(edge);
        let found = has_circle(next, receivers, start, path, left);
        path.pop();
        if found {
            return true;
        }
    }
    false
}

/// Which input of its receiving node an edge is. Edges are made in the order of the inputs.
fn index_of_input(plan: &Plan, edge: usize) -> usize {
    plan.edges[..edge].iter().filter(|other| other.to == plan.edges[edge].to).count()
}

/// Lanes are read one after the other: a hazard if one producer feeds several of their senders.
fn lanes_share_a_producer(plan: &Plan, index: usize, above: &Above) -> bool {
    let edge = &plan.edges[index];
    let lanes = edge.ordered && edge.senders_per_port() > 1 || edge.ports_per_receiver() > 1;
    lanes
        && plan.edges.iter().any(|other| {
            let spreads = other.receivers > 1
                && matches!(other.exchange, Exchange::Hash(_) | Exchange::RoundRobin | Exchange::Broadcast);
            spreads && above.parks(edge.from, other.to)
        })
}

/// The nodes above each node, and it itself.
struct Above {
    all: Vec<BTreeSet<usize>>,
    /// Those that what is left unread below could hold up.
    held_up: Vec<BTreeSet<usize>>,
    /// Nodes that take in all of their input whatever is left unread below them.
    absorbs: Vec<bool>,
}

impl Above {
    fn of(graph: &Graph) -> Self {
        let count = graph.nodes.len();
        let mut above =
            Above { all: Vec::with_capacity(count), held_up: Vec::with_capacity(count), absorbs: Vec::new() };
        for (index, node) in graph.nodes.iter().enumerate() {
            let absorbs = matches!(&node.kind, NodeKind::Operator(spec) if spec.emits_after_input());
            let (mut all, mut held_up) = (BTreeSet::from([index]), BTreeSet::from([index]));
            for input in &node.inputs {
                all.extend(&above.all[input.from.0]);
                if !absorbs {
                    held_up.extend(&above.held_up[input.from.0]);
                }
            }
            above.all.push(all);
            above.held_up.push(held_up);
            above.absorbs.push(absorbs);
        }
        above
    }

    /// Whether `node` could stop to read its input because what `from` emits is left unread.
    fn parks(&self, from: usize, node: usize) -> bool {
        self.held_up[from].contains(&node) && !self.absorbs[node]
    }

    /// Whether leaving this input of `to` unread could hold up what another input of it needs.
    fn feeds_a_neighbour(&self, graph: &Graph, input: usize, from: usize, to: usize) -> bool {
        let node = &graph.nodes[to];
        let NodeKind::Operator(spec) = &node.kind else { return false };
        let others = node.inputs.iter().enumerate().filter(|(other, _)| *other != input);
        !spec.reads_all_ports()
            && !is_planted(Bug::NoHazardMark)
            && others.map(|(_, other)| other.from.0).any(|other| !self.held_up[from].is_disjoint(&self.all[other]))
    }

    /// Whether leaving this result unread could hold up another: the caller reads one after the other.
    fn feeds_a_result(&self, graph: &Graph, from: usize, to: usize) -> bool {
        let result = |index: usize| matches!(graph.nodes[index].kind, NodeKind::Result);
        result(to)
            && (0..graph.nodes.len())
                .any(|other| other != to && result(other) && !self.held_up[from].is_disjoint(&self.all[other]))
    }
}
