"""Output in a bucket and manifests from one, against a real S3 server on this machine.

    make test-buckets                               # builds, makes the environment, runs this
    python tests/buckets/check_buckets.py --binary target/release/nightshift

Prints a line for each check. Exits with 1 at the first thing that is not as it should be.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server import BUCKET, Proxy, Server

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/fixtures/null"
LAYOUTS = ["imagefolder", "webdataset", "parquet"]


class Wrong(Exception):
    pass


def require(condition, otherwise):
    if not condition:
        raise Wrong(otherwise)


class Night:
    """Runs nightshift on one manifest, into a folder or a bucket."""

    def __init__(self, binary, work, proxy):
        self.binary, self.work, self.proxy = binary, work, proxy
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("NIGHTSHIFT_", "AWS_"))}
        self.environment |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
                             "XDG_CACHE_HOME": str(work / "cache"), "AWS_ENDPOINT_URL": proxy.url}

    def rows(self, count, name="rows.csv", steps=3):
        path = self.work / name
        rows = [f"r{row},a picture of {row},{row},{1 + row % steps}" for row in range(count)]
        path.write_text("id,prompt,seed,num_inference_steps\n" + "\n".join(rows) + "\n")
        return path

    def start(self, manifest, out, layout, *more):
        command = [self.binary, "run", manifest, "--model", MODEL, "--out", out, "--format", layout, "--shard-size", "50",
                   "--threads", "1", "--json", *more]
        return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=ROOT, env=self.environment)

    def run(self, manifest, out, layout, *more, code=0):
        """Runs to the end; returns the summary and what was said."""
        child = self.start(manifest, out, layout, *more)
        said, talk = child.communicate(timeout=300)
        require(child.returncode == code, f"run {out} {layout} ended with {child.returncode}, not {code}:\n{said}{talk}")
        return json.loads(said) if said else None, talk

    def other(self, *words, code):
        ended = subprocess.run([self.binary, *map(str, words)], capture_output=True, text=True, cwd=ROOT, env=self.environment)
        require(ended.returncode == code, f"{words} ended with {ended.returncode}, not {code}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr


def data(objects):
    return {name: content for name, content in objects.items() if not name.startswith(".nightshift/")}


def folder_data(out):
    files = (path for path in out.rglob("*") if path.is_file())
    return data({str(path.relative_to(out)): path.read_bytes() for path in files})


def same(found, wanted, what):
    differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    require(not differ, f"{what}: {len(differ)} of {len(wanted)} objects differ, such as {differ[:3]}")


def whole_runs(night, server, references):
    """Each layout has the bytes that a folder has; a copy of the bucket is an output folder that verifies."""
    for layout, (manifest, wanted) in references.items():
        url = f"s3://{BUCKET}/whole/{layout}"
        summary, _ = night.run(manifest, url, layout)
        require(summary["out"] == url and summary["uploads"]["waiting"] == 0, f"summary: {summary}")
        objects = server.objects(f"whole/{layout}")
        same(data(objects), wanted, layout)
        copy = night.work / f"copy-{layout}"
        for name, content in objects.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
        night.other("verify", "--deep", copy, code=0)
        before = len(night.proxy.puts)
        summary, _ = night.run(manifest, url, layout)
        require(summary["made"] == 0 and summary["seconds"] < 5, f"a finished run: {summary}")
        again = [path for path, _ in night.proxy.puts[before:] if "/locks/" not in path]
        require(not again, f"a finished run uploads {again}")
        yield f"{layout}: {len(wanted)} objects as in a folder; a copy of the bucket verifies; the same command again uploads nothing"


def elsewhere(night, server, references):
    """Another machine (an empty spool) goes on from what is in the bucket."""
    for layout, (manifest, wanted) in references.items():
        url = f"s3://{BUCKET}/elsewhere/{layout}"
        night.run(manifest, url, layout, "--limit", "120", "--spool", night.work / f"a-{layout}", code=75)
        summary, talk = night.run(manifest, url, layout, "--spool", night.work / f"b-{layout}")
        require(summary["skipped"] == 120, f"{layout}: another machine made {summary['made']} of 300: {talk}")
        same(data(server.objects(f"elsewhere/{layout}")), wanted, f"{layout} elsewhere")
        # The first spool is behind by now: it is brought up, and nothing is made.
        summary, _ = night.run(manifest, url, layout, "--spool", night.work / f"a-{layout}")
        require(summary["made"] == 0, f"{layout}: the first machine made {summary['made']} again")
        same(data(server.objects(f"elsewhere/{layout}")), wanted, f"{layout} back again")
        yield f"{layout}: stopped after 120 of 300, continued with an empty spool, then with the first: each image made once"


def kills(night, server, references, dice, times):
    """kill -9 at random moments, under faults, on the same spool; and with it lost."""
    manifest = night.rows(1000, "killed.csv", steps=60)
    for layout in LAYOUTS:
        out = night.work / f"killed-{layout}"
        night.run(manifest, out, layout)
        wanted = folder_data(out)
        night.proxy.faults = 0.05
        for is_lost in [False, True]:
            prefix = f"kills-{is_lost}/{layout}"
            spool, killed = night.work / f"spool-{is_lost}-{layout}", 0
            for _ in range(times):
                child = night.start(manifest, f"s3://{BUCKET}/{prefix}", layout, "--spool", spool)
                try:
                    child.communicate(timeout=dice.uniform(0.2, 6 if layout == "imagefolder" else 3))
                    break
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.communicate()
                    killed += 1
                whole_only(server, prefix, wanted, layout)
                if layout == "imagefolder":
                    honest(night, server, prefix)
                if is_lost:
                    shutil.rmtree(spool, ignore_errors=True)
                    # A machine that is lost leaves its lease, which another has to wait out; here it is taken away.
                    server.s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/.nightshift/locks/worker-0-of-1.json")
            summary, _ = night.run(manifest, f"s3://{BUCKET}/{prefix}", layout, "--spool", spool)
            same(data(server.objects(prefix)), wanted, f"{layout} after {killed} kills")
            require(len(server.in_parts()) <= night.proxy.unknown, f"left in parts: {server.in_parts()}")
            where = "spool lost each time" if is_lost else "same spool"
            yield (f"{layout}: {killed} kills under faults, {where}: the same objects in the end, nothing partial on the way; "
                   f"{summary['skipped']} of 1000 were there at the last start")
        night.proxy.faults = 0.0


def whole_only(server, prefix, wanted, layout):
    """Whatever is to be seen is whole: pictures are those of the end; tars and tables may have fewer rows."""
    for name, content in data(server.objects(prefix)).items():
        if name.endswith(".png"):
            require(content == wanted[name], f"{layout}: {name} is partial")
        elif name.endswith(".parquet"):
            require(content[:4] == b"PAR1" == content[-4:], f"{layout}: {name} is partial")
        else:
            require(content.endswith(bytes(1024)), f"{layout}: {name} is partial")


def honest(night, server, prefix):
    """The bucket's journal speaks of nothing that is not there."""
    objects = server.objects(prefix)
    if ".nightshift/run.json" not in objects:
        return
    copy = Path(tempfile.mkdtemp(dir=night.work))
    for name, content in objects.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    told = subprocess.run([night.binary, "verify", "--deep", copy], capture_output=True, text=True, cwd=ROOT)
    wrong = [line for line in told.stdout.splitlines() if line.split()[:1] and line.split()[0] in ["missing", "cut", "changed"]]
    require(told.returncode in [0, 3] and not wrong, f"{prefix}: {told.returncode} {wrong[:5]} {told.stdout[-300:]}{told.stderr}")
    shutil.rmtree(copy)


def faults(night, server, references, dice):
    """One request in twenty goes wrong."""
    night.proxy.faults = 0.05
    before, faulty = night.proxy.count, night.proxy.faulty
    for layout, (manifest, wanted) in references.items():
        night.run(manifest, f"s3://{BUCKET}/faults/{layout}", layout)
        same(data(server.objects(f"faults/{layout}")), wanted, f"{layout} under faults")
    night.proxy.faults = 0.0
    yield f"faults: {night.proxy.faulty - faulty} of {night.proxy.count - before} requests went wrong, every object is there once"


def large_files(night, server):
    """A tar in parts, given up half-way by a kill."""
    manifest = night.work / "large.csv"
    # Pictures of the null model are small; columns that pass through need not be.
    notes = ",".join(["x" * 60_000] * 20)
    rows = [f"r{row},a picture of {row},{row},1,{notes}" for row in range(30)]
    header = ",".join(f"note{column}" for column in range(20))
    manifest.write_text(f"id,prompt,seed,num_inference_steps,{header}\n" + "\n".join(rows) + "\n")
    out, url = night.work / "large", f"s3://{BUCKET}/large"
    night.run(manifest, out, "webdataset")
    size = (out / "000000.tar").stat().st_size
    night.proxy.slow_parts, before = 1.0, night.proxy.parts
    child = night.start(manifest, url, "webdataset")
    begun = time.monotonic()
    # Killed once a part is on its way: before, nightshift may not have been told the upload's name, which only the bucket knows then.
    while night.proxy.parts == before and child.poll() is None and time.monotonic() - begun < 60:
        time.sleep(0.002)
    child.kill()
    child.communicate()
    left = len(server.in_parts())
    require(left == 1 and "000000.tar" not in server.names("large"), f"{left} in parts, to be seen: {server.names('large')}")
    night.proxy.slow_parts, night.proxy.faults = 0.0, 0.1
    night.run(manifest, url, "webdataset")
    night.proxy.faults = 0.0
    same(data(server.objects("large")), folder_data(out), "a tar in parts")
    require(len(server.in_parts()) <= night.proxy.unknown, f"left in parts: {server.in_parts()}")
    yield f"a tar of {size >> 20} MiB goes in parts; {left} upload that a kill left half-way is given up by the next start"


def edited(night, server):
    """Rows that move, change and go; a manifest that grows. The bucket follows."""
    for layout in LAYOUTS:
        manifest = night.work / f"edited-{layout}.csv"
        row = lambda number, prompt: f"{prompt} {number},{number},2"
        versions = [[row(n, "a star") for n in range(120)]]
        versions.append([row(n, "a star") for n in range(60, 120)] + [row(n, "a new star") for n in range(10)])
        versions.append(versions[1] + [row(n, "a moon") for n in range(150)])
        out, url = night.work / f"edited-{layout}", f"s3://{BUCKET}/edited/{layout}"
        for number, rows in enumerate(versions):
            manifest.write_text("prompt,seed,num_inference_steps\n" + "\n".join(rows) + "\n")
            here, _ = night.run(manifest, out, layout)
            there, talk = night.run(manifest, url, layout)
            require(here["made"] == there["made"], f"{layout}, version {number}: {there['made']} made, {here['made']} in a folder: {talk}")
            same(data(server.objects(f"edited/{layout}")), folder_data(out), f"{layout}, version {number}")
        yield f"{layout}: rows moved, edited, gone and added: the bucket is what a folder is"


def workers(night, server, references):
    """Two workers with spools of their own."""
    for layout, (manifest, wanted) in references.items():
        url = f"s3://{BUCKET}/workers/{layout}"
        children = [night.start(manifest, url, layout, "--shard", f"{k}/2", "--spool", night.work / f"w{k}-{layout}") for k in range(2)]
        for child in children:
            _, talk = child.communicate(timeout=120)
            require(child.returncode == 0, f"{layout}: a worker ended with {child.returncode}: {talk}")
        same(data(server.objects(f"workers/{layout}")), wanted, f"{layout} by two workers")
    yield "two workers with spools of their own fill one place in each layout"


def manifests(night, server, references):
    """A manifest in the bucket; what a URL means elsewhere."""
    manifest, wanted = references["imagefolder"]
    server.s3.upload_file(str(manifest), BUCKET, "in/rows.csv")
    night.run(f"s3://{BUCKET}/in/rows.csv", f"s3://{BUCKET}/from-bucket", "imagefolder")
    same(data(server.objects("from-bucket")), wanted, "a manifest from the bucket")
    night.other("check", f"s3://{BUCKET}/in/rows.csv", "--model", MODEL, code=0)
    told = night.other("check", f"s3://{BUCKET}/in/none.csv", "--model", MODEL, code=2)
    require("no such object" in told and "in/none.csv" in told, told)
    told = night.other("status", f"s3://{BUCKET}/from-bucket", code=0)
    require("300 of 300 done" in told and "finished" in told, told)
    night.other("status", f"s3://{BUCKET}/nothing", code=2)
    for verb in ["verify", "repair", "report"]:
        require("copy it first" in night.other(verb, f"s3://{BUCKET}/from-bucket", code=2), verb)
    spool = next(path for path in (night.work / "cache/nightshift/spools").iterdir() if "from-bucket" in path.name)
    require("this is the spool of" in night.other("verify", spool, code=2), "verify of a spool")
    night.run(manifest, spool, "imagefolder", code=2)
    yield "manifests are read from the bucket, `status` looks into it, `verify`, `repair` and `report` say what to do"


def refusals(night, server, references):
    """What cannot be is told at once, and clearly."""
    manifest, _ = references["imagefolder"]
    begun = time.monotonic()
    _, talk = night.run(manifest, "s3://no-such-bucket/x", "imagefolder", code=13)
    require("make the bucket" in talk, talk)
    night.environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    _, talk = night.run(manifest, f"s3://{BUCKET}/x", "imagefolder", code=13)
    require("look at the network" in talk, talk)
    night.environment["AWS_ENDPOINT_URL"] = night.proxy.url
    server.s3.put_object(Bucket=BUCKET, Key="foreign/images/cat.png", Body=b"x")
    _, talk = night.run(manifest, f"s3://{BUCKET}/foreign", "imagefolder", code=12)
    require("no run of nightshift has made there" in talk, talk)
    require(server.names("foreign") == ["images/cat.png"], "nothing else is written there")
    for out in ["ftp://x/y", "s3://"]:
        night.run(manifest, out, "imagefolder", code=2)
    mine = night.work / "mine"
    (mine / "images").mkdir(parents=True)
    (mine / "images/cat.png").write_bytes(b"x")
    night.run(manifest, f"s3://{BUCKET}/mine", "imagefolder", "--spool", mine, code=12)
    require((mine / "images/cat.png").exists(), "a folder given as spool by mistake is not emptied")
    night.run(manifest, f"s3://{BUCKET}/from-bucket", "imagefolder", "--spool", night.work / "a-parquet", code=12)
    yield f"no bucket, no network, foreign objects, a folder that is no spool: each told ({time.monotonic() - begun:.0f} s for all)"


def locked(night, server, references):
    """A place that another machine works at is not touched."""
    manifest, wanted = references["webdataset"]
    long = night.rows(3000, "long.csv", steps=60)
    url = f"s3://{BUCKET}/locked"
    first = night.start(long, url, "webdataset", "--spool", night.work / "first")
    while ".nightshift/run.json" not in server.names("locked"):
        time.sleep(0.05)
        require(first.poll() is None, "the first is over too soon")
    _, talk = night.run(long, url, "webdataset", "--spool", night.work / "second", code=11)
    require("uploads here, last seen" in talk, talk)
    require("running (process" in night.other("status", url, code=0), "status tells who is at work")
    first.send_signal(signal.SIGTERM)
    _, talk = first.communicate(timeout=60)
    require(first.returncode == 75, f"the first ended with {first.returncode}: {talk}")
    summary, _ = night.run(long, url, "webdataset", "--spool", night.work / "second", "--limit", "1", code=75)
    require(summary["skipped"] > 0, f"{summary}")
    # The first spool does not know what the second did, and has nothing of its own: it is brought up.
    night.run(long, url, "webdataset", "--spool", night.work / "first", "--limit", "1", code=75)
    yield "a second machine ends with 11 while the first is at work, and goes on when it has stopped"


def outage(night, server, references):
    """The bucket goes away: the run goes on, ends with 13, and the next start uploads the rest."""
    manifest, wanted = references["imagefolder"]
    url = f"s3://{BUCKET}/outage"
    child = night.start(manifest, url, "imagefolder", "--upload-timeout", "3s")
    while len(server.names("outage")) < 50:
        time.sleep(0.01)
    night.proxy.down = True
    _, talk = child.communicate(timeout=120)
    require(child.returncode == 13, f"ended with {child.returncode}: {talk}")
    require("files are not in the bucket" in talk and "the same command again uploads them" in talk, talk)
    there = len(data(server.objects("outage")))
    night.proxy.down = False
    summary, _ = night.run(manifest, url, "imagefolder")
    require(summary["made"] == 0 and summary["uploads"]["files"] > 0, f"{summary}")
    same(data(server.objects("outage")), wanted, "after an outage")
    yield f"an outage after {there} of {len(wanted)} objects: all is made, exit 13; the next start uploads the rest and makes nothing"


def stopped(night, server, references):
    """SIGTERM while the bucket cannot be reached: the budget for stopping holds."""
    manifest, wanted = references["imagefolder"]
    url = f"s3://{BUCKET}/stopped"
    child = night.start(night.rows(20000, "stopped.csv", steps=60), url, "imagefolder", "--drain-timeout", "2s")
    while len(server.names("stopped")) < 50:
        time.sleep(0.01)
    night.proxy.down = True
    time.sleep(1)
    begun = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, talk = child.communicate(timeout=60)
    took = time.monotonic() - begun
    night.proxy.down = False
    require(child.returncode == 75 and took < 5, f"ended with {child.returncode} after {took:.1f} s: {talk}")
    yield f"SIGTERM while the bucket is away: exit 75 after {took:.1f} s with --drain-timeout 2s"


def small_spool(night, server, references):
    """A spool that may hold next to nothing makes the run wait, not fail."""
    manifest, wanted = references["imagefolder"]
    summary, _ = night.run(manifest, f"s3://{BUCKET}/small", "imagefolder", "--spool-limit", "10KiB")
    same(data(server.objects("small")), wanted, "a small spool")
    left = folder_data(next((night.work / "cache/nightshift/spools").glob("*small*")))
    require(not left, f"left in the spool: {list(left)[:3]}")
    yield "a small --spool-limit: the run waits for the bucket; the spool is empty in the end"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    parser.add_argument("--kills", type=int, default=5, help="kills in each of six runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of kills and faults (default: random)")
    args = parser.parse_args()
    print(f"buckets: seed {args.seed}", flush=True)
    begun, dice = time.monotonic(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="nightshift-buckets-") as work:
        server = Server()
        night = Night(args.binary.resolve(), Path(work), Proxy(server, args.seed))
        manifest = night.rows(300)
        references = {}
        for layout in LAYOUTS:
            out = Path(work) / f"reference-{layout}"
            night.run(manifest, out, layout)
            references[layout] = (manifest, folder_data(out))
        try:
            for check in [
                whole_runs(night, server, references), manifests(night, server, references), elsewhere(night, server, references),
                refusals(night, server, references), faults(night, server, references, dice), edited(night, server),
                workers(night, server, references), small_spool(night, server, references), outage(night, server, references), stopped(night, server, references),
                large_files(night, server), locked(night, server, references),
                kills(night, server, references, dice, args.kills),
            ]:
                for line in check:
                    print(f"buckets: {line}", flush=True)
        except Wrong as wrong:
            print(f"buckets: WRONG: {wrong}", flush=True)
            sys.exit(1)
    print(f"buckets: all checks passed in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
