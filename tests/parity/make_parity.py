#!/usr/bin/env python3
"""Compares nightshift with diffusers, picture by picture, over families, tasks and schedulers; writes tests/PARITY.md.

    python tests/parity/make_parity.py --work DIR [--binary target/release/nightshift] [--only sd15,flux] [--out tests/PARITY.md]

Makes the models of tiny_families.py, exports them with onnx/export.py (once; DIR keeps them), writes a manifest a family,
lets diffusers' own pipelines make its rows in PyTorch on one thread with `torch.Generator("cpu").manual_seed(seed)`, lets
nightshift run the manifest, and compares the pictures. A row that nightshift does not run says why in the table. Ends with
an error if a picture differs by more than `--allow` of 255 anywhere, or if diffusers' pictures are too much alike to prove
anything.

    python tests/parity/make_parity.py --work DIR --golden tests/golden/families

writes models of a few hundred kilobytes, a manifest and diffusers' pictures for each family, to be kept in git.
"""
import argparse
import csv
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from PIL import Image, ImageDraw

import rows as table
import tiny_families

ROOT = Path(__file__).resolve().parents[2]
LEAST_CONTRAST = 12  # standard deviation of a picture's values
ALIKE = 8  # two pictures that differ by less than this much everywhere prove less than they seem to


def text_model_of_itself():
    """diffusers 0.42.1 reads `text_encoder.text_model` for `clip_skip`; transformers 5 no longer has it in
    CLIPTextModel, whose own attributes it now is."""
    if not hasattr(transformers.CLIPTextModel, "text_model"):
        transformers.CLIPTextModel.text_model = property(lambda self: self)


def write_pictures(folder):
    """The pictures that rows start from: a drawing, a wider one, and masks for both (white is made anew)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in {"square": (64, 64), "wide": (128, 64), "odd": (100, 72)}.items():
        ramp = np.linspace(0, 1, width)[None, :, None] * np.array([90, 40, 160]) + np.linspace(0, 90, height)[:, None, None]
        picture = Image.fromarray(ramp.astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((width // 8, height // 6, width // 2, 5 * height // 6), fill=(220, 60, 40))
        draw.rectangle((5 * width // 8, height // 3, 7 * width // 8, 3 * height // 4), fill=(40, 170, 70))
        picture.save(folder / f"{name}.png")
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).ellipse((width // 4, height // 4, width - 1, height - 1), fill=255)
        mask.save(folder / f"{name}_mask.png")


def digest(*paths):
    """One hash of the contents of files and folders."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(str(file.name).encode() + file.read_bytes())
    return total.hexdigest()


def models(family, work, small):
    """The family's diffusers and ONNX folders; both are kept as long as weights and exporter are the same."""
    torch_folder, onnx_folder, stamp = (work / kind / family for kind in ("diffusers", "onnx", "stamps"))
    shutil.rmtree(torch_folder, ignore_errors=True)
    tiny_families.save(family, torch_folder, small)
    exporter = [ROOT / "onnx" / name for name in ("export.py", "export_parts.py", "torch_to_onnx.py")]
    wanted = digest(torch_folder, *exporter)
    if not (stamp.is_file() and stamp.read_text() == wanted and onnx_folder.is_dir()):
        shutil.rmtree(onnx_folder, ignore_errors=True)
        subprocess.run([sys.executable, ROOT / "onnx/export.py", torch_folder, onnx_folder], check=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)
    return torch_folder, onnx_folder


def pipelines(family, folder):
    """diffusers' pipeline of each of the family's tasks, over the same modules."""
    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    base = diffusers.DiffusionPipeline.from_pretrained(folder, **absent)
    made = {}
    for task, class_name in table.PIPELINES[family].items():
        kind = getattr(diffusers, class_name)
        made[task] = base if type(base) is kind else kind.from_pipe(base)
        made[task].set_progress_bar_config(disable=True)
    return made, base.scheduler.config


def arguments_of(row, task, folder):
    """The call that a row of the manifest means."""
    number = {"num_inference_steps": int, "guidance_scale": float, "guidance_rescale": float, "eta": float, "width": int,
              "height": int, "strength": float, "clip_skip": int, "aesthetic_score": float,
              "negative_aesthetic_score": float, "image_guidance_scale": float}
    call = {key: kind(row[key]) for key, kind in number.items() if row.get(key, "") != ""}
    for key in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3"):
        if row.get(key):
            call[key] = row[key]
    pair = lambda cell: tuple(int(part) for part in cell.split("x"))
    for key in ("original_size", "target_size"):
        if row.get(key):
            call[key] = pair(row[key])[::-1]  # the manifest says width x height, diffusers (height, width)
    if row.get("crops_coords_top_left"):
        call["crops_coords_top_left"] = pair(row["crops_coords_top_left"])
    for key in ("image", "mask_image"):
        if row.get(key):
            call[key] = Image.open(folder / row[key]).convert("RGB" if key == "image" else "L")
    return call


def make(pipes, config, row, task, folder):
    """diffusers' picture of a row."""
    pipe = pipes[task]
    if row["scheduler"]:
        class_name, extra = table.SCHEDULERS[row["scheduler"]]
        if config["_class_name"].startswith("FlowMatch") and not class_name.startswith("FlowMatch"):
            extra = {**extra, **table.FLOW, "flow_shift": config["shift"]}
        pipe.scheduler = getattr(diffusers, class_name).from_config(config, **extra)
    else:
        pipe.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    generator = torch.Generator("cpu").manual_seed(int(row["seed"]))
    return pipe(**arguments_of(row, task, folder), generator=generator).images[0]


def write_manifest(path, rows):
    columns = [c for c in table.COLUMNS if any(row.get(c, "") != "" for row, _ in rows)]
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({c: row.get(c, "") for c in columns} for row, _ in rows)


def references(family, torch_folder, folder, rows):
    """Writes the manifest and diffusers' pictures into `folder`."""
    write_manifest(folder / "rows.csv", rows)
    pipes, config = pipelines(family, torch_folder)
    (folder / "expected").mkdir(exist_ok=True)
    for row, task in rows:
        make(pipes, config, row, task, folder).save(folder / "expected" / f"{row['id']}.png")


def run_nightshift(binary, folder, onnx_folder):
    """Runs the manifest in `folder`; returns the error of each row that has no picture, by id, and one for all others."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run([binary, "run", folder / "rows.csv", "--model", onnx_folder, "--out", out, "--threads", "1"],
                          capture_output=True, text=True)
    errors = {}
    if (out / ".nightshift/failed.csv").is_file():
        with open(out / ".nightshift/failed.csv", newline="", encoding="utf-8") as f:
            errors = {row["id"]: f"{row['error_code']}: {row['error_message']}" for row in csv.DictReader(f)}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else f"exit code {done.returncode}")
    return errors, first


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), int)


def compare(folder, rows, errors, other_error):
    """For each row: task, scheduler, largest difference and share of values that differ, or why there is no picture."""
    found = []
    for row, task in rows:
        wanted = pixels(folder / "expected" / f"{row['id']}.png")
        cell = dict(id=row["id"], task=task, scheduler=row["scheduler"] or "the model's own", note=row.get("note", ""))
        pictures = list((folder / "out").rglob(f"{row['id']}.png"))
        if not pictures:
            cell["error"] = errors.get(row["id"], other_error)
        else:
            got = pixels(pictures[0])
            if got.shape != wanted.shape:
                cell["error"] = f"the picture is {got.shape[1]}x{got.shape[0]}, diffusers' is {wanted.shape[1]}x{wanted.shape[0]}"
                cell["wrong"] = True
            else:
                difference = np.abs(got - wanted)
                cell.update(largest=int(difference.max()), share=float((difference > 0).mean()))
        found.append(cell)
    return found


def weak(folder, rows):
    """What of diffusers' pictures proves little: gray ones, and pairs that are alike although their rows are not."""
    pictures = {row["id"]: pixels(folder / "expected" / f"{row['id']}.png") for row, _ in rows}
    gray = [name for name, picture in pictures.items() if picture.std() < LEAST_CONTRAST]
    alike, names = [], list(pictures)
    for i, a in enumerate(names):
        for b in names[:i]:
            if pictures[a].shape == pictures[b].shape and np.abs(pictures[a] - pictures[b]).max() < ALIKE:
                alike.append((b, a))
    return gray, alike


def shown_cell(cell):
    if "largest" in cell:
        return f"{cell['largest']} | {100 * cell['share']:.3f} %"
    return f"{'wrong' if cell.get('wrong') else 'not run'}: {cell['error'][:160]} | "


def report(results, alike, versions):
    """tests/PARITY.md."""
    cells = [cell for found in results.values() for cell in found]
    ran = [cell for cell in cells if "largest" in cell]
    exact = sum(cell["largest"] == 0 for cell in ran)
    lines = [
        "# Parity with diffusers", "",
        "Written by `tests/parity/make_parity.py`; do not edit. Each row is one picture that diffusers' own pipeline made in",
        "PyTorch and nightshift made of the same model's ONNX export, from the same manifest row. The models are tiny and have",
        "random weights (`tests/parity/tiny_families.py`), in the classes and shapes of the real ones.", "",
        "```", "python tests/parity/make_parity.py --work DIR    # after `cargo build --release`; about ten minutes", "```", "",
        ", ".join(f"{name} {version}" for name, version in versions.items()), "",
        f"**{len(ran)} of {len(cells)} rows ran; {exact} are equal in every byte; the largest difference of any pixel value is "
        f"{max((cell['largest'] for cell in ran), default=0)} of 255.**", "",
        "Largest: the largest difference of any of the picture's values, of 255. Share: how many of the values differ at all.",
        "Where two values lie on both sides of a rounding boundary they differ by 1 although the networks' outputs agree",
        "to six digits.", ""]
    for family, found in results.items():
        lines += [f"## {family}", "", "| row | task | scheduler | largest | share |", "|---|---|---|---|---|"]
        lines += [f"| {c['id']} | {c['task']}{', ' + c['note'] if c['note'] else ''} | {c['scheduler']} | {shown_cell(c)} |"
                  for c in found]
        if alike.get(family):
            lines += ["", "diffusers itself makes these nearly alike: " + ", ".join(f"{a} and {b}" for a, b in alike[family]) + "."]
        lines.append("")
    return "\n".join(lines)


def versions(binary):
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split()
    return {"nightshift": shown[-1], "diffusers": diffusers.__version__, "transformers": transformers.__version__,
            "torch": torch.__version__, "onnxruntime (Python, for the export)": onnxruntime.__version__,
            "Python": platform.python_version()}


def make_table(args):
    """The whole comparison; returns whether it holds."""
    results, all_alike, good = {}, {}, True
    for family in args.only:
        folder = args.work / "rows" / family
        write_pictures(folder / "pictures")
        torch_folder, onnx_folder = models(family, args.work, small=False)
        rows = table.rows(family)
        references(family, torch_folder, folder, rows)
        gray, all_alike[family] = weak(folder, rows)
        results[family] = compare(folder, rows, *run_nightshift(args.binary, folder, onnx_folder))
        ran = [c for c in results[family] if "largest" in c]
        bad = [c["id"] for c in results[family] if c.get("wrong") or c.get("largest", 0) > args.allow]
        print(f"{family:13} {len(ran)} of {len(rows)} ran, largest difference {max((c['largest'] for c in ran), default='-')}, "
              f"too different: {', '.join(bad) or 'none'}, without contrast: {', '.join(gray) or 'none'}", flush=True)
        for cell in (c for c in results[family] if "error" in c):
            print(f"    {cell['id']}: {cell['error']}")
        good = good and not bad and not gray
    (args.work / "parity.json").write_text(json.dumps(results, indent=1))
    args.out.write_text(report(results, all_alike, versions(args.binary)), encoding="utf-8")
    return good


def shorten(path):
    """Gives the inner values of a graph short names and its nodes none: of a small graph, names are the larger part."""
    model = onnx.load(path)
    kept = {v.name for v in [*model.graph.input, *model.graph.output]} | {
        i.name for i in model.graph.initializer if "layer_norm" in i.name}
    inner = [i.name for i in model.graph.initializer] + [o for node in model.graph.node for o in node.output]
    short = {name: f"{i:x}" for i, name in enumerate(dict.fromkeys(name for name in inner if name and name not in kept))}
    for initializer in model.graph.initializer:
        initializer.name = short.get(initializer.name, initializer.name)
    for node in model.graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def make_goldens(args):
    """Small models with a manifest and diffusers' pictures, for tests that have no Python."""
    for family in (family for family in args.only if family in table.GOLDEN):
        folder = args.golden / family
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        torch_folder, onnx_folder = models(family, args.work / "small", small=True)
        rows = table.golden_rows(family)
        used = {row[key] for row, _ in rows for key in ("image", "mask_image") if row.get(key)}
        write_pictures(args.work / "pictures")
        for name in used:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(args.work / name, folder / name)
        references(family, torch_folder, folder, rows)
        gray, alike = weak(folder, rows)
        if gray or alike:
            sys.exit(f"{family}: pictures without contrast {gray}, or alike {alike}")
        shutil.copytree(onnx_folder, folder / "model", ignore=shutil.ignore_patterns("nightshift_export.json"))
        for graph in (folder / "model").glob("*/model.onnx"):
            shorten(graph)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{family:13} {size / 1e3:.0f} KB, {len(rows)} rows", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and pictures, kept between runs")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/nightshift")
    parser.add_argument("--only", default=",".join(table.PIPELINES), help="families, with commas between")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/PARITY.md")
    parser.add_argument("--allow", type=int, default=1, help="difference of 255 that any value may have (1)")
    parser.add_argument("--golden", type=Path, help="write goldens here instead of the table")
    args = parser.parse_args()
    args.only, args.work = args.only.split(","), args.work.resolve()
    torch.set_num_threads(1)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    text_model_of_itself()
    if args.golden:
        make_goldens(args)
    elif not make_table(args):
        sys.exit("nightshift and diffusers differ, or the pictures prove too little; see above")


if __name__ == "__main__":
    main()
