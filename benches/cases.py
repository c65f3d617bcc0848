"""The work: what every contestant makes in each case, and how a careful user of a pipeline would batch it."""
import csv
from dataclasses import asdict, dataclass, replace
from itertools import groupby

PROMPTS = (
    "a photo of an astronaut riding a horse on mars", "a watercolor painting of a lighthouse in a storm",
    "a bowl of ripe peaches on a wooden table, soft morning light", "portrait of an old fisherman, highly detailed",
    "a narrow street in Lisbon after the rain", "a red bicycle leaning on a yellow wall",
    "an isometric drawing of a small greenhouse", "macro photo of a dragonfly on a reed")
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "purple"), ("heart", "star", "ring", "cross", "square")


@dataclass(frozen=True)
class Row:
    """One picture."""
    id: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    size: int


@dataclass(frozen=True)
class Case:
    """Rows of one model. `model` is `sd15` or `tiny`."""
    name: str
    what: str
    rows: tuple
    model: str = "sd15"

    def small(self):
        """The same kind of work in seconds, on the model that ships."""
        rows = tuple(replace(row, size=64, steps=min(row.steps, 4)) for row in self.rows[:8])
        return replace(self, rows=rows, model="tiny")

    def unet_rows(self):
        """Entries of the UNet's batch axis over the whole case."""
        return sum(row.steps * (2 if row.guidance > 1 else 1) for row in self.rows)


def rows(count, steps, guidance, size):
    """`count` different pictures that are alike in all else."""
    return tuple(Row(f"p{i:04}", PROMPTS[i % len(PROMPTS)], 1000 + i, steps, guidance, size) for i in range(count))


def doubled(distinct):
    """Rows, then the same again under other names."""
    return (*distinct, *(replace(row, id=f"again{row.id}") for row in distinct))


def mixed():
    """12 pictures of 2 to 8 steps, half of them with guidance, in no order."""
    steps = (4, 8, 2, 6, 3, 5, 7, 2, 8, 4, 6, 3)
    return tuple(replace(row, steps=n, guidance=7.5 if i % 2 else 1.0)
                 for i, (row, n) in enumerate(zip(rows(12, 4, 1.0, 256), steps)))


def captions(count):
    """Captions that the model that ships was trained for."""
    def prompt(i):
        return f"a {COLOURS[i % 5]} {SHAPES[i // 5 % 5]} on a {COLOURS[(i // 25 + i + 1) % 5]} background"
    return tuple(Row(f"p{i:04}", prompt(i), 1000 + i, 10, 4.0, 64) for i in range(count))


CASES = {case.name: case for case in (
    Case("C1", "4 prompts, 256², 4 steps, guidance 7.5", rows(4, 4, 7.5, 256)),
    Case("C1b", "one prompt, 512², 3 steps, guidance 7.5", rows(1, 3, 7.5, 512)),
    Case("C2", "8 jobs, 256², 4 steps, guidance 1; 4 are exact duplicates of others", doubled(rows(4, 4, 1.0, 256))),
    Case("C3", "one UNet evaluation of one row and one VAE decode, 512²", rows(1, 1, 1.0, 512)),
    Case("C4", "12 jobs, 256², 2 to 8 steps, guidance 7.5 and 1 in turns", mixed()),
    Case("C6", "the model that ships: 1,000 rows, 64², 10 steps, guidance 4", captions(1000), "tiny"),
    # What C1 and C1b have besides UNet calls: the difference is the UNet's own time.
    Case("U1", "C1 with one step", rows(4, 1, 7.5, 256)),
    Case("U1b", "C1b with one step", rows(1, 1, 7.5, 512)),
)}


def batches(case_rows, largest):
    """Rows as a pipeline can take them together: equal in steps, guidance and size, at most `largest` at once."""
    kind = lambda row: (row["steps"], row["guidance"], row["size"])
    for _, group in groupby(sorted(case_rows, key=kind), kind):
        group = list(group)
        yield from (group[i:i + largest] for i in range(0, len(group), largest))


def write_manifest(case, path):
    """The case as nightshift reads it."""
    names = {"id": "id", "prompt": "prompt", "seed": "seed", "steps": "num_inference_steps", "guidance": "guidance_scale"}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names.values(), "width", "height", "scheduler"])
        for row in case.rows:
            writer.writerow([*(asdict(row)[name] for name in names), row.size, row.size, "euler"])
