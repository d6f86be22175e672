//! Finds the edges that could deadlock if they parked (C4), and marks them to spool.
//!
//! A node that may leave a port or a lane unread is a hazard where the same producer feeds what it reads
//! and what it leaves: the producer parks on the one and never ends the other.

use std::collections::BTreeSet;

use crate::graph::{Exchange, Graph, NodeKind};
use crate::plan::Plan;

pub(super) fn mark(graph: &Graph, plan: &mut Plan) {
    let ancestors = ancestors(graph);
    let with_self = |node: usize| {
        let mut set = ancestors[node].clone();
        set.insert(node);
        set
    };
    let mut hazardous = BTreeSet::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        // Ports of one node that share a producer, where one may be left unread.
        if let NodeKind::Operator(spec) = &node.kind
            && !spec.reads_all_ports()
        {
            for (a, first) in node.inputs.iter().enumerate() {
                for second in node.inputs.iter().skip(a + 1) {
                    if !with_self(first.from.0).is_disjoint(&with_self(second.from.0)) {
                        hazardous.insert(index);
                    }
                }
            }
        }
        // Results that share a producer: the caller reads one after the other.
        if matches!(node.kind, NodeKind::Result) {
            let shares = graph.nodes.iter().enumerate().any(|(other, n)| {
                other != index && matches!(n.kind, NodeKind::Result) && !ancestors[other].is_disjoint(&ancestors[index])
            });
            if shares {
                hazardous.insert(index);
            }
        }
    }
    let spreads: Vec<bool> = plan
        .edges
        .iter()
        .map(|edge| {
            edge.receivers > 1
                && matches!(edge.exchange, Exchange::Hash(_) | Exchange::RoundRobin | Exchange::Broadcast)
        })
        .collect();
    for index in 0..plan.edges.len() {
        let edge = &plan.edges[index];
        // Lanes are read one after the other: a hazard if one producer feeds several of their senders.
        let lanes_share = edge.ordered && edge.senders_per_port() > 1 && {
            let mut upstream = with_self(edge.from);
            upstream.insert(edge.from);
            plan.edges.iter().zip(&spreads).any(|(other, spreads)| *spreads && upstream.contains(&other.to))
        };
        if lanes_share || hazardous.contains(&edge.to) {
            plan.edges[index].hazardous = true;
        }
    }
}

/// All nodes that feed each node.
fn ancestors(graph: &Graph) -> Vec<BTreeSet<usize>> {
    let mut ancestors: Vec<BTreeSet<usize>> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let mut set = BTreeSet::new();
        for input in &node.inputs {
            set.extend(&ancestors[input.from.0]);
            set.insert(input.from.0);
        }
        ancestors.push(set);
    }
    ancestors
}
