//! Group norms as exporters write them, with the SiLU that may follow: the channels of a group as one channel of an instance
//! norm, back to their shape, then scale and shift of each channel.

use super::proto::{Attribute, Node};
use super::{GROUP_NORM, View};

/// `kind` of attributes.
const FLOAT: i32 = 1;
const INT: i32 = 2;

/// Returns our operator in place of `node`, if that is the end of a group norm.
pub(super) fn rule(view: &View, node: &Node) -> Option<Node> {
    let silu = silu_of(view, node);
    let normed = silu.unwrap_or(node);
    let Norm { input, scale, shift, groups, epsilon } = norm(view, normed)?;
    let int = |name: &str, i| Attribute { name: name.into(), kind: INT, i, ..Attribute::default() };
    let attribute = vec![
        int("groups", groups),
        int("silu", i64::from(silu.is_some())),
        Attribute { name: "epsilon".into(), kind: FLOAT, f: epsilon, ..Attribute::default() },
    ];
    Some(Node { attribute, ..node.replaced_by(GROUP_NORM, vec![input, scale, shift]) })
}

/// Returns the node whose result `node` multiplies by its own sigmoid, if that is what it does, and the only one who uses it.
fn silu_of<'v>(view: &'v View, node: &Node) -> Option<&'v Node> {
    let [a, b] = &node.input[..] else { return None };
    let other = |value: &String, sigmoid: &String| {
        let made = node.is("Mul").then(|| view.made_for_us(sigmoid, "Sigmoid")).flatten()?;
        (made.input.first() == Some(value) && view.uses.get(value) == Some(&2)).then(|| view.producer(value))?
    };
    other(a, b).or_else(|| other(b, a))
}

struct Norm {
    input: String,
    scale: String,
    shift: String,
    groups: i64,
    epsilon: f32,
}

fn norm(view: &View, node: &Node) -> Option<Norm> {
    let (scaled, shift) = with_channels(view, node, "Add")?;
    let (back, scale) = with_channels(view, view.made_for_us(scaled, "Mul")?, "Mul")?;
    let back = view.made_for_us(back, "Reshape")?;
    let instance = view.made_for_us(back.input.first()?, "InstanceNormalization")?;
    let grouped = view.made_for_us(instance.input.first()?, "Reshape")?;
    let [input, grouping] = &grouped.input[..] else { return None };
    let [0, groups, -1] = view.constant(grouping)?.integers()?[..] else { return None };
    let same_shape = view.made_by(back.input.get(1)?, "Shape").is_some_and(|shape| shape.input.first() == Some(input));
    let plain = |place: usize, value: f32| -> Option<bool> {
        let values = view.constant(instance.input.get(place)?)?.floats()?;
        Some(values.len() as i64 == groups && values.iter().all(|one| *one == value))
    };
    let epsilon = instance.get("epsilon").map_or(1e-5, |epsilon| epsilon.f);
    let fits = same_shape && plain(1, 1.0)? && plain(2, 0.0)?;
    let channels = (view.channels(scale)?, view.channels(shift)?);
    let divides = channels.0 == channels.1 && groups > 0 && channels.0 % groups == 0;
    let names = (input.clone(), scale.clone(), shift.clone());
    (fits && divides).then_some(Norm { input: names.0, scale: names.1, shift: names.2, groups, epsilon })
}

/// Returns the operands of `node`, if it is such an `operator`: a tensor, and a number for each of its channels.
fn with_channels<'n>(view: &View, node: &'n Node, operator: &str) -> Option<(&'n String, &'n String)> {
    let [a, b] = &node.input[..] else { return None };
    let operands = if view.channels(b).is_some() { (a, b) } else { (b, a) };
    node.is(operator).then_some(operands)
}

impl View {
    /// Returns how many channels `tensor` has a number for, if that is its shape: weights [channels, 1, 1].
    fn channels(&self, tensor: &str) -> Option<i64> {
        if let Some(constant) = self.constant(tensor) {
            return matches!(constant.dims[..], [_, 1, 1]).then(|| constant.dims[0]);
        }
        let unsqueezed = self.made_by(tensor, "Unsqueeze")?;
        let axes = match unsqueezed.input.get(1) {
            Some(axes) => self.constant(axes)?.integers()?,
            None => unsqueezed.get("axes")?.ints.clone(),
        };
        let weights = self.constant(unsqueezed.input.first()?)?;
        (axes == [1, 2] && weights.dims.len() == 1).then(|| weights.dims[0])
    }
}
