//! Cuts a UNet in two (DeepCache: Ma et al. 2023, arXiv 2312.00858): what its inner blocks give changes little from step to step,
//! so it is kept, and only what lies outside of them is computed anew.
//!
//! A UNet's outermost skip connection is its last `Concat` of channels: what comes up from the inner blocks, beside what
//! the first convolution gave. The first of the two is the cut.

use std::io;

use prost::Message;
use prost::bytes::Bytes;

use super::live::{live, uses};
use super::proto::{FLOAT, Graph, Node, Tensor, TensorType, Type, ValueInfo};

/// The name of the shallow part's input.
pub(in crate::onnx) const FEATURES: &str = "deep_features";

/// Which part of a UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) enum Part {
    /// All of it, which also gives what its inner blocks gave.
    Deep,
    /// What lies outside of the inner blocks, which takes that.
    Shallow,
}

/// Makes `graph` that part of itself, and returns the name of the tensor at the cut: an output of the one, an input of the
/// other under the name [`FEATURES`]. `None` where there is no place to cut.
///
/// # Errors
/// The graph is broken.
pub(super) fn cut(graph: &mut Graph, part: Part) -> io::Result<Option<String>> {
    let nodes: Vec<Node> = graph.node.iter().map(decoded).collect::<io::Result<_>>()?;
    let Some(place) = nodes.iter().rposition(joins_channels) else { return Ok(None) };
    let tensor = nodes[place].input[0].clone();
    let kind = element_type(graph, &nodes)?;
    match part {
        Part::Deep => graph.output.push(value(&tensor, kind)),
        Part::Shallow => {
            graph.input.push(value(FEATURES, kind));
            take_from_outside(graph, nodes, &tensor)?;
        }
    }
    Ok(Some(tensor))
}

/// Replaces `tensor` by the input, and leaves out what is not needed then.
fn take_from_outside(graph: &mut Graph, mut nodes: Vec<Node>, tensor: &str) -> io::Result<()> {
    for (node, bytes) in nodes.iter_mut().zip(&mut graph.node) {
        if node.input.iter().any(|input| input == tensor) {
            node.input.iter_mut().filter(|input| *input == tensor).for_each(|input| *input = FEATURES.to_string());
            *bytes = node.encode_to_vec().into();
        }
    }
    let is_live = live(&nodes, &graph.output)?;
    let mut needed = Vec::new();
    nodes.iter().zip(&is_live).filter(|(_, live)| **live).try_for_each(|(node, _)| uses(node, &mut needed))?;
    let mut is_live = is_live.into_iter();
    graph.node.retain(|_| is_live.next().expect("one for each node"));
    needed.sort_unstable();
    let names =
        graph.initializer.iter().map(|bytes| Ok(decoded::<Tensor>(bytes)?.name)).collect::<io::Result<Vec<_>>>()?;
    let mut names = names.into_iter();
    graph.initializer.retain(|_| needed.binary_search(&names.next().expect("one for each")).is_ok());
    Ok(())
}

fn joins_channels(node: &Node) -> bool {
    node.is("Concat") && node.input.len() == 2 && node.get("axis").is_some_and(|axis| matches!(axis.i, 1 | -3))
}

/// Returns the type of the numbers that convolutions compute with: that of the last one's weights.
fn element_type(graph: &Graph, nodes: &[Node]) -> io::Result<i32> {
    let convolution = nodes.iter().rfind(|node| node.is("Conv"));
    let weights = convolution.and_then(|node| node.input.get(1));
    for bytes in &graph.initializer {
        let tensor: Tensor = decoded(bytes)?;
        if weights == Some(&tensor.name) {
            return Ok(tensor.data_type);
        }
    }
    Ok(FLOAT)
}

/// Returns an input or output of any shape.
fn value(name: &str, element: i32) -> Bytes {
    let kind = Some(Type { tensor: Some(TensorType { element }) });
    ValueInfo { name: name.to_string(), kind }.encode_to_vec().into()
}

fn decoded<M: Message + Default>(bytes: &Bytes) -> io::Result<M> {
    M::decode(bytes.clone()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::proto::Attribute;
    use super::*;

    fn node(op_type: &str, input: &[&str], output: &str) -> Node {
        let input = input.iter().map(|name| name.to_string()).collect();
        Node { input, output: vec![output.into()], op_type: op_type.into(), ..Node::default() }
    }

    /// A UNet of one level, with a list of sizes joined after its skip connection.
    fn unet(axis: i64) -> Graph {
        let attribute = vec![Attribute { name: "axis".into(), i: axis, ..Attribute::default() }];
        let sizes = vec![Attribute { name: "axis".into(), i: 0, ..Attribute::default() }];
        let nodes = [
            node("Conv", &["sample", "w_in"], "outer"),
            node("Conv", &["outer", "w_deep"], "deep"),
            Node { attribute, ..node("Concat", &["deep", "outer"], "joined") },
            Node { attribute: sizes, ..node("Concat", &["a", "b"], "shape") },
            node("Conv", &["joined", "w_out"], "y"),
        ];
        let weights =
            ["w_in", "w_deep", "w_out"].map(|name| Tensor { name: name.into(), data_type: 10, ..Tensor::default() });
        Graph {
            node: nodes.iter().map(|node| node.encode_to_vec().into()).collect(),
            initializer: weights.iter().map(|tensor| tensor.encode_to_vec().into()).collect(),
            input: vec![value("sample", FLOAT)],
            output: vec![value("y", FLOAT)],
            ..Graph::default()
        }
    }

    fn names(values: &[Bytes]) -> Vec<String> {
        values.iter().map(|bytes| decoded::<ValueInfo>(bytes).expect("a value").name).collect()
    }

    #[test]
    fn the_deep_part_is_all_and_gives_the_tensor_at_the_cut() {
        let mut graph = unet(1);
        assert_eq!(cut(&mut graph, Part::Deep).expect("sound"), Some("deep".to_string()));
        assert_eq!((graph.node, graph.initializer, graph.input), (unet(1).node, unet(1).initializer, unet(1).input));
        assert_eq!(names(&graph.output), ["y", "deep"]);
    }

    #[test]
    fn the_shallow_part_takes_it_and_has_no_more_than_it_needs() {
        let mut graph = unet(-3);
        assert_eq!(cut(&mut graph, Part::Shallow).expect("sound"), Some("deep".to_string()));
        assert_eq!(
            (names(&graph.input), names(&graph.output)),
            (vec!["sample".into(), FEATURES.into()], vec!["y".into()])
        );
        let nodes: Vec<Node> = graph.node.iter().map(|bytes| decoded(bytes).expect("a node")).collect();
        let shown: Vec<_> = nodes.iter().map(|node| format!("{}({})", node.op_type, node.input.join(","))).collect();
        assert_eq!(shown, ["Conv(sample,w_in)", "Concat(deep_features,outer)", "Conv(joined,w_out)"]);
        assert_eq!(graph.initializer.len(), 2, "the inner block's weights are gone");
        let kind = decoded::<ValueInfo>(&graph.input[1]).expect("a value").kind.and_then(|kind| kind.tensor);
        assert_eq!(kind.map(|tensor| tensor.element), Some(10), "float16, as the weights");
    }

    #[test]
    fn a_network_without_skip_connections_cannot_be_cut() {
        assert_eq!(cut(&mut unet(0), Part::Deep).expect("sound"), None);
    }
}
