#!/usr/bin/env python3
"""Gives the UNet of another exporter a timestep for every row of its batch.

    python onnx/widen_timestep.py unet/model.onnx widened/model.onnx     files with weights are copied beside it
    python onnx/widen_timestep.py unet/model.onnx --in-place             the old graph is kept as model.onnx.scalar
    … --float32        also takes an int64 timestep to float32, so that it can stand between two training steps
    … --check          compares both graphs with ONNX Runtime on the CPU before anything is replaced

optimum (1.24 and later) exports `timestep` as a scalar, others as `[1]`: then all images of a call must be at the same
step. Inside, the graph repeats that value for every row; this script makes the input `[batch]` and takes the repeating out.
Nothing else changes: where all timesteps are equal, the results keep their bits (as long as ONNX Runtime does not fuse
operators that it did not fuse before). Weights in files of their own are not read.
"""
import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

NAMES = ("timestep", "timesteps")


class CannotWiden(Exception):
    """The graph uses its timestep in a way that this script does not know."""


class Graph:
    """A graph with the look-ups that the rewriting needs."""

    def __init__(self, model):
        self.proto = model.graph
        self.constants = {i.name: i for i in self.proto.initializer}
        for node in self.proto.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t

    def input(self):
        found = [value for value in self.proto.input if value.name in NAMES]
        if not found:
            raise CannotWiden(f"no input is called {' or '.join(NAMES)}; there are {[v.name for v in self.proto.input]}")
        return found[0]

    def consumers(self, name):
        return [node for node in self.proto.node if name in node.input]

    def constant(self, name):
        """The values of a small constant as a flat list, or None."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor).ravel().tolist()

    def axes(self, node):
        """The axes of an Unsqueeze, an attribute before opset 13 and an input since."""
        attribute = [list(a.ints) for a in node.attribute if a.name == "axes"]
        return attribute[0] if attribute else self.constant(node.input[1])

    def bypass(self, node):
        """Takes `node` out: what read its output reads its first input."""
        for reader in self.consumers(node.output[0]):
            for i, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[i] = node.input[0]
        self.proto.node.remove(node)

    def prune(self):
        """Removes nodes and small constants that nothing reads any more."""
        outputs = {value.name for value in self.proto.output}
        while True:
            read = outputs | {name for node in self.proto.node for name in node.input} | set(self.names_in_subgraphs())
            unread = [node for node in self.proto.node if not read & set(node.output)]
            if not unread:
                break
            for node in unread:
                self.proto.node.remove(node)
        for initializer in [i for i in self.proto.initializer if i.name not in read]:
            self.proto.initializer.remove(initializer)

    def names_in_subgraphs(self):
        """Names that the branches of If and Loop read from outside."""
        graphs = [a.g for node in self.proto.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        while graphs:
            graph = graphs.pop()
            for node in graph.node:
                yield from node.input
                graphs += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def widen(model, float32=False):
    """Makes the timestep of `model` (a ModelProto, in place) `[batch]`. Returns what it was, such as `float32 []`."""
    graph = Graph(model)
    timestep = graph.input()
    dims = timestep.type.tensor_type.shape.dim
    was = f"{TensorProto.DataType.Name(timestep.type.tensor_type.elem_type).lower()} {[d.dim_param or d.dim_value for d in dims]}"
    if not timestep.type.tensor_type.HasField("shape") or len(dims) > 1:
        raise CannotWiden(f"the timestep is {was}; this script knows scalars and vectors")
    open_vector = len(dims) == 1 and not dims[0].HasField("dim_value")
    if not any([follow(graph, node, len(dims), open_vector) for node in graph.consumers(timestep.name)]):
        raise CannotWiden("nothing repeats the timestep for the rows of the batch, or not before it is used")
    graph.prune()
    del model.graph.value_info[:]  # shapes of values that have now another one; readers infer them
    del dims[:]
    dims.add().dim_param = batch_name(graph)
    if float32 and timestep.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32):
        to_float(graph, timestep)
    return was


def batch_name(graph):
    """What the graph calls the batch axis of its sample."""
    sample = next((v for v in graph.proto.input if v.name == "sample"), graph.proto.input[0])
    return sample.type.tensor_type.shape.dim[0].dim_param or "batch"


def follow(graph, node, rank, open_vector):
    """Takes out what gives a timestep of `rank` dimensions a batch axis, from `node` on. Returns whether the rows have one
    each then. An open vector that nothing repeats has them from the start."""
    readers = graph.consumers(node.output[0])
    onwards = lambda rank: all([follow(graph, reader, rank, open_vector) for reader in readers])
    if node.op_type in ("Cast", "Identity"):
        return onwards(rank)
    adds_axis = node.op_type == "Unsqueeze" and rank == 0 and graph.axes(node) in ([0], [-1])
    if adds_axis or (node.op_type == "Reshape" and graph.constant(node.input[1]) in ([1], [-1])):
        graph.bypass(node)
        return onwards(1)
    if node.op_type == "Expand":
        graph.bypass(node)
        return True
    if node.op_type == "Shape":  # to compute what to repeat to; harmless once the repeating is gone
        return not used_but_for_expand(graph, node)
    if open_vector:
        return True
    raise CannotWiden(f"the timestep goes into {node.op_type} `{node.name}` before it is repeated for the rows of the batch")


def used_but_for_expand(graph, node):
    """Whether anything but the shape of an Expand depends on `node`."""
    shapes = {"Gather", "Unsqueeze", "Concat", "Equal", "Where", "Mul", "ConstantOfShape", "Slice", "Cast", "Reshape", "Squeeze"}
    readers = graph.consumers(node.output[0])
    return any(r.op_type != "Expand" and (r.op_type not in shapes or used_but_for_expand(graph, r)) for r in readers)


def to_float(graph, timestep):
    """Makes an integer timestep float32. All that may happen to it before a Cast to float32 is a further axis."""
    found, readers = [], graph.consumers(timestep.name)
    while readers:
        node = readers.pop()
        if node.op_type in ("Unsqueeze", "Reshape", "Identity"):
            readers += graph.consumers(node.output[0])
        else:
            found.append(node.op_type == "Cast" and [a.i for a in node.attribute if a.name == "to"] == [TensorProto.FLOAT])
    if not found or not all(found):
        raise CannotWiden("the timestep is not cast to float32 before it is used; leave out --float32")
    timestep.type.tensor_type.elem_type = TensorProto.FLOAT


def external_files(model):
    """Names of the files beside the graph that hold its weights."""
    tensors = list(model.graph.initializer) + [
        a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    external = [t for t in tensors if t.data_location == TensorProto.EXTERNAL]
    return sorted({e.value for t in external for e in t.external_data if e.key == "location"})


def bring_weights(model, source, target):
    """Copies the files with weights beside the new graph (links to one file are refused by onnx as an attack)."""
    for name in external_files(model):
        if not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def example(path, batch):
    """Inputs for the graph at `path` but the timestep: random, of `batch` rows and 16 wherever else a size is open."""
    graph, rng = onnx.load(path, load_external_data=False).graph, np.random.default_rng(0)
    made = {}
    for value in (v for v in graph.input if v.name not in NAMES):
        tensor = value.type.tensor_type
        shape = [d.dim_value or 16 for d in tensor.shape.dim]
        made[value.name] = rng.standard_normal([batch, *shape[1:]]).astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return made


def compare(old, new):
    """Fails unless the graph `new` gives the bits of `old` for equal timesteps, and of one-by-one runs for different ones
    within what a batch may change."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Above this level, knowing the batch axis makes ONNX Runtime choose other kernels, which round otherwise.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    before, after = (onnxruntime.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in (old, new))
    dtypes = [{i.name: i.type for i in s.get_inputs() if i.name in NAMES} for s in (before, after)]
    (name, old_type), = dtypes[0].items()
    numpy_type = lambda kind: {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16}.get(kind, np.float32)
    rank = len([i for i in before.get_inputs() if i.name == name][0].shape)
    fixed = [i for i in before.get_inputs() if i.name == name][0].shape == [1]
    inputs, times = example(new, 3), [981, 500, 21]
    new_feed = lambda values, rows: {**{k: v[rows] for k, v in inputs.items()}, name: np.array(values, numpy_type(dtypes[1][name]))}
    def old_feed(time, rows):
        value = np.array(time if rank == 0 else [time] * (1 if fixed else len(rows)), numpy_type(old_type))
        return {**{k: v[rows] for k, v in inputs.items()}, name: value}
    everything = [0, 1, 2]
    for time in times:
        if not np.array_equal(before.run(None, old_feed(time, everything))[0], after.run(None, new_feed([time] * 3, everything))[0]):
            raise CannotWiden(f"equal timesteps of {time} give other bits than before")
    mixed = after.run(None, new_feed(times, everything))[0].astype(np.float32)
    singles = np.concatenate([before.run(None, old_feed(time, [row]))[0] for row, time in enumerate(times)]).astype(np.float32)
    error = np.abs(mixed - singles).max() / np.abs(singles).max()
    apart = np.abs(mixed - after.run(None, new_feed([times[0]] * 3, everything))[0]).max() / np.abs(singles).max()
    if not error <= 1e-4:
        raise CannotWiden(f"different timesteps differ from one-by-one runs by {error:.1e} of the range")
    if apart < 10 * max(error, 1e-6):
        raise CannotWiden("the timestep hardly changes the result: the comparison proves nothing")
    return error


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the UNet's .onnx file")
    parser.add_argument("out", type=Path, nargs="?", help=".onnx file to write")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--float32", action="store_true", help="make an integer timestep float32")
    parser.add_argument("--check", action="store_true", help="run both graphs and compare; needs memory for both")
    args = parser.parse_args()
    if bool(args.out) == args.in_place:
        parser.error("give an output file, or --in-place")
    if args.out and args.out.exists():
        parser.error(f"{args.out} exists already")
    return args


def main():
    args = arguments()
    model = onnx.load(args.model, load_external_data=False)
    target = args.model.with_suffix(".widened.onnx") if args.in_place else args.out
    try:
        was = widen(model, args.float32)
        target.parent.mkdir(parents=True, exist_ok=True)
        bring_weights(model, args.model.parent, target.parent)
        target.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(target))
        error = f", different timesteps within {compare(args.model, target):.0e} of one-by-one runs" if args.check else ""
    except CannotWiden as reason:
        if target.exists():
            target.unlink()
        sys.exit(f"error: {args.model}: {reason}")
    if args.in_place:
        args.model.rename(args.model.with_suffix(".onnx.scalar"))
        target.rename(args.model)
    print(f"timestep was {was}, is [batch]{error}")


if __name__ == "__main__":
    main()
