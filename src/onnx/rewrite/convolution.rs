//! Convolutions with 3×3 filters that keep the picture's size.

use super::proto::{FLOAT, Node};
use super::{CONVOLUTION, View};

/// With fewer channels, the way into the frequencies and back costs more than it saves.
const LEAST_CHANNELS: i64 = 16;

/// Returns our operator in place of `node`, if that is such a convolution.
pub(super) fn rule(view: &View, node: &Node) -> Option<Node> {
    let filters = node.is("Conv").then(|| node.input.get(1)).flatten()?;
    let filters = view.initializers.get(filters).filter(|filters| filters.data_type == FLOAT)?;
    let [outputs, inputs, 3, 3] = filters.dims[..] else { return None };
    let group = node.get("group").is_none_or(|group| group.i == 1);
    let pads = node.get("pads").is_some_and(|pads| pads.ints == [1, 1, 1, 1]);
    let automatic = node.get("auto_pad").is_some_and(|pad| &pad.s[..] != b"NOTSET");
    let plain = group && pads && !automatic && node.all("strides", 1) && node.all("dilations", 1);
    (plain && outputs.min(inputs) >= LEAST_CHANNELS).then(|| node.replaced_by(CONVOLUTION, node.input.clone()))
}
