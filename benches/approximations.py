#!/usr/bin/env python3
"""What settings that change pictures gain, and what they cost, on `onnx/tiny-shapes`: prints a table.

    python benches/approximations.py --binary target/release/nightshift [--count 400] [--rounds 3]

Each setting makes the same prompts from the same seeds. Told are: images an hour as a ratio to the first setting, median of
rounds in which all take their turns (networks' loading left out); PSNR against the first setting's pictures; how many
pictures show all that the prompt asks for, by the judge of `onnx/`; the mean clip_score of `onnx/tiny-clip`. Fewer steps stand
among them, since they are what one has without any such setting. Needs benches/requirements.txt.
"""
import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "onnx"))
import judge_tiny_shapes as judge

SETTINGS = {
    "20 steps, guided throughout": ["--steps", 20],
    "guided up to 0.75": ["--steps", 20, "--guidance-stop", 0.75],
    "guided up to 0.5": ["--steps", 20, "--guidance-stop", 0.5],
    "guided up to 0.25": ["--steps", 20, "--guidance-stop", 0.25],
    "guided from 0.1 to 0.6": ["--steps", 20, "--guidance-start", 0.1, "--guidance-stop", 0.6],
    "inner blocks every 2nd time": ["--steps", 20, "--cache-interval", 2],
    "inner blocks every 3rd time": ["--steps", 20, "--cache-interval", 3],
    "every 2nd time, guided up to 0.5": ["--steps", 20, "--cache-interval", 2, "--guidance-stop", 0.5],
    "15 steps": ["--steps", 15],
    "10 steps": ["--steps", 10],
    "10 steps, guided up to 0.5": ["--steps", 10, "--guidance-stop", 0.5],
}
FLAGS = ["--model", ROOT / "onnx/tiny-shapes", "--scheduler", "dpmpp_2m", "--guidance-scale", 4, "--width", 64, "--height", 64, "--json"]


def run(args, manifest, out, flags):
    command = [args.binary.resolve(), "run", manifest, "--out", out, *FLAGS, *flags]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{command} ended with exit code {done.returncode}")
    return json.loads(done.stdout)


def pictures(out, count):
    return [np.asarray(Image.open(out / f"images/{i // 1000:05}/{i:09}.png").convert("RGB")) for i in range(count)]


def psnr(ours, reference):
    """Over all pictures together."""
    error = np.mean((np.asarray(ours, float) - np.asarray(reference, float)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/nightshift")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    scenes, prompts = judge.draw_prompts(args.count, judge.SEED)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        manifest = folder / "manifest.csv"
        with open(manifest, "w", newline="") as f:
            csv.writer(f).writerows([("prompt", "seed"), *((prompt, i) for i, prompt in enumerate(prompts))])
        seconds = {name: [] for name in SETTINGS}
        for number in range(args.rounds):
            for name, flags in list(SETTINGS.items())[::-1 if number % 2 else 1]:
                summary = run(args, manifest, folder / f"{number} {name}", flags)
                seconds[name].append(summary["stages"]["generate"])
        first, reference = next(iter(SETTINGS)), None
        print("| setting | images per hour | PSNR | everything right | clip_score |\n|---|--:|--:|--:|--:|")
        for name, flags in SETTINGS.items():
            ours = pictures(folder / f"0 {name}", args.count)
            reference = reference or ours
            right = sum(judge.all_right(judge.judge(picture, scene)) for picture, scene in zip(ours, scenes))
            scores = run(args, manifest, folder / f"scored {name}", [*flags, "--scorer", ROOT / "onnx/tiny-clip"])["scores"]
            ratios = [a / b for a, b in zip(seconds[first], seconds[name])]
            print(f"| {name} | {statistics.median(ratios):.2f} | {psnr(ours, reference):.1f} dB | "
                  f"{100 * right / args.count:.1f} % | {scores['mean']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
