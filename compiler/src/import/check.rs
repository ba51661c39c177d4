//! Well-formedness of an ONNX graph: every name defined once and before use, no cycle.
use super::{
    cx_name,
    proto::{GraphProto, NodeProto},
};
use crate::{Code, Error, Result};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

/// Who defines a tensor.
#[derive(Clone, Copy)]
enum Definition {
    Given,
    Node(usize),
}

/// The nodes that the outputs depend on, in topological order, file order first.
///
/// # Errors
/// [`Code::GRAPH`]: a tensor without or with two definitions, a cycle, no outputs.
pub fn order(graph: &GraphProto) -> Result<Vec<&NodeProto>> {
    let definitions = definitions(graph)?;
    if graph.output.is_empty() {
        return Err(wrong("the graph has no outputs", "there is nothing to compile: export the model again"));
    }
    let mut seen = BTreeSet::new();
    for output in &graph.output {
        if !definitions.contains_key(output.name.as_str()) {
            return Err(wrong(
                format!("output {:?} of the network is not defined", output.name),
                "no node makes it: the file is damaged or was edited wrongly",
            ));
        }
        if !seen.insert(output.name.as_str()) {
            return Err(wrong(format!("output {:?} is listed twice", output.name), "export the model again"));
        }
    }
    let sorted = topological(graph, &definitions)?;
    let live = live(graph, &definitions);
    Ok(sorted.into_iter().filter(|i| live.contains(i)).map(|i| &graph.node[i]).collect())
}

fn definitions(graph: &GraphProto) -> Result<BTreeMap<&str, Definition>> {
    let mut map = BTreeMap::new();
    let mut given = BTreeSet::new();
    for (name, what) in graph
        .initializer
        .iter()
        .map(|t| (&t.name, "initializer"))
        .chain(graph.input.iter().map(|v| (&v.name, "input")))
    {
        if name.is_empty() {
            return Err(wrong(format!("an {what} has no name"), "export the model again"));
        }
        // An input may repeat an initializer: its default value, as all files up to IR version 3 have it.
        if !given.insert((name.as_str(), what)) {
            return Err(twice(name));
        }
        map.insert(name.as_str(), Definition::Given);
    }
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if map.insert(output, Definition::Node(i)).is_some() {
                return Err(twice(output).at(cx_name(node)));
            }
        }
    }
    Ok(map)
}

fn operands(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().filter(|n| !n.is_empty()).map(String::as_str)
}

fn topological(graph: &GraphProto, definitions: &BTreeMap<&str, Definition>) -> Result<Vec<usize>> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    let mut missing = vec![0usize; graph.node.len()];
    for (i, node) in graph.node.iter().enumerate() {
        for name in operands(node) {
            match definitions.get(name) {
                None => {
                    return Err(wrong(
                        format!("tensor {name:?} is used but not defined"),
                        "no input, initializer or node makes it: the file is damaged or was edited wrongly",
                    )
                    .at(cx_name(node)));
                }
                Some(Definition::Given) => {}
                Some(Definition::Node(maker)) => {
                    users[*maker].push(i);
                    missing[i] += 1;
                }
            }
        }
    }
    let mut ready: BinaryHeap<_> = (0..missing.len()).filter(|i| missing[*i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for user in &users[i] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(Reverse(*user));
            }
        }
    }
    if order.len() == missing.len() {
        return Ok(order);
    }
    let cycle = cycle(graph, definitions, &missing);
    Err(wrong(
        format!("the graph has a cycle: {}", cycle.join(" → ")),
        "a network must be acyclic: unroll loops before export",
    ))
}

/// Names of the tensors of one cycle among the nodes that could not be ordered.
fn cycle(graph: &GraphProto, definitions: &BTreeMap<&str, Definition>, missing: &[usize]) -> Vec<String> {
    // Every stuck node has a stuck operand, so walking back must meet a node again.
    let stuck_maker = |i: usize| {
        operands(&graph.node[i]).find_map(|name| match definitions.get(name) {
            Some(Definition::Node(maker)) if missing[*maker] > 0 => Some((*maker, name)),
            _ => None,
        })
    };
    let Some(mut at) = missing.iter().position(|m| *m > 0) else { return Vec::new() };
    let mut path: Vec<(usize, &str)> = Vec::new();
    while let Some((maker, name)) = stuck_maker(at) {
        if let Some(first) = path.iter().position(|(m, _)| *m == maker) {
            let mut names: Vec<String> =
                path[first..].iter().rev().take(8).map(|(_, n)| format!("{n:?}")).collect();
            names.extend(names.first().cloned());
            return names;
        }
        path.push((maker, name));
        at = maker;
    }
    Vec::new()
}

fn live(graph: &GraphProto, definitions: &BTreeMap<&str, Definition>) -> BTreeSet<usize> {
    let mut live = BTreeSet::new();
    let mut stack: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    while let Some(name) = stack.pop() {
        if let Some(Definition::Node(i)) = definitions.get(name)
            && live.insert(*i)
        {
            stack.extend(operands(&graph.node[*i]));
        }
    }
    live
}

fn twice(name: &str) -> Error {
    wrong(
        format!("tensor {name:?} is defined twice"),
        "every tensor has one definition: the file is damaged or was edited wrongly",
    )
}

fn wrong(what: impl Into<String>, remedy: &str) -> Error {
    Error::new(Code::GRAPH, what).help(remedy)
}
