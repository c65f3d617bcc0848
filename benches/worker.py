"""What the contestants in Python have in common: a job in, pictures on disk and times out.

    python benches/run_NAME.py JOB.json

The job has `model` (folder or file), `rows`, `batch`, `threads`, `out` and `options`. Loading, with everything that a
program does before it can take work, ends with one small picture; then the rows are made and written as PNG.
"""
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from cases import batches

WARM_UP = {"id": "warm-up", "prompt": "warm-up", "seed": 0, "steps": 1, "guidance": 1.0, "size": 64}


def main(load, packages):
    """`load(job)` returns a function from rows that can be made together to their pictures."""
    job = json.loads(Path(sys.argv[1]).read_text())
    out = Path(job["out"])
    out.mkdir(parents=True)
    make = load(job)
    make([WARM_UP])
    loaded = time.time()
    for batch in batches(job["rows"], job["batch"]):
        for row, picture in zip(batch, make(batch), strict=True):
            picture.save(out / f"{row['id']}.png")
    done = time.time()
    print(json.dumps({
        "load": loaded - float(os.environ["BENCH_STARTED"]), "steady": done - loaded,
        "versions": {name: version(name) for name in packages}}))
