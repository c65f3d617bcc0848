"""A manifest of texts that loaders trip over, and what should become of it."""
import csv
from dataclasses import dataclass

# Words that a loader takes for splits, for nothing or for numbers; text that breaks lines, quotes and encodings.
TEXTS = [
    "a test tube", "test", "val", "train", "validation", "NA", "null", "None", "007", "1e5", "true", "", "#N/A",
    "雪の上の赤い狐 🦊", "👩‍👩‍👧‍👦 a family, e\u0301 and é", "two\nlines", "two\r\nlines of DOS", "a \"quoted\", comma; and \\ backslash",
    "'single' `ticks` <b>&amp;</b> {braces} [0]", "tab\there", "a \u2028 line separator \x85 next line \u00ad",
    "naïve café ÿ", "a: b\nSteps: 5, Sampler: none, CFG scale: 1, Seed: 9", "مرحبا بالعالم", " ".join(["long"] * 2000),
    "2024-01-01", "[]", "{\"a\": 1}", "http://a.b/c.png", "a.b.c/d", "../../x.png", "%s %d {}", "=1+1", "-", "0",
]
PROMPTS = [text for text in TEXTS if text.strip()]
# Ids are names of files, so that words of splits in them matter most.
IDS = [
    "test", "val", "train", "NA", "null", "None", "007", "7", "test_1", "a-train-2", "3valid", "eval", "dev-dev", "__x__",
    "_y", "-z", "1e5", "true", "nan_", "validation",
]
EXTRA = ["label", "score", "late", "NA", "class", "1"]
# What becomes of their names: `label` would be taken for a class by loaders.
EXTRA_NAMES = {"label": "src_label"}
HEADER = [
    "id", "prompt", "negative_prompt", "seed", "num_inference_steps", "width", "height", "num_images_per_prompt", *EXTRA,
]
SHARD = 50

# Name → type of the column, in order, in Arrow's words.
COLUMNS = {
    "file_name": "string", "text": "string", "negative_prompt": "string", "key": "string", "id": "string", "row_index": "int64",
    "seed": "int64", "width": "int32", "height": "int32", "num_inference_steps": "int32", "guidance_scale": "double",
    "guidance_rescale": "double", "eta": "double", "scheduler": "string", "settings": "string", "noise": "string",
    "model": "string", "model_hash": "string", "row_hash": "string", "status": "string", "bytes": "int64", "blake3": "string",
    **{EXTRA_NAMES.get(name, name): "string" for name in EXTRA},
}


def sample_name(key):
    """The name of an image's files in a tar; `datasets` would pass over a name that begins with `__`."""
    return f"~{key}" if key.startswith("__") else key


@dataclass
class Image:
    """An image that should be there, and its cells."""

    key: str
    cells: dict
    row: int

    def values(self):
        """What every loader should give for it, by column."""
        cells = self.cells
        return {
            "key": self.key, "id": cells["id"], "row_index": self.row, "text": cells["prompt"],
            "negative_prompt": cells["negative_prompt"], "width": int(cells["width"]), "height": int(cells["height"]),
            "num_inference_steps": int(cells["num_inference_steps"]), "guidance_scale": 3.0, "scheduler": "euler", "model": "null",
            # What numbers of 64 bits hold no more wraps.
            **({"seed": (int(cells["seed"]) + 2**63) % 2**64 - 2**63} if cells["seed"] else {}),
            **{EXTRA_NAMES.get(name, name): cells[name] for name in EXTRA},
        }


class Jobs:
    """`rows` rows of about `steps` steps, some of which fail before or in the networks, and the images that the others give."""

    def __init__(self, rows, steps):
        self.rows = [self._cells(number, steps) for number in range(rows)]
        self.images = [image for number, cells in enumerate(self.rows) for image in self._images(number, cells)]
        self.by_key = {image.key: image for image in self.images}
        self.failing_rows = rows - len({image.row for image in self.images})

    def write(self, path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    @staticmethod
    def _cells(number, steps):
        text = lambda step: TEXTS[(number * step) % len(TEXTS)]
        cells = {
            "id": IDS[number] if number < len(IDS) else f"row{number}" if number % 2 else "",
            "prompt": PROMPTS[number % len(PROMPTS)],
            "negative_prompt": "" if number % 3 else text(7).strip(),
            "seed": str(2**64 - 1) if number == 3 else str(number) if number % 2 else "",
            "num_inference_steps": str(steps + number % 3),
            "width": "96" if number % 5 == 1 else "64",
            "height": "72" if number % 7 == 1 else "64",
            "num_images_per_prompt": "2" if number % 29 == 3 else "1",
            "label": text(3),
            "score": f"{number:03}" if number < 3 * SHARD else text(11),
            "late": "" if number < 2 * SHARD else text(5),
            "NA": "NA",
            "class": "null" if number % 2 else "1",
            "1": f" {number} ",
        }
        if number % 37 == 35:
            cells["prompt"] = "a nan cat"  # the null model's UNet gives no number
        if number % 41 == 40:
            cells["width"] = "65"  # no multiple of 8
        return cells

    @staticmethod
    def _images(number, cells):
        if cells["prompt"] == "a nan cat" or cells["width"] == "65":
            return []
        key = cells["id"] or f"{number:09}"
        if cells["num_images_per_prompt"] == "1":
            return [Image(key, cells, number)]
        seeds = [str((int(cells["seed"]) + n) % 2**64) if cells["seed"] else "" for n in range(2)]
        return [Image(f"{key}_{n}", {**cells, "seed": seeds[n]}, number) for n in range(2)]
