"""Opens the pages of `nightshift report` and `nightshift trace` in headless Chromium, clicks through them, and takes screenshots.

    make test-report                             # needs Debian's chromium; left out where it cannot be had
    python3 tests/report/check_report.py --binary target/release/nightshift [--keep FOLDER]

Exits with 1 at the first thing that is not as it should be. With --keep the pages and screenshots stay there to be looked at.
"""
import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.S)

# What a person does, and what is to be seen then. It runs in the page, whose variables and functions it sees.
VISIT = """
const seen = {};
const cards = () => [...document.querySelectorAll(".card")];
const change = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event($(id).tagName === "SELECT" ? "change" : "input")); };
const wait = ms => new Promise(done => setTimeout(done, ms));
async function visit() {
  seen.title = document.title;
  seen.counts = [...document.querySelectorAll(".counts div")].map(node => node.textContent);
  seen.charts = document.querySelectorAll("#charts svg").length;
  seen.first = cards().slice(0, 4).map(card => card.className);
  seen.groups = [...document.querySelectorAll("h2")].map(node => node.textContent);
  seen.pages = $("page").textContent;
  cards()[0].click();
  seen.failure = $("one").textContent;
  $("one").close();
  change("status", "ok");
  seen.ok = $("found").textContent;
  cards()[0].click();
  seen.parameters = Object.fromEntries([...document.querySelectorAll("#one tr")].map(tr => [...tr.children].map(td => td.textContent)));
  await wait(300);
  seen.large = document.querySelector("#one img")?.naturalWidth ?? null;
  $("one").close();
  $("next").click();
  seen.second = $("page").textContent;
  window.scrollTo(0, 1e6);
  await wait(700);
  seen.loaded = cards().filter(card => card.querySelector("img")?.naturalWidth > 0).length;
  seen.unseen = cards().filter(card => !card.querySelector("img")).length;
  window.scrollTo(0, 0);
  change("status", ""); change("column", "num_inference_steps"); change("value", "3");
  seen.three = $("found").textContent;
  change("column", "text"); change("part", "PICTURE OF 7");
  seen.part = $("found").textContent;
  change("column", ""); change("words", "nan cat");
  seen.words = $("found").textContent;
  change("words", "");
  change("words", "no such word anywhere");
  seen.none = $("found").textContent;
  change("words", "");
}
visit().catch(error => { seen.error = String(error.stack); }).finally(() => {
  document.body.append(make("pre", {id: "seen"}, JSON.stringify(seen)));
});
"""


VISIT_TRACE = """
const seen = {frames: []};
async function visit() {
  seen.prompt = document.querySelector("h1").textContent;
  seen.lines = document.querySelectorAll("#chart path").length;
  for (let at = 0; at <= +$("at").max; at++) {
    $("at").value = at; $("at").dispatchEvent(new Event("input"));
    await new Promise(done => setTimeout(done, 100));
    seen.frames.push([$("sample").naturalWidth, $("said").textContent]);
  }
}
visit().catch(error => { seen.error = String(error.stack); }).finally(() => {
  document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
});
"""


class Wrong(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    parser.add_argument("--keep", type=Path, help="folder to leave pages and screenshots in")
    args = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("report: chromium is not here")
    with tempfile.TemporaryDirectory(prefix="nightshift-report-") as work:
        folder = args.keep or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            check(args.binary.resolve(), folder)
        except Wrong as wrong:
            print(f"report: WRONG: {wrong}")
            sys.exit(1)
    print("report: all checks passed")


def check(binary, work):
    manifest = work / "rows.csv"
    with open(manifest, "w") as file:
        print("id,prompt,seed,num_inference_steps,label,width", file=file)
        for row in range(400):
            prompt = "a nan cat" if row == 250 else "a </script> & <b>bold</b> prompt" if row == 1 else f"a picture of {row}"
            print(f"row{row},{prompt},{row},{1 + row % 4},{'even' if row % 2 else 'odd'},{65 if row == 300 else 64}", file=file)
    for layout in ["imagefolder", "webdataset", "parquet"]:
        out = work / layout
        command = [binary, "run", manifest, "--model", ROOT / "tests/fixtures/null", "--out", out, "--format", layout,
                   "--shard-size", "100", "--ort-lib", ROOT / ".ort", "--guidance-scale", "1"]
        ended = subprocess.run([str(word) for word in command], capture_output=True, text=True).returncode
        require(ended == 3, f"nightshift run ended with {ended}")
        before = files(out)
        told = json.loads(subprocess.run([binary, "report", out, "--embed", "150", "--json"], capture_output=True, text=True, check=True).stdout)
        require(files(out) == before, "the report has changed the output folder")
        expected = {"page": str(work / f"{layout}.html"), "images": 398, "failed": 2, "suspect": told["suspect"], "embedded": 150,
                    "contact_sheets": 0}
        require(told == expected, f"{layout}: {told}")
        look(layout, visited(work / f"{layout}.html"), told)
        screenshot(work / f"{layout}.html", work / f"{layout}.png")
        print(f"report: {layout}: seen in Chromium", flush=True)
    trace(binary, work)
    page = many(work / "imagefolder.html", 100_000)
    began = time.monotonic()
    seen = visited(page)
    require("error" not in seen, seen.get("error"))
    require(seen["none"] == "0 of 100,000", seen["none"])
    # Chromium's own clock stands still meanwhile, so the whole of it is timed: ten filters, and the start of the browser.
    seconds = time.monotonic() - began
    require(seconds < 60, f"a page of 100,000 rows takes {seconds:.0f} s")
    print(f"report: 100,000 rows: {page.stat().st_size / 2**20:.0f} MiB, opened and clicked through in {seconds:.0f} s", flush=True)


def trace(binary, work):
    """The page of `nightshift trace`: every frame of it, and its chart."""
    out = work / "trace"
    command = [binary, "trace", "--model", ROOT / "onnx/tiny-shapes", "--prompt", "a red heart", "--out", out, "--steps", "6",
               "--ort-lib", ROOT / ".ort"]
    subprocess.run([str(word) for word in command], capture_output=True, check=True)
    seen = visited(out / "trace.html", VISIT_TRACE)
    require("error" not in seen, seen.get("error"))
    require(len(seen["frames"]) == 7 and all(wide == 64 for wide, _ in seen["frames"]), seen)
    require(seen["frames"][0][1].startswith("frame 1 of 7 · timestep 999 · sigma 157"), seen["frames"][0])
    require(seen["lines"] == 2 and seen["prompt"] == "a red heart", seen)
    screenshot(out / "trace.html", work / "trace.png")
    print("report: trace: seen in Chromium", flush=True)


def look(layout, seen, told):
    require("error" not in seen, seen.get("error"))
    require(seen["title"] == f"{layout} · nightshift", seen["title"])
    require(seen["counts"][:2] == ["398images", "2failed rows"], seen["counts"])
    require(seen["charts"] == 2, f"{seen['charts']} charts")
    require(seen["first"][:2] == ["card failed"] * 2 and "failed" not in seen["first"][2], seen["first"])
    require(seen["groups"][0] == "failed", seen["groups"])
    require(seen["pages"] == "1 / 4", seen["pages"])
    require("not_a_number" in seen["failure"] and "row250" in seen["failure"], seen["failure"])
    fine = 398 - told["suspect"]
    require(seen["ok"] == f"{fine} of 400", seen["ok"])
    require(seen["three"] == "100 of 400", seen["three"])
    require(seen["part"] == "11 of 400", seen["part"])
    require(seen["words"] == "1 of 400", seen["words"])
    if told["suspect"] == 0:
        row = seen["parameters"]
        require((row["key"], row["text"], row["src_label"], row["width"]) == ("row0", "a picture of 0", "odd", "64"), row)
    # Beyond those that the page carries, pictures of a folder are loaded from there; those in packed files are not seen.
    packed = layout != "imagefolder"
    require((seen["unseen"] > 0) == packed, f"{seen['unseen']} pictures not seen")
    require(seen["loaded"] > 20, f"{seen['loaded']} pictures loaded")


def many(page, rows):
    """A page as that one, of so many rows."""
    text = page.read_text()
    data = json.loads(DATA.search(text).group(2))
    few = data["rows"]
    for column in data["columns"]:
        numbers = column["rows"] or list(range(few))
        column["rows"] = [numbers[row % few] for row in range(rows)]
        if column["name"] in ("key", "seed", "text"):
            column["values"] = [f"{column['values'][numbers[row % few]]} {row // few}" for row in range(rows)]
            column["rows"] = None
    data["rows"] = rows
    path = page.with_name("many.html")
    path.write_text(DATA.sub(lambda found: found.group(1) + json.dumps(data).replace("</", "<\\/") + found.group(3), text))
    return path


def visited(page, visit=VISIT):
    """What `visit` has seen on a copy of the page beside it."""
    copy = page.with_name(f"visited-{page.name}")
    copy.write_text(page.read_text().replace("document.body.dataset.ready", visit + "\ndocument.body.dataset.ready", 1))
    dom = chromium("--virtual-time-budget=20000", "--dump-dom", copy.as_uri())
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)
    require(found, f"{page.name}: the page's script did not run to its end")
    return json.loads(html.unescape(found.group(1)))


def screenshot(page, picture):
    chromium("--window-size=1280,1000", "--virtual-time-budget=5000", f"--screenshot={picture}", page.as_uri())
    require(picture.exists(), "no screenshot")


def chromium(*words):
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    with tempfile.TemporaryDirectory() as profile:
        result = subprocess.run([CHROMIUM, *flags, f"--user-data-dir={profile}", *words], capture_output=True, text=True, timeout=300)
    require(result.returncode == 0, f"chromium ended with {result.returncode}: {result.stderr[-1000:]}")
    return result.stdout


def files(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if ".nightshift" not in path.parts}


def require(condition, otherwise):
    if not condition:
        raise Wrong(otherwise)


if __name__ == "__main__":
    main()
