#!/usr/bin/env python3
"""The models of the benchmark, each once for all contestants.

    python benches/make_sd15.py target/bench

DIR/sd15: Stable Diffusion 1.5 in its true shapes with random weights, the same every time, as `diffusers/`, as `onnx/`
(onnx/export.py, float32, nothing fused), and as `sd15.safetensors` in the names of the original checkpoints. Weights are
drawn so that activations keep a size of about one. CLIP's own vocabulary (DIR/vocabulary, `make` fetches it), so all
contestants see the same ids.
DIR/tiny: the model that ships, as diffusers' folder; its ONNX form is onnx/tiny-shapes.
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/parity"), str(ROOT / "onnx")]

import clip_vocabulary  # noqa: E402
import full_size  # noqa: E402
import ldm_names  # noqa: E402
import tiny_families  # noqa: E402
import tiny_models  # noqa: E402


def scheduler():
    """Euler over the steps that all contestants can be told to take."""
    return diffusers.EulerDiscreteScheduler(**tiny_families.SCALED, timestep_spacing="linspace")


def sd15(vocabulary):
    """diffusers' pipeline with random weights."""
    parts = full_size.PARTS["sd15"]
    drawn = {name: tiny_families.fill(parts[name](), seed) for seed, name in enumerate(parts, 1)}
    # Pictures that are neither gray nor saturated.
    tiny_families.scale(drawn["text_encoder"], position_embedding__weight=0.5)
    tiny_families.scale(drawn["unet"], attn2__to_out__0__weight=2.0, conv_out__weight=0.8)
    tiny_families.scale(drawn["vae"], decoder__conv_out__weight=0.3)
    return diffusers.StableDiffusionPipeline(
        **drawn, tokenizer=clip_vocabulary.tokenizer(vocabulary), scheduler=scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)


def make_sd15(folder):
    pipe = sd15(folder.parent / "vocabulary")
    pipe.save_pretrained(folder / "diffusers")
    save_file(ldm_names.checkpoint(pipe.text_encoder, pipe.unet, pipe.vae), folder / "sd15.safetensors")
    del pipe
    subprocess.run([sys.executable, ROOT / "onnx/export.py", folder / "diffusers", folder / "onnx"], check=True)


def make_tiny(folder):
    tiny_models.pipeline(tiny_models.load_torch(ROOT / "onnx/tiny-shapes")).save_pretrained(folder / "diffusers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    for name, make in {"tiny": make_tiny, "sd15": make_sd15}.items():
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / "made").touch()
        print(f"{folder}: made", flush=True)


if __name__ == "__main__":
    main()
