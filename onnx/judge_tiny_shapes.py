#!/usr/bin/env python3
"""Measures how often `tiny-shapes` draws what the prompt says: background, colours, shapes, order of two objects.

    python onnx/judge_tiny_shapes.py --binary target/release/nightshift --model onnx/tiny-shapes --sheet sheet.png
    python onnx/judge_tiny_shapes.py --diffusers --work DIR --count 100      # a checkpoint, while training runs
    python onnx/judge_tiny_shapes.py --self-check                            # judges pictures whose truth is known

The prompts come from the same generator as the training's, with a seed that training did not use. The judge sees only
pixels: it finds the objects as patches of one palette colour, and names a shape by the best fit among all eight, each
fitted in place and size. An object of no clear shape (a fit below MIN_FIT) is counted as wrong.
"""
import argparse
import csv
import json
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

import shapes_data
from shapes_data import COLORS, SHAPES

SEED = 400_400  # far from the seeds of training: 0 for the scenes, 7 for the tokenizer, 1000 + step for the batches
STEPS, GUIDANCE = 20, 4.0
NAMES = list(COLORS)
PALETTE = np.array([COLORS[name] for name in NAMES], float)
MIN_FIT = 0.75  # a drawn picture's true shape fits above 0.96, any other shape below 0.85
MIN_PIXELS = 12  # smaller regions are specks
MIN_CONTRAST = 36  # distance from the background in sRGB; the closest two colours, orange and yellow, are 71 apart
MARKS = ("<!-- accuracy: begin -->", "<!-- accuracy: end -->")


# ---- what is in a picture

def nearest(pixels):
    """The palette index of each pixel, by distance in sRGB."""
    return ((pixels[..., None, :] - PALETTE) ** 2).sum(-1).argmin(-1)


def border_color(picture):
    """The median colour of the picture's border, two pixels wide."""
    edge = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3),
                           picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    return np.median(edge, axis=0)


def find_objects(picture, ground):
    """What stands out from the background colour `ground`, largest first: dicts of color, x, y, coverage.

    A connected region is one object of the colour that most of its inside has, unless it holds a second patch of
    another colour: then two objects touch, and it is split."""
    contrast = np.linalg.norm(picture - ground, axis=-1)
    regions, count = ndimage.label(contrast > MIN_CONTRAST, np.ones((3, 3)))
    objects = []
    for region in (regions == i for i in range(1, count + 1)):
        # The inside: at the edge the colours mix, white and black to gray.
        inside = region & (contrast > 0.6 * np.quantile(contrast[region], 0.9))
        if inside.sum() >= MIN_PIXELS:
            objects += [describe(picture, ground, mask) for mask in by_color(picture, inside)]
    # A faint halo or smear has the background's name, and no object that one could ask for has.
    objects = [o for o in objects if o["color"] != nearest(ground)]
    return sorted(objects, key=lambda o: -o["coverage"].sum())


def by_color(picture, inside):
    """`inside` as one mask, or as two where two of its colours have a patch of their own."""
    labels = np.where(inside, nearest(picture), -1)
    core = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    colors, sizes = np.unique(labels[core & inside], return_counts=True)
    colors = colors[np.argsort(-sizes)][:2][np.sort(sizes)[::-1][:2] >= 0.15 * inside.sum()]
    if len(colors) < 2:
        return [inside]
    first = ((picture - PALETTE[colors[0]]) ** 2).sum(-1) < ((picture - PALETTE[colors[1]]) ** 2).sum(-1)
    return [largest_patch(inside & first), largest_patch(inside & ~first)]


def largest_patch(mask):
    patches, _ = ndimage.label(mask)
    return patches == 1 + np.argmax(np.bincount(patches.ravel())[1:])


def describe(picture, ground, mask):
    """The object of the pixels `mask`: its palette colour, how much of each pixel it covers (0 to 1), its centre."""
    labels = nearest(picture[mask])
    color = int(np.bincount(labels).argmax())
    own = np.median(picture[mask][labels == color], axis=0)
    axis = own - ground
    coverage = steepen((picture - ground) @ axis / (axis @ axis))
    coverage *= ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=2)
    y, x = (float((grid * coverage).sum() / coverage.sum()) for grid in np.indices(coverage.shape))
    return dict(color=color, x=x + 0.5, y=y + 0.5, coverage=coverage)


def steepen(coverage):
    """Coverage with a harder edge at the same place, so that a soft edge costs less than a wrong outline."""
    return (2 * coverage - 0.5).clip(0, 1)


# ---- which shape

def template(shape, x, y, r, width, height):
    """How much of each pixel the shape covers, as `shapes_data` draws it."""
    o = dict(shape=shape, color="white", x=x, y=y, r=r)
    drawn = shapes_data.draw(dict(background="black", objects=[o], width=width, height=height))[..., 0]
    return steepen((drawn.astype(float) - COLORS["black"][0]) / (COLORS["white"][0] - COLORS["black"][0]))


@lru_cache(None)
def moments(shape):
    """Area of the shape at radius 1 and where its centre of mass lies from its drawing centre."""
    t = template(shape, 50, 50, 40, 100, 100)
    y, x = ((grid * t).sum() / t.sum() + 0.5 for grid in np.indices(t.shape))
    return t.sum() / 1600, (x - 50) / 40, (y - 50) / 40


def overlap(a, b):
    """Intersection over union of two coverages."""
    return np.minimum(a, b).sum() / np.maximum(a, b).sum()


def fit(shape, o):
    """The best overlap of `shape` with object `o`, over centre and radius: starts where area and centre of mass agree,
    then climbs with shrinking steps."""
    height, width = o["coverage"].shape
    area, dx, dy = moments(shape)
    r = float(np.sqrt(o["coverage"].sum() / area))
    at = lambda p: overlap(o["coverage"], template(shape, *p, width, height))
    best = (o["x"] - dx * r, o["y"] - dy * r, r)
    score, step = at(best), 1.5
    while step > 0.2:
        moves = [tuple(v + step * (i == k) * sign for k, v in enumerate(best)) for i in range(3) for sign in (-1, 1)]
        top, move = max((at(p), p) for p in moves if p[2] > 2)
        if top > score:
            score, best = top, move
        else:
            step /= 2
    return score


def name_shape(o):
    """The best fitting shape of object `o` and its overlap."""
    score, shape = max((fit(shape, o), shape) for shape in SHAPES)
    return shape, float(score)


# ---- picture against prompt

def judge(picture, scene):
    """What is right in `picture` (uint8 [height, width, 3]) for `scene`, and what was seen.

    Found objects are matched to the asked ones by colour, ties by place; the order of two objects is right if both
    colours are found, the first on its side of the second."""
    picture = picture.astype(float)
    ground = border_color(picture)
    background = NAMES[nearest(ground)]
    wanted, found = scene["objects"], find_objects(picture, ground)
    pairs = match(wanted, found[:len(wanted)], scene["relation"])
    objects = []
    for want, got in zip(wanted, pairs):
        shape, score = name_shape(got) if got else (None, 0.0)
        objects.append(dict(
            color=NAMES[got["color"]] if got else None, shape=shape, fit=round(score, 3),
            color_right=bool(got) and NAMES[got["color"]] == want["color"],
            shape_right=bool(shape == want["shape"] and score >= MIN_FIT), wanted=want["shape"]))
    return dict(
        background=background, background_right=background == scene["background"], objects=objects,
        count_right=len(found) == len(wanted), relation_right=relation_right(wanted, pairs, scene["relation"]))


def match(wanted, found, relation):
    """For each asked object the found one that stands for it, or None."""
    found = found + [None] * (len(wanted) - len(found))
    if len(wanted) == 1:
        return found
    orders = [found, found[::-1]]
    right_colors = lambda order: sum(bool(o) and NAMES[o["color"]] == w["color"] for w, o in zip(wanted, order))
    return max(orders, key=lambda order: (right_colors(order), in_order(order, relation)))


def in_order(pair, relation):
    """Whether the first of two found objects lies left of (above) the second, more so than across."""
    if None in pair:
        return False
    dx, dy = pair[1]["x"] - pair[0]["x"], pair[1]["y"] - pair[0]["y"]
    return bool(dx > abs(dy) if relation == "left of" else dy > abs(dx))


def relation_right(wanted, pair, relation):
    """None where the prompt has no relation."""
    if relation is None:
        return None
    named = all(o and NAMES[o["color"]] == w["color"] for w, o in zip(wanted, pair))
    return bool(named and in_order(pair, relation))


def all_right(result):
    return (result["background_right"] and result["count_right"] and result["relation_right"] is not False
            and all(o["color_right"] and o["shape_right"] for o in result["objects"]))


# ---- the pictures

def draw_prompts(count, seed):
    """`count` scenes and their plain captions."""
    rng = np.random.default_rng(seed)
    scenes = [shapes_data.sample_scene(rng) for _ in range(count)]
    return scenes, [shapes_data.caption(scene, rng, plain=True) for scene in scenes]


def through_binary(args, prompts, folder):
    """The pictures that the nightshift binary makes of `prompts`, one process, in `folder`."""
    manifest = folder / "manifest.csv"
    with open(manifest, "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["prompt", "seed"])
        writer.writerows((prompt, i) for i, prompt in enumerate(prompts))
    command = [args.binary.resolve(), "run", manifest, "--model", args.model, "--out", folder / "out",
               "--scheduler", "dpmpp_2m", "--steps", STEPS, "--guidance-scale", GUIDANCE, "--width", 64, "--height", 64]
    if not args.binary.is_file():
        sys.exit(f"{args.binary} is not there; build it with `make build`")
    done = subprocess.run([str(word) for word in command])
    if done.returncode != 0:
        sys.exit(f"nightshift ended with exit code {done.returncode}")
    files = {path.stem: path for path in (folder / "out/images").rglob("*.png")}
    missing = [i for i in range(len(prompts)) if f"{i:09}" not in files]
    if missing:
        sys.exit(f"nightshift made no picture for {len(missing)} prompts, the first is row {missing[0]}")
    return [np.asarray(Image.open(files[f"{i:09}"]).convert("RGB")) for i in range(len(prompts))]


def through_diffusers(args, prompts):
    """The pictures that diffusers makes of `prompts`, from the checkpoint in --work or the exported folder --model."""
    import torch

    import tiny_models

    if args.work:
        models = tiny_models.with_clip_tokenizer(tiny_models.load_checkpoint(args.work))
        print(f"checkpoint of step {models.step}")
    else:
        models = tiny_models.load_torch(args.model)
    pipe, pictures = tiny_models.pipeline(models), []
    for start in range(0, len(prompts), 20):
        batch = prompts[start:start + 20]
        generators = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(batch))]
        images = pipe(batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, width=64, height=64,
                      generator=generators, output_type="np").images
        pictures += list((images * 255).round().astype(np.uint8))
    return pictures


# ---- what is told

def tally(scenes, results):
    """The table: name, right, total."""
    objects = [o for r in results for o in r["objects"]]
    pairs = [r["relation_right"] for r in results if r["relation_right"] is not None]
    return [
        ("background", sum(r["background_right"] for r in results), len(results)),
        ("object colour", sum(o["color_right"] for o in objects), len(objects)),
        ("object shape", sum(o["shape_right"] for o in objects), len(objects)),
        ("relation of two", sum(pairs), len(pairs)),
        ("number of objects", sum(r["count_right"] for r in results), len(results)),
        ("everything right", sum(map(all_right, results)), len(results)),
    ]


def percent(right, total):
    return f"{100 * right / total:.1f} %" if total else "-"


def confusion(results):
    """Rows: the shape asked for; columns: the shape seen, the last one being none or none clear."""
    columns = [*SHAPES, "unclear"]
    counts = {shape: dict.fromkeys(columns, 0) for shape in SHAPES}
    for o in (o for r in results for o in r["objects"]):
        counts[o["wanted"]][o["shape"] if o["fit"] >= MIN_FIT else "unclear"] += 1
    return counts


def show(table, counts, results):
    for name, right, total in table:
        print(f"{name:18} {right:4} of {total:4}  {percent(right, total):>8}")
    fits = [o["fit"] for r in results for o in r["objects"]]
    print(f"fit of the best shape: median {np.median(fits):.3f}, lowest tenth {np.quantile(fits, 0.1):.3f}\n")
    print("asked \\ seen".ljust(13) + "".join(f"{name:>9}" for name in counts["circle"]))
    for shape, row in counts.items():
        print(f"{shape:13}" + "".join(f"{n or '.':>9}" for n in row.values()))


def contact_sheet(path, pictures, results, columns=10):
    """The first 100 pictures, doubled; those that are not all right have a red frame."""
    cell = 64 * 2 + 8
    rows = -(-len(pictures[:100]) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), (60, 60, 60))
    pen = ImageDraw.Draw(sheet)
    for i, (picture, result) in enumerate(zip(pictures[:100], results)):
        x, y = i % columns * cell, i // columns * cell
        if not all_right(result):
            pen.rectangle([x, y, x + cell - 1, y + cell - 1], fill=(255, 0, 0))
        sheet.paste(Image.fromarray(picture).resize((128, 128), Image.NEAREST), (x + 4, y + 4))
    sheet.save(path)


def fill_card(path, table, counts, args):
    """Replaces what stands between the two marks in the model card."""
    lines = ["", f"{args.count} prompts of seed {args.seed}, {STEPS} steps of DPM++ 2M, guidance {GUIDANCE:g}, 64×64, "
             f"{'diffusers' if args.diffusers else 'the nightshift binary'}.", "",
             "| | right | of | |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {right} | {total} | {percent(right, total)} |" for name, right, total in table]
    lines += ["", "| shape | right | of | |", "|---|--:|--:|--:|"]
    for shape, row in counts.items():
        lines.append(f"| {shape} | {row[shape]} | {sum(row.values())} | {percent(row[shape], sum(row.values()))} |")
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}", encoding="utf-8")


def self_check(args):
    """Judges drawn pictures, clean and spoiled, and pictures with one thing wrong, where the truth is known."""
    rng = np.random.default_rng(args.seed + 1)
    scenes, _ = draw_prompts(args.count, args.seed + 1)
    clean = [shapes_data.draw(scene) for scene in scenes]
    ok = True
    spoils = {"as drawn": lambda p: p, "noise of 8": lambda p: noisy(p, rng, 8), "blurred": blurred,
              "blurred, noise of 8": lambda p: noisy(blurred(p), rng, 8)}
    for name, spoil in spoils.items():
        results = [judge(spoil(picture), scene) for picture, scene in zip(clean, scenes)]
        table = tally(scenes, results)
        ok &= all(right >= 0.99 * total for _, right, total in table)
        print(f"{name}: " + ", ".join(f"{n} {percent(right, total)}" for n, right, total in table))
    caught = {name: spotted(scenes, rng, name) for name in ("background", "color", "shape", "relation")}
    ok &= all(share >= 0.99 for share in caught.values())
    print("wrong pictures caught: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in caught.items()))
    print("self-check " + ("passed" if ok else "FAILED: the judge does not reach 99 %"))
    return 0 if ok else 1


def noisy(picture, rng, sigma):
    return (picture + rng.normal(0, sigma, picture.shape)).clip(0, 255).round().astype(np.uint8)


def blurred(picture):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.6)))


def spotted(scenes, rng, what):
    """The share of pictures with one thing changed in which the judge finds just that wrong."""
    hits, total = 0, 0
    for scene in scenes:
        if what == "relation" and scene["relation"] is None:
            continue
        result = judge(shapes_data.draw(changed(scene, rng, what)), scene)
        first = result["objects"][0]
        hits += {"background": not result["background_right"], "relation": result["relation_right"] is False,
                 "color": not first["color_right"], "shape": not first["shape_right"]}[what]
        total += 1
    return hits / max(1, total)


def changed(scene, rng, what):
    """`scene` with another background, another colour or shape of the first object, or the two objects swapped."""
    scene = {**scene, "objects": [dict(o) for o in scene["objects"]]}
    used = {scene["background"], *(o["color"] for o in scene["objects"])}
    other = lambda names, taken: rng.choice([n for n in names if n not in taken])
    if what == "background":
        scene["background"] = other(NAMES, used)
    elif what == "color":
        scene["objects"][0]["color"] = other(NAMES, used)
    elif what == "shape":
        scene["objects"][0]["shape"] = other(SHAPES, {scene["objects"][0]["shape"]})
    else:
        a, b = scene["objects"]
        a["color"], b["color"], a["shape"], b["shape"] = b["color"], a["color"], b["shape"], a["shape"]
    return scene


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="nightshift's binary")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "tiny-shapes", help="exported folder")
    parser.add_argument("--diffusers", action="store_true", help="make the pictures with diffusers instead")
    parser.add_argument("--work", type=Path, help="with --diffusers: take the checkpoint of this training folder")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=SEED, help="of the prompts")
    parser.add_argument("--out", type=Path, help="keep manifest and pictures in this folder (default: a temporary one)")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first 100 pictures")
    parser.add_argument("--json", type=Path, help="write everything that was seen")
    parser.add_argument("--card", type=Path, help="fill the accuracy table of this model card")
    parser.add_argument("--self-check", action="store_true", help="judge pictures whose truth is known")
    args = parser.parse_args()
    if args.self_check:
        sys.exit(self_check(args))
    if not args.diffusers and not args.binary:
        parser.error("give --binary FILE or --diffusers")
    scenes, prompts = draw_prompts(args.count, args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = through_diffusers(args, prompts) if args.diffusers else through_binary(args, prompts, folder)
    results = [judge(picture, scene) for picture, scene in zip(pictures, scenes)]
    table, counts = tally(scenes, results), confusion(results)
    show(table, counts, results)
    if args.sheet:
        contact_sheet(args.sheet, pictures, results)
    if args.json:
        rows = [dict(prompt=p, **r) for p, r in zip(prompts, results)]
        summary = {name: dict(right=right, total=total) for name, right, total in table}
        args.json.write_text(json.dumps(dict(seed=args.seed, summary=summary, confusion=counts, pictures=rows), indent=1))
    if args.card:
        fill_card(args.card, table, counts, args)


if __name__ == "__main__":
    main()
