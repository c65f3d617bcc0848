#!/usr/bin/env python3
"""Checks onnx/widen_timestep.py on UNets exported in the ways that exist.

    python tests/parity/check_widen_timestep.py

The tiny UNets of Stable Diffusion 1 and XL with a scalar timestep (optimum since 1.24), a static `[1]`, and an int64 vector
of `steps` (optimum before), by torch's tracing exporter and, where that can, its newer one, with weights inside and beside.
Each is widened by the script's command line with `--check`, which compares bits; what cannot be widened must be refused.
"""
import io
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import onnx
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "onnx"))

import tiny_families  # noqa: E402
from export_parts import UnetXl  # noqa: E402
from torch_to_onnx import IMAGE, OPSET, TEXT, Unet  # noqa: E402

TIMESTEPS = {
    "scalar": (torch.tensor(500.0), None), "static": (torch.tensor([500.0]), None),
    "steps": (torch.tensor([500, 500]), {0: "steps"}),
}


def inputs_of(xl, timestep):
    sizes = tiny_families.Sizes(small=True)
    width = sizes.clip + sizes.clip_2 if xl else sizes.clip
    inputs = {"sample": torch.randn(2, 4, 16, 16), "timestep": timestep, "encoder_hidden_states": torch.randn(2, 16, width)}
    if xl:
        inputs.update(text_embeds=torch.randn(2, sizes.projection_2), time_ids=torch.full((2, 6), 64.0))
    return inputs


def axes_of(xl, timestep_axes):
    axes = {"sample": IMAGE, "timestep": timestep_axes or {}, "encoder_hidden_states": TEXT}
    return {**axes, **(dict(text_embeds={0: "batch"}, time_ids={0: "batch"}) if xl else {})}


def traced(module, inputs, axes, path, external):
    """As optimum exports it."""
    buffer = io.BytesIO()
    torch.onnx.export(
        module, tuple(inputs.values()), buffer, input_names=list(inputs), output_names=["out_sample"], opset_version=OPSET,
        dynamic_axes={**{k: v for k, v in axes.items() if v}, "out_sample": IMAGE}, dynamo=False)
    model = onnx.load_from_string(buffer.getvalue())
    extra = dict(save_as_external_data=True, location="model.onnx_data", size_threshold=1024) if external else {}
    onnx.save(model, path, **extra)


def exported(module, inputs, axes, path, external):
    """By torch's newer exporter."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {name: {axis: dynamic for axis in sorted(axes[name])} or None for name in inputs} | {"sample": {0: dynamic}}
    program = torch.onnx.export(
        module, tuple(inputs.values()), input_names=list(inputs), output_names=["out_sample"], dynamo=True, verbose=False,
        dynamic_shapes=tuple(shapes.values()))
    program.save(str(path), external_data=external)


def widen(path, out, *options):
    return subprocess.run([sys.executable, ROOT / "onnx/widen_timestep.py", path, out, *options], capture_output=True, text=True)


def check(name, export, module, xl, kind, external, folder):
    """One graph: exported, widened, compared."""
    timestep, timestep_axes = TIMESTEPS[kind]
    old, new = folder / name / "old/model.onnx", folder / name / "new/model.onnx"
    old.parent.mkdir(parents=True)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(module, inputs_of(xl, timestep), axes_of(xl, timestep_axes), old, external)
    options = ["--float32"] if kind == "steps" else []
    done = widen(old, new, "--check", *options)
    graph = onnx.load(new, load_external_data=False).graph if new.exists() else None
    shape = graph and [v.type.tensor_type for v in graph.input if v.name == "timestep"][0]
    good = done.returncode == 0 and shape.elem_type == onnx.TensorProto.FLOAT and shape.shape.dim[0].dim_param != ""
    print(f"{name:28} {'good' if good else 'BAD'}: {(done.stdout + done.stderr).strip()[-300:]}", flush=True)
    return good


def check_refusal(folder):
    """A graph that uses a scalar timestep at once must be refused, and one that is widened already changes nothing."""
    make = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Add", ["sample", "timestep"], ["out_sample"])
    graph = onnx.helper.make_graph([node], "g", [make("sample", 1, ["batch", 4]), make("timestep", 1, [])],
                                   [make("out_sample", 1, ["batch", 4])])
    path = folder / "bad.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    done = widen(path, folder / "bad_out.onnx")
    good = done.returncode == 1 and "before it is repeated" in done.stderr and not (folder / "bad_out.onnx").exists()
    print(f"{'refusal':28} {'good' if good else 'BAD'}: {done.stderr.strip()}")
    return good


def main():
    unet = Unet(tiny_families.make("sd15", small=True).unet)
    xl = UnetXl(tiny_families.make("sdxl", small=True).unet)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [check(f"traced-{kind}", traced, unet, False, kind, False, folder) for kind in TIMESTEPS]
        good.append(check("traced-scalar-external", traced, unet, False, "scalar", True, folder))
        good.append(check("traced-scalar-xl", traced, xl, True, "scalar", False, folder))
        good += [check(f"exported-{kind}", exported, unet, False, kind, False, folder) for kind in TIMESTEPS]
        good.append(check("exported-scalar-xl-external", exported, xl, True, "scalar", True, folder))
        good.append(check_refusal(folder))
    if not all(good):
        sys.exit("some graphs were not widened rightly")


if __name__ == "__main__":
    main()
