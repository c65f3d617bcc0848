#!/usr/bin/env python3
"""The Python part of benches/gpu.sh: makes the models, runs the contestants one after the other, prints the table.

nightshift and torch get the same prompts, seeds, schedule (Euler, linspace), steps and guidance. torch: diffusers' pipeline in float16 with
SDPA, channels-last, eager and with `torch.compile` of the UNet and the VAE's decoder (`max-autotune-no-cudagraphs`; its compilation is
not counted). Both write PNG files. torch's first batch of each shape is not counted, nightshift's first calls are. The share of the matrix rate is the
arithmetic of the work (benches' own count, below) over time, against a bf16 product of 8192³ measured in the same run.
"""
import argparse
import csv
import datetime
import gc
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches/RESULTS.md"
SECTION = "## GPU"

# Multiply-adds x 2 of one UNet lane and of one decoded picture, in 1e12 (attention's products included).
MODELS = {
    "sd15": dict(size=512, steps=20, unet=0.803, vae=2.51, guidance=7.5),
    "sdxl": dict(size=1024, steps=20, unet=6.761, vae=10.47, guidance=5.0),
}
TINY = {"tiny": dict(size=64, steps=4, unet=None, vae=None, guidance=4.0)}
LANES = (2, 4, 8, 16, 32, 64)
PROMPTS = ("a small red heart above a yellow ring on a blue background", "a green cross left of a white star on a gray background",
           "a big black ring on a red background", "a yellow triangle below a blue square on a white background")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    models, lanes = (TINY, (2, 4)) if args.tiny else (MODELS, LANES)
    plan = [(name, count) for name in models for count in lanes]
    if args.dry_run:
        for name, count in plan:
            case = models[name]
            print(f"{name}: {case['size']}², {case['steps']} steps, {count} lanes: nightshift (plain, CUDA graphs), torch eager, torch.compile")
        return
    if args.tiny:
        args.work = args.work / "tiny"
    shutil.rmtree(args.work / "runs", ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args, models)
    rows = [bench.case(name, count) for name, count in plan]
    report = bench.report(rows)
    print(report)
    if not args.tiny:
        append(report)


class Bench:
    """What all cases share."""

    def __init__(self, args, models):
        import torch
        self.torch, self.args, self.models, self.is_tiny = torch, args, models, args.tiny
        self.device = "cpu" if args.tiny else "cuda"
        self.half = torch.float32 if args.tiny else torch.float16
        self.pipes, self.worst = {}, {}
        for name in models:
            self.make(name)
        self.rate = self.matrix_rate()

    def folder(self, name, kind):
        return ROOT / "onnx/tiny-shapes" if self.is_tiny and kind == "onnx" else self.args.work / name / kind

    def make(self, name):
        """The model as diffusers' folder and as ONNX, once."""
        done = self.args.work / name / "made"
        if done.is_file():
            return
        shutil.rmtree(self.args.work / name, ignore_errors=True)
        self.pipeline_of(name).save_pretrained(self.folder(name, "diffusers"))
        gc.collect()
        if not self.is_tiny:
            export = [sys.executable, ROOT / "onnx/export.py", self.folder(name, "diffusers")]
            subprocess.run([*export, self.folder(name, "onnx"), "--fp16", "--optimize", "cuda", "--threads", "16"], check=True)
            subprocess.run([*export, self.folder(name, "onnx32"), "--threads", "16"], check=True)
        done.touch()

    def pipeline_of(self, name):
        """The model that ships, or one of true shapes with random weights of a fixed seed."""
        import diffusers
        sys.path[:0] = [str(ROOT / "onnx"), str(ROOT / "tests/parity")]
        if name == "tiny":
            import tiny_models
            return tiny_models.pipeline(tiny_models.load_torch(ROOT / "onnx/tiny-shapes"))
        import full_size
        import tiny_families
        import transformers
        parts = {part: tiny_families.fill(new(), seed) for seed, (part, new) in enumerate(full_size.PARTS[name].items(), 1)}
        scheduler = diffusers.EulerDiscreteScheduler(**tiny_families.SCALED, timestep_spacing="linspace")
        tokenizer = lambda: transformers.CLIPTokenizer.from_pretrained(ROOT / "onnx/tiny-shapes/tokenizer", model_max_length=77)
        if name == "sdxl":
            return diffusers.StableDiffusionXLPipeline(**parts, tokenizer=tokenizer(), tokenizer_2=tokenizer(), scheduler=scheduler,
                                                       add_watermarker=False)
        return diffusers.StableDiffusionPipeline(**parts, tokenizer=tokenizer(), scheduler=scheduler, safety_checker=None,
                                                 feature_extractor=None, requires_safety_checker=False)

    def matrix_rate(self):
        """Measured products a second, in 1e12: bf16 on a GPU, float32 on a processor."""
        torch, n = self.torch, 512 if self.is_tiny else 8192
        dtype = torch.float32 if self.is_tiny else torch.bfloat16
        a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
        best = float("inf")
        for _ in range(20):
            self.wait()
            started = time.perf_counter()
            a @ b
            self.wait()
            best = min(best, time.perf_counter() - started)
        return 2 * n**3 / best / 1e12

    def wait(self):
        if not self.is_tiny:
            self.torch.cuda.synchronize()

    def rows_of(self, name, images):
        case = self.models[name]
        return [dict(id=f"i{i:04}", prompt=PROMPTS[i % len(PROMPTS)], seed=i, num_inference_steps=case["steps"],
                     guidance_scale=case["guidance"], width=case["size"], height=case["size"], scheduler="Euler") for i in range(images)]

    def case(self, name, lanes):
        """One row of the table."""
        images = max(lanes, 8) if self.is_tiny else max(3 * lanes // 2, 16)
        ours, stages = self.nightshift(name, lanes, images)
        row = dict(model=name, lanes=lanes, ours=ours, outside=stages, share=self.share(name, ours), graphs=self.recorded(name, lanes, images))
        for kind in ("eager", "compile"):
            try:
                row[kind] = self.diffusers(name, lanes // 2, images, kind == "compile")
            except (self.torch.OutOfMemoryError, RuntimeError) as error:
                print(f"{name}, {lanes} lanes, torch {kind}: {str(error).splitlines()[0]}", file=sys.stderr)
                row[kind] = None
        if name not in self.worst:
            self.worst[name] = self.parity(name, lanes)
        return row

    def run(self, name, out, lanes, images, model="onnx", device=None, extra=()):
        manifest = self.args.work / "runs" / f"{out}.csv"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        rows = self.rows_of(name, images)
        with open(manifest, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        command = [self.args.binary, "run", manifest, "--model", self.folder(name, model), "--out", self.args.work / "runs" / out,
                   "--device", device or ("cpu" if self.is_tiny else "cuda:0"), "--lanes", str(lanes), "--json", *extra]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    def recorded(self, name, lanes, images):
        """Images a second with `--cuda-graphs`, if there are such; the first two calls of each shape, before it is recorded, count."""
        if self.is_tiny:
            return None
        try:
            return self.nightshift(name, lanes, images, "graphs", ("--cuda-graphs",))[0]
        except subprocess.CalledProcessError as error:
            print(f"{name}, {lanes} lanes, CUDA graphs: exit code {error.returncode}", file=sys.stderr)
            return None

    def nightshift(self, name, lanes, images, kind="plain", extra=()):
        """Images a second, and the share of the time outside of the networks if the summary tells it. Loading is not in the rate;
        the first calls are, which choose kernels."""
        summary = self.run(name, f"{name}-{lanes}-{kind}", lanes, images, extra=extra)
        stages = summary["stages"]
        outside = stages.get("outside")
        return summary["made"] / stages["generate"], outside / stages["generate"] if outside is not None else None

    def diffusers(self, name, batch, images, compiled):
        """Images a second of diffusers in batches of `batch`, PNG files written."""
        pipe = self.pipe(name, compiled)
        out = self.args.work / "runs" / f"{name}-{batch}-torch{'-compiled' if compiled else ''}"
        out.mkdir(parents=True)
        rows = self.rows_of(name, images // batch * batch)
        batches = [rows[i:i + batch] for i in range(0, len(rows), batch)]
        self.one(pipe, batches[0])
        self.wait()
        started = time.perf_counter()
        for group in batches:
            for row, picture in zip(group, self.one(pipe, group)):
                picture.save(out / f"{row['id']}.png")
        return len(rows) / (time.perf_counter() - started)

    def one(self, pipe, group):
        first, torch = group[0], self.torch
        generators = [torch.Generator("cpu").manual_seed(row["seed"]) for row in group]
        return pipe(prompt=[row["prompt"] for row in group], generator=generators, num_inference_steps=first["num_inference_steps"],
                    guidance_scale=first["guidance_scale"], width=first["width"], height=first["height"]).images

    def pipe(self, name, compiled):
        import diffusers
        if (name, compiled) not in self.pipes:
            self.pipes.clear()
            gc.collect()
            folder = self.folder(name, "diffusers")
            pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=self.half, safety_checker=None).to(self.device)
            pipe.set_progress_bar_config(disable=True)
            pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
            for part in (pipe.unet, pipe.vae):
                part.to(memory_format=self.torch.channels_last)
            if compiled:
                mode = "default" if self.is_tiny else "max-autotune-no-cudagraphs"
                pipe.unet = self.torch.compile(pipe.unet, mode=mode, dynamic=False)
                pipe.vae.decode = self.torch.compile(pipe.vae.decode, mode=mode, dynamic=False)
            self.pipes[name, compiled] = pipe
        return self.pipes[name, compiled]

    def share(self, name, rate):
        """The share of the measured matrix rate that the arithmetic of the pictures makes."""
        case = self.models[name]
        if case["unet"] is None:
            return None
        return rate * (2 * case["steps"] * case["unet"] + case["vae"]) / self.rate

    def parity(self, name, lanes):
        """The largest difference of a channel (of 255), and the share that differs by more than 2, of two pictures in float16 and in
        float32 (tiny: with other lanes, where none may differ)."""
        import numpy as np
        from PIL import Image
        half = self.run(name, f"{name}-half", lanes, 2)
        full = self.run(name, f"{name}-full", 2 if not self.is_tiny else 3, 2, "onnx" if self.is_tiny else "onnx32")
        assert half["made"] == full["made"] == 2
        read = lambda kind, i: np.asarray(Image.open(next((self.args.work / "runs" / f"{name}-{kind}").rglob(f"i{i:04}.png"))), int)
        differences = [abs(read("half", i) - read("full", i)) for i in range(2)]
        return max(d.max() for d in differences), float(np.mean([(d > 2).mean() for d in differences]))

    def report(self, rows):
        torch = self.torch
        card = platform.processor() or platform.machine() if self.is_tiny else torch.cuda.get_device_name()
        unit = "float32" if self.is_tiny else "bf16"
        hour = lambda rate: "-" if rate is None else f"{3600 * rate:,.0f}"
        percent = lambda share: "-" if share is None else f"{100 * share:.1f} %"
        lines = [f"### {card}, {datetime.date.today()}", "",
                 f"torch {torch.__version__}, matrices {self.rate:.1f} TFLOP/s ({unit}, measured), images an hour with guidance:", "",
                 "| model | lanes | nightshift | with CUDA graphs | torch eager | torch.compile | of the matrix rate | outside of the networks |",
                 "|---|---|---|---|---|---|---|---|"]
        for row in rows:
            case = self.models[row["model"]]
            lines.append(f"| {row['model']} {case['size']}², {case['steps']} steps | {row['lanes']} | {hour(row['ours'])} | {hour(row['graphs'])} | {hour(row['eager'])} | "
                         f"{hour(row['compile'])} | {percent(row['share'])} | {percent(row['outside'])} |")
        what = "lanes" if self.is_tiny else "float16 against float32"
        for name, (largest, share) in self.worst.items():
            lines += ["", f"{name}, {what}: channels differ by {largest} of 255 at most, {100 * share:.2f} % by more than 2."]
        return "\n".join(lines) + "\n"


def append(report):
    """Puts the report at the end of the section on GPUs, which is the last one."""
    text = RESULTS.read_text() if RESULTS.is_file() else "# Results\n"
    if SECTION not in text:
        text = text.rstrip() + f"\n\n{SECTION}\n"
    RESULTS.write_text(text.rstrip() + "\n\n" + report)


if __name__ == "__main__":
    main()
