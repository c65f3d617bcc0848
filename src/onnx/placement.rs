//! Where ONNX Runtime has put the nodes of a graph: a GPU is not to leave work to the processor without anybody knowing.
//!
//! `session.disable_cpu_ep_fallback` would refuse every export with free dims: ONNX Runtime itself puts the small integer
//! arithmetic of shapes (Shape, Gather, Concat) on the CPU, and for that option any node of the main graph counts
//! (onnxruntime pull request 16016). So we let it place the nodes, ask for the list, and judge for ourselves.

use std::collections::BTreeMap;

use ort::session::Session;

use super::device::Device;
use super::placement_api::assigned_nodes;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::model::GraphFile;

/// Setting that makes ONNX Runtime remember where it puts nodes.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// A node and the provider that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AssignedNode {
    pub(super) provider: String,
    pub(super) domain: String,
    pub(super) operator: String,
}

/// Operators that the arithmetic of shapes consists of, and that CUDA has kernels for where they handle more than a few numbers:
/// also the square root by which attention is scaled. CUDA has no `ArgMax` of whole numbers, by which CLIP finds the end of a text.
const SHAPE_ARITHMETIC: [&str; 42] = [
    "Add",
    "And",
    "ArgMax",
    "Cast",
    "Ceil",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Floor",
    "Gather",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "Not",
    "Or",
    "Range",
    "ReduceProd",
    "ReduceMax",
    "Reshape",
    "ScatterND",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Fails if nodes that do more than the arithmetic of shapes were left to the processor.
///
/// # Errors
/// Kind `Provider`: they were, and which operators they are.
pub(super) fn refuse_cpu_nodes(session: &Session, device: Device, part: &str, graph: &GraphFile) -> Result<()> {
    let nodes = assigned_nodes(session).map_err(|error| {
        let message = format!("cannot tell where the nodes of the {part} run: {}", error.message());
        Error::new(ErrorKind::Provider, "placement_unknown", message)
            .at(Location::file(&graph.path))
            .hint("`--allow-cpu-nodes` runs it without knowing")
    })?;
    match left_to_cpu(&nodes) {
        counts if counts.is_empty() => Ok(()),
        counts => Err(left_over(&counts, device, part, graph)),
    }
}

/// Returns the operators that the processor would run, beyond the arithmetic of shapes, with the number of their nodes.
fn left_to_cpu(nodes: &[AssignedNode]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.provider == Device::Cpu.provider()) {
        let is_default = node.domain.is_empty() || node.domain == "ai.onnx";
        if !(is_default && SHAPE_ARITHMETIC.contains(&node.operator.as_str())) {
            *counts.entry(node.operator.as_str()).or_insert(0) += 1;
        }
    }
    counts
}

fn left_over(counts: &BTreeMap<&str, usize>, device: Device, part: &str, graph: &GraphFile) -> Error {
    let named: Vec<String> = counts.iter().map(|(operator, count)| format!("{operator} ({count})")).collect();
    let total: usize = counts.values().sum();
    let message = format!(
        "`{device}` has no kernels for {total} nodes of the {part}, which the processor would run: {}",
        named.join(", ")
    );
    Error::new(ErrorKind::Provider, "cpu_nodes", message)
        .at(Location::file(&graph.path))
        .hint("export the model again (`onnx/export.py`), or accept it with `--allow-cpu-nodes`: every such node costs two copies a call")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(provider: &str, domain: &str, operator: &str) -> AssignedNode {
        AssignedNode { provider: provider.into(), domain: domain.into(), operator: operator.into() }
    }

    #[test]
    fn the_arithmetic_of_shapes_may_run_on_the_processor_and_nothing_else() {
        let cpu = "CPUExecutionProvider";
        let nodes = [
            node(cpu, "", "Shape"),
            node(cpu, "ai.onnx", "Gather"),
            node("CUDAExecutionProvider", "", "Conv"),
            node(cpu, "", "Resize"),
            node(cpu, "", "Resize"),
            node(cpu, "com.microsoft", "Gather"),
        ];
        let left = left_to_cpu(&nodes);
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [("Gather", 1), ("Resize", 2)]);
        assert!(left_to_cpu(&nodes[..3]).is_empty());
    }

    #[test]
    fn the_message_names_operators_and_the_way_out() {
        let graph = GraphFile { path: "unet/model.onnx".into(), signature: Default::default() };
        let error = left_over(&BTreeMap::from([("Resize", 2), ("Einsum", 1)]), Device::Cuda(1), "UNet", &graph);
        assert_eq!(
            error.to_string(),
            "unet/model.onnx: `cuda:1` has no kernels for 3 nodes of the UNet, which the processor would run: Einsum (1), Resize (2)"
        );
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("--allow-cpu-nodes")));
        assert_eq!(error.kind().exit_code(), 10);
    }
}
