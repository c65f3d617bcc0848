//! Attention: softmax(Q K) V, whatever was done to Q and K before, as long as nothing is added to the scores.

use super::proto::Node;
use super::{ATTENTION, View};

/// Returns our operator in place of `node`, if that is the last product of an attention: a product whose left side is the
/// softmax, over the last axis, of another product. That may be multiplied by one number before.
pub(super) fn rule(view: &View, node: &Node) -> Option<Node> {
    let [weights, values] = &node.input[..] else { return None };
    let softmax =
        (node.is("MatMul") && view.single_precision).then(|| view.made_for_us(weights, "Softmax")).flatten()?;
    if softmax.get("axis").is_none_or(|axis| axis.i != -1) {
        return None;
    }
    let scores = softmax.input.first()?;
    let (product, scale) = match view.made_for_us(scores, "Mul") {
        Some(scaled) => {
            let [a, b] = &scaled.input[..] else { return None };
            let (product, scale) = if view.is_single(b) { (a, b) } else { (b, a) };
            (view.is_single(scale).then(|| view.made_for_us(product, "MatMul")).flatten()?, Some(scale.clone()))
        }
        None => (view.made_for_us(scores, "MatMul")?, None),
    };
    let [queries, keys] = &product.input[..] else { return None };
    let inputs = [queries.clone(), keys.clone(), values.clone()];
    Some(node.replaced_by(ATTENTION, inputs.into_iter().chain(scale).collect()))
}
