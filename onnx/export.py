#!/usr/bin/env python3
"""Exports a diffusers model to ONNX, in optimum's layout, for nightshift.

    python onnx/export.py MODEL OUT                            float32, for any device
    python onnx/export.py MODEL OUT --fp16                     float16, for GPUs
    python onnx/export.py MODEL OUT --optimize cpu             attention and norms as the fused operators of CPU kernels
    python onnx/export.py MODEL OUT --fp16 --optimize cuda     the fused operators of CUDA kernels

MODEL is a folder that diffusers' `save_pretrained` wrote or, where there is a network, the name of one on the hub.
Stable Diffusion 1 and 2, XL and its refiner, Turbo and LCM, inpainting UNets, InstructPix2Pix, Stable Diffusion 3, Flux.
OUT must not exist or be empty. Every part is loaded, exported, freed, and then run by ONNX Runtime on the CPU and compared
with torch, in several batches and sizes; a difference above the bar is an error. OUT/nightshift_export.json tells what was
measured. All axes (batch, height, width, length) are dynamic and the denoiser's timestep is `[batch]`.
"""
import argparse
import gc
import json
import platform
import resource
import shutil
import sys
import time
from pathlib import Path

import diffusers
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
import transformers

import export_parts
import fuse
from export_parts import Unsupported
from torch_to_onnx import OPSET, session, to_ir, write, write_clip_tokenizer, write_json

# Largest difference from torch in float32, relative to the largest value of torch's output.
BARS = {"float32": 1e-4, "float16": 2e-2}
# Above this, a product of two such values and a weight may leave float16 (65504) although these inputs did not.
LARGEST_HALF = 30_000.0
BIG = 1_000_000_000  # bytes


class Failed(Exception):
    """An export that must not be used; the text says why."""


def model_folder(name):
    """The diffusers folder that `name` means; downloads it if it is not a folder."""
    folder = Path(name)
    if not folder.exists() and name.count("/") == 1:
        folder = Path(diffusers.DiffusionPipeline.download(name))
    if not (folder / "model_index.json").is_file():
        raise Unsupported(f"{name}: no diffusers model (there is no model_index.json)")
    return folder


def half_inputs(part, inputs):
    """`inputs` as a float16 export takes them."""
    half = lambda name, value: value.half() if value.is_floating_point() and name not in part.precise else value
    return {name: half(name, value) for name, value in inputs.items()}


def examples(part):
    """Inputs for each case, in float32."""
    return [part.example(case, torch.Generator().manual_seed(seed)) for seed, case in enumerate(part.cases)]


def run_torch(module, feeds):
    """torch's outputs for each of `feeds`, as lists of float32 arrays."""
    outputs = []
    for inputs in feeds:
        with torch.no_grad():
            output = module(**inputs)
        outputs.append([o.float().numpy() for o in (output if isinstance(output, tuple) else (output,))])
    return outputs


def worst(got, expected):
    """The largest relative difference of any output in any case; infinite where an output is not finite."""
    def one(a, b):
        a = np.asarray(a, np.float32)
        if a.shape != b.shape:
            raise Failed(f"an output has the shape {a.shape}, torch's has {b.shape}")
        return float(np.abs(a - b).max() / np.abs(b).max()) if np.isfinite(a).all() else float("inf")
    return max(one(a, b) for outputs, wanted in zip(got, expected) for a, b in zip(outputs, wanted, strict=True))


class LargestActivation:
    """The largest absolute value that any module of `module` puts out while this is active."""

    def __init__(self, module):
        self.module, self.value = module, 0.0

    def see(self, _module, _inputs, output):
        if torch.is_tensor(output) and output.is_floating_point() and output.numel():
            self.value = max(self.value, output.abs().max().item())

    def __enter__(self):
        self.handles = [m.register_forward_hook(self.see) for m in self.module.modules()]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def references(part, dtype):
    """The module in `dtype` and torch's outputs in float32 for each case. For float16 the weights are first rounded, and
    the report tells how torch's own float16 does and how large its values grow."""
    feeds, report = examples(part), {}
    module = part.load(dtype)
    if dtype == torch.float32:
        return module, run_torch(module, feeds), report
    module.float()
    rounded = [{n: v.float() for n, v in half_inputs(part, f).items() if v.is_floating_point()} | {
        n: v for n, v in f.items() if not v.is_floating_point()} for f in feeds]
    with LargestActivation(module) as largest:
        expected = run_torch(module, rounded)
    module.half()
    report["largest_activation"] = largest.value
    report["torch_float16_error"] = worst(run_torch(module, [half_inputs(part, f) for f in feeds]), expected)
    return module, expected, report


def fuses(part, args):
    """Whether there are fused operators for this part."""
    return bool(args.optimize) and part.kind in fuse.KINDS


def load_for_export(part, args):
    """The module as it will be exported, its references and what is to be reported: float16 where it is asked for and
    right. An autoencoder that float16 is too small for, as that of SDXL, stays float32."""
    # Fused operators are made in float32 and converted afterwards.
    if not args.fp16 or fuses(part, args):
        return *references(part, torch.float32), "float32"
    if part.kind == "vae" and part.upcast:
        return *references(part, torch.float32), "float32"
    module, expected, report = references(part, torch.float16)
    right = report["torch_float16_error"] <= BARS["float16"] and report["largest_activation"] <= LARGEST_HALF
    if right:
        return module, expected, report, "float16"
    if part.kind != "vae":
        raise Failed(f"{part.name}: float16 is too small for this model (error {report['torch_float16_error']:.1e}, largest "
                     f"activation {report['largest_activation']:.0f}); export it without --fp16")
    del module
    module, expected, _ = references(part, torch.float32)
    return module, expected, {**report, "float16_refused": True}, "float32"


def export_part(part, out, args):
    """Writes the graph of `part`, checks it, and returns what to report about it."""
    began = time.time()
    folder = out / part.name
    folder.mkdir(parents=True)
    module, expected, report, dtype = load_for_export(part, args)
    feeds = [half_inputs(part, f) for f in examples(part)] if dtype == "float16" else examples(part)
    model = to_ir(module, feeds[0], part.inputs, part.outputs)
    write(model, folder / "model.onnx", BIG)
    del model, module
    gc.collect()
    report["error"] = check(part, folder / "model.onnx", feeds, expected, dtype)
    if fuses(part, args):
        dtype = fuse_part(part, folder / "model.onnx", feeds, expected, report, args)
    shutil.copy(args.folder / part.source / "config.json", folder / "config.json")
    files = [f for f in folder.iterdir() if f.name.startswith("model.onnx")]
    report = dict(dtype=dtype, megabytes=round(sum(f.stat().st_size for f in files) / 1e6, 1), **report,
                  seconds=round(time.time() - began, 1), **signature(folder / "model.onnx"))
    print(f"{part.name:15} {dtype} {report['megabytes']:9.1f} MB, {len(expected)} cases, error {report['error']:.1e} of torch's "
          f"range, {report['seconds']:.0f} s", flush=True)
    return report


def check(part, path, feeds, expected, dtype):
    """Runs the graph at `path` and compares it with torch; returns the error, or fails if it is above the bar."""
    size = sum(f.stat().st_size for f in path.parent.iterdir())
    graph = session(path, threads=torch.get_num_threads(), thrifty=size > BIG)
    got = [graph.run(list(part.outputs), {name: value.numpy() for name, value in inputs.items()}) for inputs in feeds]
    error = worst(got, expected)
    if not error <= BARS[dtype]:
        raise Failed(f"{part.name}: the graph differs from torch by {error:.1e} of its range; {BARS[dtype]:.0e} is allowed")
    return error


def fuse_part(part, path, feeds, expected, report, args):
    """Puts fused operators into the graph at `path`; checks it again if a CPU can run it. Returns the dtype."""
    half = args.fp16 and not (part.kind == "vae" and half_is_too_small(part))
    report["fused"] = fuse.optimize(path, part, args.optimize, half, BIG)
    if args.optimize == "cpu":
        report["fused_error"] = check(part, path, feeds, expected, "float32")
    else:
        report["fused_error"] = "not measured: this form runs on CUDA only"
    return "float16" if half else "float32"


def half_is_too_small(part):
    """Whether an autoencoder must stay float32: diffusers says so, or torch's own float16 is wrong or near its limit."""
    if part.upcast:
        return True
    _, _, report = references(part, torch.float16)
    return report["torch_float16_error"] > BARS["float16"] or report["largest_activation"] > LARGEST_HALF


def signature(path):
    """Inputs and outputs of the graph at `path`, for the report."""
    graph = onnx.load(path, load_external_data=False).graph
    def shown(value):
        tensor = value.type.tensor_type
        dims = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}{dims}".replace("'", "")
    several = lambda values: {v.name: shown(v) for v in values if not v.name.startswith("hidden_states.")}
    return dict(inputs=several(graph.input), outputs=several(graph.output))


def write_tokenizers(folder, out):
    """Every tokenizer, always with a `tokenizer.json`."""
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if not isinstance(index.get(name), list) or index[name][1] is None:
            continue
        (out / name).mkdir()
        tokenizer = getattr(transformers, index[name][1]).from_pretrained(folder / name)
        if "CLIP" in index[name][1]:
            write_clip_tokenizer(tokenizer, out / name)
        else:
            tokenizer.save_pretrained(out / name)
            write_json(out / name / "special_tokens_map.json", {k: str(v) for k, v in tokenizer.special_tokens_map.items()})
        if not (out / name / "tokenizer.json").is_file():
            raise Failed(f"{name}: transformers wrote no tokenizer.json")


def write_configs(folder, out):
    """What pipelines read besides graphs and tokenizers."""
    index = json.loads((folder / "model_index.json").read_text())
    left_out = ("safety_checker", "feature_extractor", "image_encoder")
    write_json(out / "model_index.json", {k: [None, None] if k in left_out else v for k, v in index.items()})
    (out / "scheduler").mkdir()
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    # diffusers writes minus infinity, this field's default, as a bare word that is not JSON.
    if scheduler.get("lambda_min_clipped") == float("-inf"):
        del scheduler["lambda_min_clipped"]
    write_json(out / "scheduler/scheduler_config.json", scheduler)


def versions():
    return dict(
        python=platform.python_version(), torch=torch.__version__, diffusers=diffusers.__version__,
        transformers=transformers.__version__, onnx=onnx.__version__, onnx_ir=onnx_ir.__version__,
        onnxruntime=onnxruntime.__version__, numpy=np.__version__)


def export(args):
    """The whole export."""
    args.folder = model_folder(args.model)
    parts = export_parts.parts(args.folder)
    args.out.mkdir(parents=True, exist_ok=True)
    write_configs(args.folder, args.out)
    write_tokenizers(args.folder, args.out)
    report = {part.name: export_part(part, args.out, args) for part in parts}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    class_name = json.loads((args.folder / "model_index.json").read_text()).get("_class_name")
    write_json(args.out / "nightshift_export.json", dict(
        model=args.folder.resolve().name, class_name=class_name, opset=OPSET, fp16=args.fp16, optimize=args.optimize, versions=versions(),
        bars=BARS, parts=report))
    print(f"{args.out}: all parts agree with torch; at most {peak:.1f} GB of memory were used")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="diffusers folder, or a name on the hub")
    parser.add_argument("out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument("--fp16", action="store_true", help="weights and activations in float16; timesteps, sizes and "
                        "guidance stay float32, and so does an autoencoder that float16 is too small for")
    parser.add_argument("--optimize", choices=("cpu", "cuda"), help="fused operators for this device; the graphs then run on no other")
    parser.add_argument("--threads", type=int, default=2, help="of torch and ONNX Runtime (2)")
    args = parser.parse_args()
    if args.fp16 and args.optimize == "cpu":
        parser.error("ONNX Runtime's CPU has no float16 kernels: leave out --fp16, or optimize for cuda")
    if args.optimize == "cuda" and not args.fp16:
        parser.error("--optimize cuda is for float16: add --fp16")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        parser.error(f"{args.out} exists already")
    return args


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    try:
        export(args)
    except (Unsupported, Failed) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
