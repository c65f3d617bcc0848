//! Rewrites a graph: for the processor, operations for which we have a kernel of our own are replaced by it; and a UNet may be
//! cut into parts.
//!
//! Each rule replaces one node by another that gives the same tensor under the same name, so nothing else of the graph need
//! be touched but what nobody uses any more. The file stays as it is: the new graph lives in memory,
//! and weights beside the file are read from there.

mod attention;
mod convolution;
mod cut;
mod live;
mod norm;
mod proto;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;

pub(super) use cut::{FEATURES, Part};
use proto::{BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT64, Model, Node, Opset, Tensor};

/// The domain of our operators.
pub(super) const DOMAIN: &str = "nightshift";

/// A graph with operators of our own.
pub(super) struct Rewritten {
    /// The model file that it would be.
    pub(super) bytes: Vec<u8>,
    /// How many nodes were replaced, by the names of the new operators.
    pub(super) replaced: Vec<(&'static str, usize)>,
    /// The tensor at which it was cut, if it was.
    pub(super) cut: Option<String>,
}

/// What is to be done to a graph.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    /// Whether operations are to be replaced by ours.
    pub(super) own_kernels: bool,
    /// The part that is to be left of it.
    pub(super) part: Option<Part>,
}

/// Returns the graph in the file `path` rewritten, or `None` where there is nothing to gain.
///
/// # Errors
/// The file cannot be read, is not an ONNX model, or cannot be cut.
pub(super) fn rewrite(path: &Path, plan: Plan) -> io::Result<Option<Rewritten>> {
    rewrite_bytes(fs::read(path)?.into(), plan)
}

/// Returns whether the graph in the file `path` can be cut.
///
/// # Errors
/// The file cannot be read, or is not an ONNX model.
pub(super) fn can_be_cut(path: &Path) -> io::Result<bool> {
    let model = Model::decode(Bytes::from(fs::read(path)?)).map_err(io::Error::other)?;
    let mut graph = model.graph.unwrap_or_default();
    Ok(cut::cut(&mut graph, Part::Deep)?.is_some())
}

fn rewrite_bytes(file: Bytes, plan: Plan) -> io::Result<Option<Rewritten>> {
    let mut model = Model::decode(file).map_err(io::Error::other)?;
    let Some(graph) = &mut model.graph else { return Ok(None) };
    let cut = match plan.part {
        Some(part) => {
            Some(cut::cut(graph, part)?.ok_or_else(|| io::Error::other("it has no skip connection to cut at"))?)
        }
        None => None,
    };
    let replaced = if plan.own_kernels { replace(graph)? } else { Vec::new() };
    if replaced.is_empty() && cut.is_none() {
        return Ok(None);
    }
    if !replaced.is_empty() {
        model.opset_import.push(Opset { domain: DOMAIN.to_string(), version: 1 });
    }
    Ok(Some(Rewritten { bytes: model.encode_to_vec(), replaced, cut }))
}

/// Replaces operations by ours; returns how many, by the names of the new operators.
fn replace(graph: &mut proto::Graph) -> io::Result<Vec<(&'static str, usize)>> {
    let view = View::new(graph)?;
    let mut nodes = view.nodes.clone();
    for (place, node) in view.nodes.iter().enumerate() {
        let rules = [convolution::rule, attention::rule, norm::rule];
        let Some(new) = rules.iter().find_map(|rule| rule(&view, node)) else { continue };
        nodes[place] = Node { domain: DOMAIN.to_string(), ..new };
        graph.node[place] = nodes[place].encode_to_vec().into();
    }
    let live = live::live(&nodes, &graph.output)?;
    let made = |name: &str| nodes.iter().zip(&live).filter(|(node, live)| **live && node.is_ours(name)).count();
    let replaced: Vec<_> =
        OPERATORS.map(|name| (name, made(name))).into_iter().filter(|(_, count)| *count > 0).collect();
    if !replaced.is_empty() {
        let mut live = live.into_iter();
        graph.node.retain(|_| live.next().expect("one for each node"));
    }
    Ok(replaced)
}

/// The names of our operators.
pub(super) const CONVOLUTION: &str = "Conv3x3";
/// See [`CONVOLUTION`].
pub(super) const ATTENTION: &str = "Attention";
/// See [`CONVOLUTION`].
pub(super) const GROUP_NORM: &str = "GroupNorm";

const OPERATORS: [&str; 3] = [CONVOLUTION, ATTENTION, GROUP_NORM];

/// What rules look at: the nodes of a graph and who is connected to whom.
struct View {
    nodes: Vec<Node>,
    producers: HashMap<String, usize>,
    /// How often nodes use each tensor.
    uses: HashMap<String, usize>,
    initializers: HashMap<String, Tensor>,
    /// Whether all floating-point numbers are float32, as our kernels want them.
    single_precision: bool,
}

impl View {
    fn new(graph: &proto::Graph) -> io::Result<View> {
        let decode = |bytes: &Bytes| Node::decode(bytes.clone()).map_err(io::Error::other);
        let nodes: Vec<Node> = graph.node.iter().map(decode).collect::<io::Result<_>>()?;
        let (mut producers, mut uses) = (HashMap::new(), HashMap::new());
        for (place, node) in nodes.iter().enumerate() {
            producers.extend(node.output.iter().map(|name| (name.clone(), place)));
            node.input.iter().for_each(|name| *uses.entry(name.clone()).or_default() += 1);
        }
        let tensor = |bytes: &Bytes| Tensor::decode(bytes.clone()).map_err(io::Error::other);
        let mut initializers = HashMap::new();
        for bytes in &graph.initializer {
            let tensor = tensor(bytes)?;
            initializers.insert(tensor.name.clone(), tensor);
        }
        let other = |kind: i64| matches!(kind as i32, FLOAT16 | DOUBLE | BFLOAT16);
        let cast = |node: &Node| node.is("Cast") && node.get("to").is_some_and(|to| other(to.i));
        let mut constants = initializers.values().map(|tensor| i64::from(tensor.data_type));
        let single_precision = !constants.any(other) && !nodes.iter().any(cast);
        Ok(View { nodes, producers, uses, initializers, single_precision })
    }

    /// Returns the node that makes `tensor`.
    fn producer(&self, tensor: &str) -> Option<&Node> {
        self.producers.get(tensor).map(|place| &self.nodes[*place])
    }

    /// Returns the node that makes `tensor` if it is an ONNX operation of the kind `operator`.
    fn made_by(&self, tensor: &str, operator: &str) -> Option<&Node> {
        self.producer(tensor).filter(|node| node.is(operator))
    }

    /// Returns the node that makes `tensor` if it is an ONNX operation of the kind `operator` and `tensor` is used only once.
    fn made_for_us(&self, tensor: &str, operator: &str) -> Option<&Node> {
        self.made_by(tensor, operator).filter(|_| self.uses.get(tensor) == Some(&1))
    }

    /// Returns whether `tensor` is one number: a constant, or the result of arithmetic on constants and shapes.
    fn is_single(&self, tensor: &str) -> bool {
        if let Some(constant) = self.constant(tensor) {
            return constant.data_type == FLOAT && constant.dims.iter().product::<i64>() == 1;
        }
        false
    }

    /// Returns a constant: an initializer or the value of a `Constant` node.
    fn constant(&self, tensor: &str) -> Option<&Tensor> {
        let node = || self.made_by(tensor, "Constant")?.get("value")?.t.as_ref();
        self.initializers.get(tensor).or_else(node)
    }
}

impl Node {
    /// Returns whether it is an ONNX operation of the kind `operator`.
    fn is(&self, operator: &str) -> bool {
        self.op_type == operator && (self.domain.is_empty() || self.domain == "ai.onnx")
    }

    /// Returns whether it is our operator `name`.
    fn is_ours(&self, name: &str) -> bool {
        self.op_type == name && self.domain == DOMAIN
    }

    fn get(&self, name: &str) -> Option<&proto::Attribute> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// Returns whether the list `name` is not given, or all its values are `value`.
    fn all(&self, name: &str, value: i64) -> bool {
        self.get(name).is_none_or(|attribute| attribute.ints.iter().all(|int| *int == value))
    }

    /// Returns the node that takes the place of this one.
    fn replaced_by(&self, operator: &str, input: Vec<String>) -> Node {
        let Node { output, name, .. } = self.clone();
        Node { input, output, name, op_type: operator.to_string(), ..Node::default() }
    }
}

impl Tensor {
    /// Returns the values of a small constant of int64.
    fn integers(&self) -> Option<Vec<i64>> {
        if self.data_type != INT64 {
            return None;
        }
        if !self.int64_data.is_empty() {
            return Some(self.int64_data.clone());
        }
        let bytes = self.raw_data.chunks_exact(8).map(|bytes| bytes.try_into().expect("eight bytes"));
        Some(bytes.map(i64::from_le_bytes).collect())
    }

    /// Returns the values of a small constant of float32.
    fn floats(&self) -> Option<Vec<f32>> {
        if self.data_type != FLOAT {
            return None;
        }
        if !self.float_data.is_empty() {
            return Some(self.float_data.clone());
        }
        let bytes = self.raw_data.chunks_exact(4).map(|bytes| bytes.try_into().expect("four bytes"));
        Some(bytes.map(f32::from_le_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attribute, Graph, ValueInfo};

    fn node(op_type: &str, input: &[&str], output: &str) -> Node {
        let input = input.iter().map(|name| name.to_string()).collect();
        Node { input, output: vec![output.into()], op_type: op_type.into(), ..Node::default() }
    }

    fn ints(name: &str, ints: &[i64]) -> Attribute {
        Attribute { name: name.into(), ints: ints.into(), ..Attribute::default() }
    }

    fn filters(name: &str, dims: &[i64], data_type: i32) -> Tensor {
        Tensor { name: name.into(), dims: dims.into(), data_type, ..Tensor::default() }
    }

    /// Rewrites a graph with the output `y`; returns its nodes as `operator(inputs)`, none if it stays as it is.
    fn rewritten(nodes: &[Node], initializers: &[Tensor]) -> Vec<String> {
        let graph = Graph {
            node: nodes.iter().map(|node| node.encode_to_vec().into()).collect(),
            initializer: initializers.iter().map(|tensor| tensor.encode_to_vec().into()).collect(),
            output: vec![ValueInfo { name: "y".into(), kind: None }.encode_to_vec().into()],
            ..Graph::default()
        };
        let model = Model { graph: Some(graph), ..Model::default() };
        let Some(new) =
            rewrite_bytes(model.encode_to_vec().into(), Plan { own_kernels: true, part: None }).expect("a model")
        else {
            return Vec::new();
        };
        let graph = Model::decode(&*new.bytes).expect("a model").graph.expect("with a graph");
        let nodes = graph.node.into_iter().map(|node| Node::decode(node).expect("a node"));
        nodes.map(|node| format!("{}({})", node.op_type, node.input.join(","))).collect()
    }

    fn convolution(attribute: Vec<Attribute>) -> Node {
        Node { attribute, ..node("Conv", &["x", "w", "b"], "y") }
    }

    #[test]
    fn only_3x3_convolutions_that_keep_the_size_are_ours() {
        let weights = [filters("w", &[32, 16, 3, 3], FLOAT)];
        let pads = || ints("pads", &[1, 1, 1, 1]);
        assert_eq!(rewritten(&[convolution(vec![pads()])], &weights), ["Conv3x3(x,w,b)"]);
        let none = Vec::<String>::new();
        for attributes in [
            vec![],
            vec![ints("pads", &[0, 0, 1, 1])],
            vec![pads(), ints("strides", &[2, 2])],
            vec![pads(), ints("dilations", &[2, 2])],
            vec![pads(), Attribute { name: "group".into(), i: 2, ..Attribute::default() }],
        ] {
            assert_eq!(rewritten(&[convolution(attributes)], &weights), none);
        }
        for (dims, dtype) in [([32, 16, 1, 1], FLOAT), ([4, 16, 3, 3], FLOAT), ([32, 16, 3, 3], FLOAT16)] {
            assert_eq!(rewritten(&[convolution(vec![pads()])], &[filters("w", &dims, dtype)]), none);
        }
    }

    fn attention(softmax: Node) -> Vec<Node> {
        vec![node("MatMul", &["q", "k"], "s"), softmax, node("MatMul", &["p", "v"], "y")]
    }

    fn softmax(input: &str, axis: i64) -> Node {
        let axis = Attribute { name: "axis".into(), i: axis, ..Attribute::default() };
        Node { attribute: vec![axis], ..node("Softmax", &[input], "p") }
    }

    #[test]
    fn attention_is_ours_unless_something_is_added_or_looks_on() {
        assert_eq!(rewritten(&attention(softmax("s", -1)), &[]), ["Attention(q,k,v)"]);
        let none = Vec::<String>::new();
        assert_eq!(rewritten(&attention(softmax("s", 1)), &[]), none);
        let half = [filters("w", &[2, 2], FLOAT16)];
        assert_eq!(rewritten(&attention(softmax("s", -1)), &half), none);
        let mut masked = attention(softmax("t", -1));
        masked.insert(1, node("Add", &["s", "mask"], "t"));
        assert_eq!(rewritten(&masked, &[]), none);
        let mut watched = attention(softmax("s", -1));
        watched.push(node("Identity", &["p"], "other"));
        assert_eq!(rewritten(&watched, &[]), none);
    }

    #[test]
    fn what_multiplies_the_scores_goes_along() {
        let mut scaled = attention(softmax("t", -1));
        scaled.insert(1, node("Mul", &["s", "factor"], "t"));
        assert_eq!(rewritten(&scaled, &[filters("factor", &[], FLOAT)]), ["Attention(q,k,v,factor)"]);
        assert_eq!(rewritten(&scaled, &[filters("factor", &[7], FLOAT)]), Vec::<String>::new());
    }

    #[test]
    fn what_a_subgraph_uses_stays() {
        let inner = Graph { node: vec![node("Identity", &["kept"], "z").encode_to_vec().into()], ..Graph::default() };
        let branch = Attribute { g: Some(inner.encode_to_vec().into()), ..Attribute::default() };
        let mut nodes = attention(softmax("s", -1));
        nodes[2].output = vec!["o".into()];
        nodes.extend([node("Neg", &["q"], "kept"), node("Neg", &["q"], "unused")]);
        nodes.push(Node { attribute: vec![branch], ..node("If", &["o"], "y") });
        assert_eq!(rewritten(&nodes, &[]), ["Attention(q,k,v)", "Neg(q)", "If(o)"]);
    }
}
