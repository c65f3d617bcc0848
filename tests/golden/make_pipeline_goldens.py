#!/usr/bin/env python3
"""Pictures that diffusers' own pipeline makes of `onnx/tiny-shapes`, in PyTorch: what nightshift's must equal.

    python tests/golden/make_pipeline_goldens.py [--model onnx/tiny-shapes] [--out tests/golden/pipeline]

Nothing but the shipped folder is read: the torch models are rebuilt from the initialisers of its ONNX graphs. Writes
rows.csv (a manifest that nightshift runs as it is), one PNG a row, and versions.json. Each row is one call of
`StableDiffusionPipeline` with `torch.Generator("cpu").manual_seed(seed)`, on one thread.
"""
import argparse
import csv
import hashlib
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
COLUMNS = ("id", "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "scheduler")
ROWS = (
    ("ddim", "a small red heart on a yellow background", "", 1, 64, 64, 10, 4.0, "ddim"),
    ("ddim-wide", "a green star left of a white ring on a black background", "a gray background", 4294967296, 96, 64, 8, 7.5, "ddim"),
    ("euler", "a blue square above an orange cross on a pink background", "", 7, 64, 64, 9, 4.0, "euler"),
    ("euler-one-step", "a large purple circle on a green background", "", 12, 64, 64, 1, 1.0, "euler"),
    ("euler-a", "a white triangle on a blue background", "", 42, 64, 64, 20, 4.0, "euler_a"),
    ("dpmpp", "a large yellow star on a purple background", "", 123, 64, 64, 10, 4.0, "dpmpp_2m"),
    ("dpmpp-wide", "a pink diamond left of a black heart on a gray background", "a small red circle", 2024, 96, 64, 7, 7.5, "dpmpp_2m"),
    ("karras", "an orange ring on a black background", "", 99, 64, 64, 9, 1.0, "dpmpp_2m_karras"),
)


def make(pipe, config, row):
    """The picture of one row, by a fresh scheduler of the row's kind."""
    kind, extra = SCHEDULERS[row["scheduler"]]
    pipe.scheduler = kind.from_config(config, **extra)
    return pipe(
        row["prompt"], negative_prompt=row["negative_prompt"] or None, width=row["width"], height=row["height"],
        num_inference_steps=row["num_inference_steps"], guidance_scale=row["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(row["seed"])).images[0]


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
    rows = [dict(zip(COLUMNS, row)) for row in ROWS]
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
