"""The pictures and captions that `tiny-shapes` learns: coloured shapes on coloured backgrounds.

Everything here is drawn, nothing is downloaded, so the data set has no licence of its own. A scene is a small dict of
names; `draw` makes its picture, `caption` one of the ways in which a person would describe it. The judge
(`judge_tiny_shapes.py`) uses the same names and colours.
"""
import math

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (220, 40, 40), "green": (40, 170, 70), "blue": (50, 90, 220), "yellow": (245, 210, 50),
    "purple": (150, 60, 190), "orange": (245, 140, 40), "white": (245, 245, 245), "black": (25, 25, 25),
    "pink": (250, 130, 180), "gray": (128, 128, 128),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
RADIUS = {"small": 11.0, "": 17.0, "large": 25.0}  # pixels, centre to the farthest point of the shape
PAIR_RADIUS = 13.0
RELATIONS = ("left of", "above")
SUPERSAMPLE = 4


def outline(shape):
    """The polygon of `shape` on the unit circle, y down; a ring is a circle whose hole `draw` cuts out."""
    if shape in ("circle", "ring"):
        return [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 96, endpoint=False)]
    if shape == "square":
        s = 0.86
        return [(-s, -s), (s, -s), (s, s), (-s, s)]
    if shape == "triangle":
        return [(0, -0.98), (0.98, 0.78), (-0.98, 0.78)]
    if shape == "diamond":
        return [(0, -1.08), (0.76, 0), (0, 1.08), (-0.76, 0)]
    if shape == "cross":
        w = 0.34
        return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
    if shape == "star":
        points = []
        for i in range(10):
            radius, angle = (1.08 if i % 2 == 0 else 0.46), -math.pi / 2 + i * math.pi / 5
            points.append((radius * math.cos(angle), radius * math.sin(angle) + 0.06))
        return points
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 96, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2.5
        return [(a / 16.0, b / 15.5) for a, b in zip(x, y)]
    raise ValueError(f"unknown shape {shape}")


OUTLINES = {shape: outline(shape) for shape in SHAPES}


def sample_scene(rng, width=64, height=64):
    """A random scene for a `width` x `height` picture: 60 % one object, else two, left/right or above/below."""
    names = list(COLORS)
    background = names[rng.integers(len(names))]
    others = [c for c in names if c != background]
    pick = lambda values: values[rng.integers(len(values))]
    radius_jitter = lambda: rng.uniform(0.95, 1.05)
    if rng.random() < 0.6:
        size = pick(("small", "", "", "large"))
        slack = {"small": 5.0, "": 4.0, "large": 3.0}[size]
        cx = width / 2 + rng.uniform(-1, 1) * (slack + (width - 64) / 4)
        cy = height / 2 + rng.uniform(-1, 1) * (slack + (height - 64) / 4)
        objects = [dict(color=pick(others), shape=pick(SHAPES), size=size, x=cx, y=cy, r=RADIUS[size] * radius_jitter())]
        return dict(background=background, relation=None, objects=objects, width=width, height=height)
    relation = pick(RELATIONS)
    first, second = rng.permutation(len(others))[:2]
    objects = []
    for i, color in enumerate((others[first], others[second])):
        side = -1 if i == 0 else 1
        along, across = rng.uniform(-1.2, 1.2), rng.uniform(-3.0, 3.0)
        if relation == "left of":
            cx, cy = width / 2 + side * width / 4 + along, height / 2 + across
        else:
            cx, cy = width / 2 + across, height / 2 + side * height / 4 + along
        objects.append(dict(color=color, shape=pick(SHAPES), size="", x=cx, y=cy, r=PAIR_RADIUS * radius_jitter()))
    return dict(background=background, relation=relation, objects=objects, width=width, height=height)


def draw(scene):
    """The picture of `scene` as uint8 [height, width, 3], drawn at four times the size and averaged down."""
    s = SUPERSAMPLE
    image = Image.new("RGB", (scene["width"] * s, scene["height"] * s), COLORS[scene["background"]])
    pen = ImageDraw.Draw(image)
    for o in scene["objects"]:
        points = [((o["x"] + px * o["r"]) * s, (o["y"] + py * o["r"]) * s) for px, py in OUTLINES[o["shape"]]]
        pen.polygon(points, fill=COLORS[o["color"]])
        if o["shape"] == "ring":
            hole = 0.56 * o["r"]
            box = [(o["x"] - hole) * s, (o["y"] - hole) * s, (o["x"] + hole) * s, (o["y"] + hole) * s]
            pen.ellipse(box, fill=COLORS[scene["background"]])
    return np.asarray(image.reduce(s))


def article(words, rng, plain):
    """`words` with a/an in front, or (one time in six, unless `plain`) without."""
    if not plain and rng.random() < 1 / 6:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene, rng, plain=False):
    """One description of `scene`; `plain` gives the full form that the judge asks for, else the forms people type."""
    phrases = []
    for o in scene["objects"]:
        phrases.append(article(" ".join(w for w in (o["size"], o["color"], o["shape"]) if w), rng, plain))
    text = phrases[0] if scene["relation"] is None else f"{phrases[0]} {scene['relation']} {phrases[1]}"
    form = 0.0 if plain else rng.random()
    if form < 0.76:
        return f"{text} on {article(scene['background'] + ' background', rng, plain)}"
    if form < 0.84:
        return f"{text} on {scene['background']}"
    return text
