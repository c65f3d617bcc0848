"""What is in an output folder, read without the clients under test."""
import hashlib
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

import expect

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def visible(out):
    """All files that do not begin with a dot nor lie in a folder that does."""
    files = (path for path in Path(out).rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(out).parts))


def shards(out, layout):
    names = {"imagefolder": "images/*/metadata.parquet", "webdataset": "*.tar", "parquet": "data/*.parquet"}
    return sorted(Path(out).glob(names[layout]))


def only_ours(out, layout):
    """Nothing but shards and pictures is visible."""
    known = set(shards(out, layout))
    for path in visible(out):
        is_picture = layout == "imagefolder" and path.parent.parent == Path(out) / "images" and path.suffix in PICTURES
        expect.true(f"{path} should not be there", path in known or is_picture)


def hashes(out):
    """file → SHA-256 of all that is visible."""
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in visible(out)}


def pictures(out, layout):
    """key → bytes of the pictures that the shards say there are."""
    found = {}
    for shard in shards(out, layout):
        for key, picture in SHARD_READERS[layout](shard):
            expect.true(f"{shard}: {key} is there twice", key not in found)
            found[key] = picture
    return found


def _of_folder(shard):
    table = pq.read_table(shard, columns=["key", "file_name"]).to_pydict()
    for key, name in zip(table["key"], table["file_name"]):
        yield key, (shard.parent / name).read_bytes()


def _of_tar(shard):
    with tarfile.open(shard) as tar:
        for member in tar:
            name = Path(member.name)
            if name.suffix in PICTURES:
                yield name.stem.removeprefix("~"), tar.extractfile(member).read()


def _of_parquet(shard):
    table = pq.read_table(shard, columns=["key", "image"]).to_pydict()
    for key, image in zip(table["key"], table["image"]):
        yield key, image["bytes"]


SHARD_READERS = {"imagefolder": _of_folder, "webdataset": _of_tar, "parquet": _of_parquet}


def files(out):
    """key → file of the pictures of an image folder."""
    found = {}
    for shard in shards(out, "imagefolder"):
        table = pq.read_table(shard, columns=["key", "file_name"]).to_pydict()
        found.update({key: shard.parent / name for key, name in zip(table["key"], table["file_name"])})
    return found
