"""Loads what nightshift makes with the programs that people load it with, and stops at the first thing that differs.

    make test-clients                            # builds, makes the environment, runs this
    python tests/clients/check_clients.py --binary target/release/nightshift

Prints a line for each check. Exits with 1 where a client gives something else than was asked for.
"""
import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Before the import, which reads it; nothing of another run is to be taken for ours.
CACHE = tempfile.TemporaryDirectory(prefix="nightshift-clients-cache-")
os.environ["HF_HOME"] = CACHE.name

import expect
import folder
import midway
import with_docs
import with_datasets
import with_readers
import with_tables
import with_webdataset
from jobs import SHARD, Jobs
from nightshift import LAYOUTS, Nightshift


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="nightshift")
    parser.add_argument("--rows", type=int, default=450, help="rows of the manifest (default: %(default)s)")
    parser.add_argument("--moments", type=int, default=20, help="moments of each layout's run to look at (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments (default: random)")
    args = parser.parse_args()
    print(f"clients: moments of seed {args.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nightshift-clients-") as work:
        try:
            checks = 0
            for line in every_check(Nightshift(args.binary.resolve()), Path(work), args):
                checks += 1
                print(f"clients: {line}", flush=True)
        except expect.Difference as difference:
            print(f"clients: WRONG: {difference}", flush=True)
            sys.exit(1)
    print(f"clients: {checks} checks passed in {time.monotonic() - started:.0f} s", flush=True)


def every_check(nightshift, work, args):
    jobs = Jobs(args.rows, steps=4)
    manifest = jobs.write(work / "jobs.csv")
    outs = {layout: work / layout for layout in LAYOUTS}
    for layout, out in outs.items():
        nightshift.run(manifest, out, layout, "--shard-size", SHARD, code=3)
        folder.only_ours(out, layout)
        pictures = folder.pictures(out, layout)
        expect.equal(f"{layout}: pictures", sorted(pictures), sorted(jobs.by_key))
        expect.true("the pictures of all layouts are the same", pictures == folder.pictures(outs["imagefolder"], "imagefolder"))
        yield f"{layout}: {len(pictures)} pictures of {args.rows} rows, {jobs.failing_rows} of which fail"
        nightshift.verify(out)
        yield f"{layout}: nightshift verify --deep: no findings"
        yield from with_prefix(layout, with_datasets.check(out, layout, jobs.by_key, pictures))
        if layout == "webdataset":
            yield from with_prefix(layout, with_webdataset.check(out, jobs, pictures))
        else:
            yield from with_prefix(layout, with_tables.check(out, layout, jobs.by_key))
        yield from with_prefix(layout, same_bytes(nightshift, manifest, out, layout, work))
    yield from with_docs.check(nightshift, work / "docs")
    yield from image_formats(nightshift, manifest, jobs, work, outs["imagefolder"])
    for layout, out in outs.items():
        yield from with_prefix(layout, grown(nightshift, work, layout, out, args))
    for layout in LAYOUTS:
        yield from with_prefix(layout, moments(nightshift, work, layout, args))


def same_bytes(nightshift, manifest, out, layout, work):
    """Another number of lanes gives the same files."""
    again = work / f"{layout}-again"
    nightshift.run(manifest, again, layout, "--shard-size", SHARD, "--lanes", "5", code=3)
    hashes = folder.hashes(out)
    expect.equal("SHA-256 of the files of two runs", folder.hashes(again), hashes)
    yield f"two runs of different --lanes: {len(hashes)} files of equal SHA-256"


def grown(nightshift, work, layout, out, args):
    """More rows than before: files of Parquet get other names, since these say how many there are."""
    jobs = Jobs(args.rows + 2 * SHARD, steps=4)
    nightshift.run(jobs.write(work / "more.csv"), out, layout, "--shard-size", SHARD, code=3)
    folder.only_ours(out, layout)
    for line in with_datasets.check(out, layout, jobs.by_key, folder.pictures(out, layout)):
        yield f"after {2 * SHARD} more rows: {line}"


def image_formats(nightshift, manifest, jobs, work, pngs):
    """The parameters in pictures of each format, and each format in each layout."""
    for name in nightshift.image_formats():
        out = pngs
        for layout in LAYOUTS if name != "png" else []:
            out = work / f"{layout}-{name}"
            nightshift.run(manifest, out, layout, "--shard-size", SHARD, "--image-format", name, code=3)
            pictures = folder.pictures(out, layout)
            yield from with_prefix(f"{layout} {name}", with_datasets.check(out, layout, jobs.by_key, pictures))
            if layout == "webdataset":
                yield from with_prefix(f"{layout} {name}", with_webdataset.check(out, jobs, pictures))
        out = work / f"imagefolder-{name}" if name != "png" else pngs
        yield from with_prefix(name, with_readers.check(folder.files(out), jobs.by_key))


def moments(nightshift, work, layout, args):
    # Of so many steps that a run takes some seconds.
    jobs = Jobs(4 * args.rows, steps=60)
    manifest = jobs.write(work / "long.csv")
    yield from midway.Night(nightshift, manifest, jobs, work, layout, args.seed).check(args.moments)


def with_prefix(prefix, lines):
    try:
        for line in lines:
            yield f"{prefix}: {line}"
    except expect.Difference as difference:
        raise expect.Difference(f"{prefix}: {difference}") from difference


if __name__ == "__main__":
    main()
