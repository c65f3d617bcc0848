"""From a torch module to an ONNX graph: what the exporters here share.

A module is traced without its weights, so that the graph stays small however large the model is; the weights join
afterwards under torch's names and are read one by one when the graph is written.
"""
import contextlib
import io
import json
import warnings
from pathlib import Path
from unittest import mock

import onnx
import onnx_ir
import onnxruntime
import torch
from onnx_ir.passes import common
from onnx_ir.tensor_adapters import TorchTensor
from onnxscript import optimizer

OPSET = 17
PREFIX = "model."  # every wrapper holds the module that it wraps as `model`
IMAGE = {0: "batch", 2: "height", 3: "width"}
TEXT = {0: "batch", 1: "sequence"}
BATCH = {0: "batch"}
LATENT = {0: "batch", 2: "latent_height", 3: "latent_width"}
PIXELS = {0: "batch", 2: "image_height", 3: "image_width"}


def rms_norm(self, x):
    """torch.nn.RMSNorm in operators that the tracing exporter has: in float32 inside, as torch's own."""
    wide, axes = x.float(), tuple(range(-len(self.normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
    y = (wide / (wide.pow(2).mean(axes, keepdim=True) + eps).sqrt()).to(x.dtype)
    return y if self.weight is None else y * self.weight


sdpa = torch.nn.functional.scaled_dot_product_attention


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """scaled_dot_product_attention whose mask is of float16 where the queries are: the exporter makes boolean and causal
    masks float32, and with them all that follows."""
    if query.dtype == torch.float32:
        return sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, *(torch.tensor(v, dtype=query.dtype) for v in (0.0, float("-inf"))))
    return sdpa(query, key, value, attn_mask, dropout_p, scale=scale)


class Wrapper(torch.nn.Module):
    """A module with the inputs and outputs of optimum's graphs."""

    # What is replaced while it is traced, as the arguments of `mock.patch.object`: code that the exporter cannot follow,
    # by code that computes the same. The graph is compared with the module as it was.
    patches = ((torch.nn.RMSNorm, "forward", rms_norm),
               (torch.nn.functional, "scaled_dot_product_attention", attention))

    def __init__(self, model):
        super().__init__()
        self.model = model


class TextEncoder(Wrapper):
    def forward(self, input_ids):
        output = self.model(input_ids)
        return output.last_hidden_state, output.pooler_output


class Unet(Wrapper):
    def forward(self, sample, timestep, encoder_hidden_states):
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeEncoder(Wrapper):
    def forward(self, sample):
        return self.model.encode(sample).latent_dist.parameters


class VaeDecoder(Wrapper):
    def forward(self, latent_sample):
        return self.model.decode(latent_sample, return_dict=False)[0]


def to_ir(module, inputs, input_axes, output_axes, keep_layout=False):
    """The graph of the wrapper `module`, traced with `inputs` (tensors by name), simplified, as onnx_ir's model. Its
    initialisers bear torch's names and read torch's tensors. With `keep_layout` they also keep torch's layout; otherwise
    a matrix that is used transposed is stored so, as `<name>.transposed`, which spares the reader the work (and lets the
    fusions see group norms), and a vector with further axes as `<name>.unsqueezed.<axes>`."""
    proto = trace(module, inputs, input_axes, output_axes)
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    join_parameters(model, module.model.state_dict())
    simplify(model, set(module.model.state_dict()))
    if not keep_layout:
        arrange_ahead(model)
    return model


def trace(module, inputs, input_axes, output_axes):
    """The raw graph of `module`, its parameters being further inputs."""
    buffer = io.BytesIO()
    # The tracing exporter: its graphs are half the size of the newer exporter's, which spells out its shape arithmetic
    # and builds constants as large as the weights.
    with contextlib.ExitStack() as stack:
        for context in (warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad()):
            stack.enter_context(context)
        # The exporter merges parameters of equal values; each is to keep its own name.
        merge = (torch._C, "_jit_pass_onnx_deduplicate_initializers", lambda _graph, parameters, _training: parameters)
        for patch in (*module.patches, merge):
            stack.enter_context(mock.patch.object(*patch))
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(inputs.values()), buffer, input_names=list(input_axes), output_names=list(output_axes),
            dynamic_axes={**input_axes, **output_axes}, opset_version=OPSET, dynamo=False, do_constant_folding=False,
            export_params=False)
    return onnx.load_from_string(buffer.getvalue())


def join_parameters(model, state_dict):
    """Makes initialisers of the inputs that are parameters, without the wrapper's prefix."""
    for value in [v for v in model.graph.inputs if v.name.startswith(PREFIX)]:
        model.graph.inputs.remove(value)
        value.name = value.name.removeprefix(PREFIX)
        value.const_value = TorchTensor(state_dict[value.name].detach().contiguous(), name=value.name)
        model.graph.register_initializer(value)


def simplify(model, parameters):
    """Shape inference and folding of constants, but of no operation on a parameter: those keep their name and layout."""
    keep = lambda node: False if any(v is not None and v.name in parameters for v in node.inputs) else None
    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=False, should_fold=keep)
        for tidy in (common.IdentityEliminationPass(), common.CommonSubexpressionEliminationPass()):
            tidy(model)
        optimizer.remove_unused_nodes(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ClearMetadataAndDocStringPass()(model)


def arrange_ahead(model):
    """Replaces each Transpose and Unsqueeze of an initialiser by an initialiser that is already so arranged."""
    graph, made = model.graph, {}
    for node in [n for n in graph if n.op_type in ("Transpose", "Unsqueeze") and n.inputs[0].is_initializer()]:
        source = node.inputs[0]
        if not isinstance(source.const_value, TorchTensor):
            continue
        key = source.name, node.op_type, *arrangement(node)
        if key not in made:
            made[key] = arranged(graph, source.const_value, node.op_type, arrangement(node))
        node.outputs[0].replace_all_uses_with(made[key])
        inputs = list(node.inputs)
        graph.remove(node, safe=True)
        for value in inputs:
            if value.is_initializer() and not value.uses():
                graph.initializers.pop(value.name, None)


def arrangement(node):
    """The axes of a Transpose of a matrix or of an Unsqueeze."""
    if node.op_type == "Unsqueeze":
        return tuple(node.inputs[1].const_value.numpy().tolist())
    return tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else (1, 0)


def arranged(graph, tensor, op_type, axes):
    """A new initialiser: `tensor` with its axes permuted, or with further axes; made when it is written."""
    if op_type == "Transpose":
        name, shape = f"{tensor.name}.transposed", tensor.raw.permute(axes).shape
        make = lambda: TorchTensor(tensor.raw.permute(axes).contiguous(), name=name)
    else:
        name, shape = ".".join([tensor.name, "unsqueezed", *map(str, axes)]), list(tensor.shape)
        for axis in sorted(axes):
            shape.insert(axis, 1)
        make = lambda: TorchTensor(tensor.raw.reshape(shape), name=name)
    lazy = onnx_ir.LazyTensor(make, dtype=tensor.dtype, shape=onnx_ir.Shape(shape), name=name)
    value = onnx_ir.Value(name=name, shape=lazy.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=lazy)
    graph.register_initializer(value)
    return value


def to_proto(model):
    """`model` with its weights inside, checked."""
    proto = onnx_ir.to_proto(model)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    return proto


def write(model, path, external_above=1_000_000_000):
    """Writes `model` at `path`, the same bytes every time; weights of more than `external_above` bytes go beside it, to
    `<path>_data`, one tensor at a time."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    if size <= external_above:
        path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
        return
    onnx_ir.save(model, path, external_data=f"{path.name}_data", size_threshold_bytes=1024)
    proto = onnx.load(path, load_external_data=False)
    del proto.graph.value_info[:]
    path.write_bytes(proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)


def to_onnx(module, inputs, input_axes, output_axes):
    """The graph of `module` as a ModelProto whose initialisers have torch's names and layout."""
    return to_proto(to_ir(module, inputs, input_axes, output_axes, keep_layout=True))


def session(path, threads=1, thrifty=False):
    """The graph at `path` on the CPU; `thrifty` keeps no second, rearranged copy of the weights."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if thrifty:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write_clip_tokenizer(tokenizer, out):
    """All the files by which a reader may look for a CLIP tokenizer, each enough by itself."""
    tokenizer.save_pretrained(out)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = dict(sorted(bpe["vocab"].items(), key=lambda item: item[1]))
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in bpe["merges"])
    (out / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    form = dict(lstrip=False, normalized=False, rstrip=False, single_word=False)
    special = {name: {"content": token, **form} for name, token in special.items()}
    write_json(out / "special_tokens_map.json", {**special, "pad_token": tokenizer.pad_token})


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
