"""The Python of docs/integrations.md, as it stands there."""
import os
import re
import subprocess
import sys
from pathlib import Path

import expect
from nightshift import MODEL, ROOT

ROWS = """id,prompt,seed,num_inference_steps,label
h1,a small red heart,1,2,heart
s1,"a green star, left of a ring",2,3,star
s2,a blue square,,2,square
"""
# What each snippet has to say, in the order of the page.
SAID = [
    ["3 images to make, 0 there already", "h1: images/00000/h1.png", "3 made, 0 failed, 0 left"],
    ["s1 a green star, left of a ring 2 (64, 64)", "3 of 3"],
    ["s1 a green star, left of a ring 2 (64, 64)"],
    ["euler", "a small red heart (64, 64)"],
]


def check(nightshift, work):
    text = (ROOT / "docs/integrations.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    expect.equal("snippets", len(snippets), len(SAID))
    work.mkdir()
    (work / "cats.csv").write_text(ROWS)
    (work / "model").symlink_to(MODEL)
    (work / ".ort").symlink_to(ROOT / ".ort")
    for layout, out in [("webdataset", "tars"), ("parquet", "tables")]:
        nightshift.run(work / "cats.csv", work / "out" / out, layout, code=0)
    path = f"{Path(nightshift.binary).parent}:{os.environ['PATH']}"
    for number, (snippet, said) in enumerate(zip(snippets, SAID)):
        ended = subprocess.run([sys.executable, "-c", snippet], cwd=work, env={**os.environ, "PATH": path},
                               capture_output=True, text=True)
        expect.equal(f"snippet {number}: exit code ({ended.stderr[-1000:]})", ended.returncode, 0)
        for line in said:
            expect.true(f"snippet {number} does not say `{line}` but:\n{ended.stdout}", line in ended.stdout)
    yield f"docs/integrations.md: {len(snippets)} snippets do what the page says"
