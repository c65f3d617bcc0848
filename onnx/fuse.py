"""Fused operators of ONNX Runtime in an exported graph, by onnxruntime.transformers' own fusions.

For CPUs, only what their kernels have: attention, norms with the sum before them, GELU. For CUDA also group norms with
SiLU, convolutions over channels-last tensors, and packed projections; such a graph runs on no other device.
"""
import contextlib
import logging
import os
from unittest import mock

import numpy as np
import onnx
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from onnx_model import OnnxModel  # by the name under which the fusions themselves import it

KINDS = ("unet", "vae", "clip")  # what onnxruntime.transformers calls them, too
CUDA_ONLY = ("enable_nhwc_conv", "enable_group_norm", "enable_skip_group_norm", "enable_bias_splitgelu", "enable_bias_add",
             "enable_packed_qkv", "enable_packed_kv")
DOMAIN = "com.microsoft"


def optimize(path, part, device, half, big):
    """Rewrites the graph at `path` for `device`, with `half` in float16; returns how many of each fused operator it has."""
    options = FusionOptions(part.kind)
    for name in CUDA_ONLY:
        setattr(options, name, device == "cuda")
    with quiet(), mock.patch.object(OnnxModel, "get_constant_value", constant_value):
        fused = optimizer.optimize_model(str(path), model_type=part.kind, num_heads=0, hidden_size=0, opt_level=0,
                                         optimization_options=options, use_gpu=device == "cuda")
        if half:
            keep = [name for name in part.precise if name in {v.name for v in fused.model.graph.input}]
            fused.convert_float_to_float16(keep_io_types=keep, node_block_list=exact_nodes(fused.model.graph, part.precise))
    for file in path.parent.glob("model.onnx*"):
        file.unlink()
    save(fused.model, path, big)
    counts = {}
    for node in fused.model.graph.node:
        if node.domain == DOMAIN:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


class Constant(np.ndarray):
    """An array that `int` takes although it has an axis: the fusions rely on it, numpy 2.4 does no longer."""

    def __int__(self):
        return int(self.item())


get_constant_value = OnnxModel.get_constant_value


def constant_value(model, name):
    value = get_constant_value(model, name)
    return value.view(Constant) if isinstance(value, np.ndarray) else value


def exact_nodes(graph, inputs):
    """Names of the nodes between `inputs` and the first product with a weight: what turns timesteps and sizes into angles
    needs all of float32, and so has it in torch."""
    names, reached = [], set(inputs)
    for node in graph.node:  # in topological order
        if reached & set(node.input) and node.op_type not in ("MatMul", "Gemm", "Conv"):
            names.append(node.name)
            reached |= set(node.output)
    return names


def save(model, path, big):
    """Writes `model`, with weights of more than `big` bytes beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    extra = dict(save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024) if size > big else {}
    onnx.save(model, path, **extra)


@contextlib.contextmanager
def quiet():
    """Without the log and the progress bar of the fusions."""
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(logging.NOTSET)
