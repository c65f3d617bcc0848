#!/usr/bin/env python3
"""Pictures that diffusers' own pipeline makes of `onnx/tiny-shapes`, in PyTorch: what nightshift's must equal.

    python tests/golden/make_pipeline_goldens.py [--model onnx/tiny-shapes] [--out tests/golden/pipeline]

Nothing but the shipped folder is read: the torch models are rebuilt from the initialisers of its ONNX graphs. Writes
rows.csv (a manifest that nightshift runs as it is), one PNG a row, and versions.json. Each row is one call of
`StableDiffusionPipeline` with `torch.Generator("cpu").manual_seed(seed)`, on one thread.
"""
import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import platform
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "onnx"))

import tiny_models  # noqa: E402 (it lies beside the model, not here)

SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}
# DDIM without fresh noise is Euler's method written in other variables: equal pictures are right.
EQUAL = {"ddim", "euler"}
# The last columns: guidance in this part of the steps only; the inner blocks every so many steps only.
COLUMNS = ("id", "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "scheduler", "guidance_start", "guidance_stop", "cache_interval")
ROWS = (
    ("ddim", "a small red heart on a yellow background", "", 1, 64, 64, 10, 4.0, "ddim"),
    ("ddim-wide", "a green star left of a white ring on a black background", "a gray background", 4294967296, 96, 64, 8, 7.5, "ddim"),
    ("euler", "a blue square above an orange cross on a pink background", "", 7, 64, 64, 9, 4.0, "euler"),
    ("euler-one-step", "a large purple circle on a green background", "", 12, 64, 64, 1, 1.0, "euler"),
    ("euler-a", "a white triangle on a blue background", "", 42, 64, 64, 20, 4.0, "euler_a"),
    ("dpmpp", "a large yellow star on a purple background", "", 123, 64, 64, 10, 4.0, "dpmpp_2m"),
    ("dpmpp-wide", "a pink diamond left of a black heart on a gray background", "a small red circle", 2024, 96, 64, 7, 7.5, "dpmpp_2m"),
    ("karras", "an orange ring on a black background", "", 99, 64, 64, 9, 1.0, "dpmpp_2m_karras"),
    ("guided-first", "a blue heart on an orange background", "a red circle", 5, 64, 64, 10, 7.5, "dpmpp_2m", "", 0.4),
    ("guided-between", "a black star above a red square on a white background", "", 6, 64, 64, 10, 7.5, "ddim", 0.2, 0.75),
    ("cached", "a large green ring on a purple background", "", 8, 64, 64, 12, 4.0, "dpmpp_2m", "", "", 2),
    ("cached-guided", "a pink circle left of a gray square on a black background", "", 9, 96, 64, 10, 7.5, "euler", "", 0.5, 3),
)


def make(pipe, config, row):
    """The picture of one row, by a fresh scheduler of the row's kind."""
    kind, extra = SCHEDULERS[row["scheduler"]]
    pipe.scheduler = kind.from_config(config, **extra)
    guided = guided_between(pipe, row) if row["guidance_stop"] else dict(
        prompt=row["prompt"], negative_prompt=row["negative_prompt"] or None, guidance_scale=row["guidance_scale"])
    with caching(pipe.unet, row["cache_interval"] or 1):
        return pipe(
            **guided, width=row["width"], height=row["height"], num_inference_steps=row["num_inference_steps"],
            generator=torch.Generator("cpu").manual_seed(row["seed"])).images[0]


@contextlib.contextmanager
def caching(unet, interval):
    """DeepCache by its definition, without its gain: all of the UNet is evaluated each time, but in between what came up to
    the outermost skip connection is replaced by what came up there last."""
    outermost, kept, step = unet.up_blocks[-1].resnets[-1], {}, itertools.count()
    skipped = unet.config.block_out_channels[0]

    def replace(_, inputs):
        x, number = inputs[0], next(step)
        deep = x[:, :-skipped]
        if number % interval == 0 or len(kept["deep"]) < len(deep):
            kept["deep"] = deep.clone()
        # Where guidance has ended, the last lane is that of the prompt.
        return (torch.cat([kept["deep"][-len(deep):], x[:, -skipped:]], 1), *inputs[1:])

    hook = outermost.register_forward_pre_hook(replace) if interval > 1 else None
    try:
        yield
    finally:
        if hook:
            hook.remove()


def guided_between(pipe, row):
    """Arguments by which guidance is on in a part of the steps only, as diffusers' documentation does it ("dynamic
    classifier-free guidance"): a callback after each step changes the scale and the embeddings for the next. Which steps
    those are is the rule of its guiders (`_is_cfg_enabled`)."""
    steps = row["num_inference_steps"]
    start, stop = (int(float(row[name] or 0) * steps) for name in ("guidance_start", "guidance_stop"))
    scale = lambda step: row["guidance_scale"] if start <= step < stop else 1.0
    text, negative = pipe.encode_prompt(row["prompt"], "cpu", 1, True, row["negative_prompt"] or None)

    def after(pipe, step, timestep, tensors):
        pipe._guidance_scale = scale(step + 1)
        return dict(prompt_embeds=torch.cat([negative, text]) if scale(step + 1) > 1 else text)

    return dict(
        prompt_embeds=text, negative_prompt_embeds=negative, guidance_scale=scale(0),
        callback_on_step_end=after, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def check_rows_differ(pipe, config, rows):
    """A golden that another scheduler would meet as well proves nothing: each row of several steps must differ from
    what the others make of it by ten times the tolerance of the test, 1/255."""
    for row in (r for r in rows if r["num_inference_steps"] > 1):
        expected = np.asarray(make(pipe, config, row), int)
        for other in (name for name in SCHEDULERS if name != row["scheduler"] and {name, row["scheduler"]} != EQUAL):
            difference = np.abs(np.asarray(make(pipe, config, {**row, "scheduler": other}), int) - expected).max()
            print(f"{row['id']:15} by {other}: {difference} of 255 off")
            if difference < 10:
                sys.exit(f"row {row['id']} cannot tell {row['scheduler']} from {other}")


def versions(model):
    graphs = sorted(model.glob("*/model.onnx"))
    return dict(
        torch=torch.__version__, diffusers=diffusers.__version__, transformers=transformers.__version__,
        numpy=np.__version__, python=platform.python_version(),
        sha256={f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in graphs})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "onnx/tiny-shapes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pipeline")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = tiny_models.load_torch(args.model)
    pipe, config = tiny_models.pipeline(models), models.scheduler.config
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(COLUMNS, (*row, "", "", "")[:len(COLUMNS)])) for row in ROWS]
    with open(args.out / "rows.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        image = make(pipe, config, row)
        image.save(args.out / f"{row['id']}.png")
        print(f"{row['id']:15} {image.size} mean {np.asarray(image).mean():.3f}")
    (args.out / "versions.json").write_text(json.dumps(versions(args.model), indent=2) + "\n")
    check_rows_differ(pipe, config, rows)


if __name__ == "__main__":
    main()
