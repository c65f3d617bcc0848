//! Which nodes are still needed: ONNX Runtime computes the others too.

use std::collections::HashMap;
use std::io;

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{Graph, Node, ValueInfo};

/// Returns for each node whether the `outputs` of the graph depend on it.
pub(super) fn live(nodes: &[Node], outputs: &[Bytes]) -> io::Result<Vec<bool>> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (place, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().map(|name| (name.as_str(), place)));
    }
    let mut wanted = Vec::new();
    for output in outputs {
        wanted.push(ValueInfo::decode(output.clone()).map_err(io::Error::other)?.name);
    }
    let mut live = vec![false; nodes.len()];
    while let Some(name) = wanted.pop() {
        let Some(place) = producers.get(name.as_str()).copied().filter(|place| !live[*place]) else { continue };
        live[place] = true;
        uses(&nodes[place], &mut wanted)?;
    }
    Ok(live)
}

/// Adds the names of all tensors that `node` uses, in its subgraphs too.
pub(super) fn uses(node: &Node, wanted: &mut Vec<String>) -> io::Result<()> {
    wanted.extend(node.input.iter().cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.clone()) {
        let graph = Graph::decode(graph).map_err(io::Error::other)?;
        for inner in graph.node {
            uses(&Node::decode(inner).map_err(io::Error::other)?, wanted)?;
        }
        for output in graph.output {
            wanted.push(ValueInfo::decode(output).map_err(io::Error::other)?.name);
        }
    }
    Ok(())
}
