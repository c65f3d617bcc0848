"""Hugging Face's `datasets`: every way to load each layout."""
import io
import tempfile
from pathlib import Path

import datasets
import PIL.Image
from datasets import Features, Value, load_dataset

import expect
import jobs

datasets.disable_progress_bars()
datasets.logging.set_verbosity_error()

TYPES = {"string": "string", "int32": "int32", "int64": "int64", "double": "float64"}


def ways(out, layout):
    """The calls that a user may try: name → function that gives a dict of splits."""
    calls = {"load_dataset(OUT)": lambda **more: load_dataset(str(out), **more)}
    if layout == "imagefolder":
        calls["load_dataset('imagefolder', data_dir=OUT)"] = \
            lambda **more: load_dataset("imagefolder", data_dir=str(out), **more)
    else:
        pattern = {"webdataset": "*.tar", "parquet": "data/*.parquet"}[layout]
        calls[f"load_dataset('{layout}', data_files='OUT/{pattern}')"] = \
            lambda **more: load_dataset(layout, data_files=str(Path(out) / pattern), **more)
    return calls


def load(call):
    """The types, and the rows of the only split by key. Nothing comes from a cache."""
    with tempfile.TemporaryDirectory() as cache:
        splits = call(cache_dir=cache)
        expect.equal("splits", list(splits), ["train"])
        data = splits["train"]
        rows = [_plain(row) for row in data]
        by_key = {row["key"]: row for row in rows}
        expect.equal("rows with a key of their own", len(by_key), len(rows))
        return data.features, by_key


def stream(call):
    splits = call(streaming=True)
    expect.equal("splits", list(splits), ["train"])
    return {row["key"]: row for row in map(_plain, splits["train"])}


def _plain(row):
    """A row of any layout in one form: columns, `image` and `image_size`."""
    picture = next((row[name] for name in ["image", "png", "jpg", "webp"] if name in row), None)
    expect.true(f"the row has a picture: {row.keys()}", isinstance(picture, PIL.Image.Image))
    if "json" in row:
        expect.equal("__key__", row["__key__"], jobs.sample_name(row["json"]["key"]))
        expect.equal("txt", row["txt"], row["json"]["text"])
        row = row["json"]
    picture.load()
    return {**row, "image": (picture.mode, picture.size, picture.tobytes())}


def check(out, layout, wanted, pictures):
    """All of the images `wanted` and nothing else, with all that is known of them."""
    for name, call in ways(out, layout).items():
        features, rows = load(call)
        check_types(features, layout)
        check_rows(rows, wanted, pictures)
        expect.equal("streamed rows are those that are loaded", stream(call), rows)
        yield f"{name}, also streaming: {len(rows)} rows, split train"


def check_types(features, layout):
    columns = {name: Value(TYPES[kind]) for name, kind in jobs.COLUMNS.items()}
    if layout == "webdataset":
        # JSON has one kind of whole numbers.
        wide = {name: Value("int64") if kind == Value("int32") else kind for name, kind in columns.items()}
        wanted = {"json": wide, "txt": Value("string"), "__key__": Value("string"), "__url__": Value("string")}
        found = {name: kind for name, kind in features.items() if name not in ["png", "jpg", "webp"]}
        images = [kind for name, kind in features.items() if name not in wanted]
    else:
        del columns["file_name"]
        wanted, found = columns, {name: kind for name, kind in features.items() if name != "image"}
        images = [features.get("image")]
    expect.equal("types", found, wanted)
    expect.equal("type of the picture", images, [datasets.Image()])
    expect.true("types are Features", isinstance(features, Features))


def check_rows(rows, wanted, pictures):
    expect.equal("number of rows", len(rows), len(wanted))
    expect.equal("keys that are missing", sorted(wanted.keys() - rows.keys()), [])
    for key, image in wanted.items():
        row, values = rows[key], image.values()
        for name, value in values.items():
            expect.equal(f"{key}: {name}", row[name], value)
        expect.equal(f"{key}: size", row["image"][:2], ("RGB", (values["width"], values["height"])))
        expect.equal(f"{key}: bytes", row["bytes"], len(pictures[key]))
        expect.true(f"{key}: the picture is not the one on disk", row["image"] == decoded(pictures[key]))


def decoded(picture):
    with PIL.Image.open(io.BytesIO(picture)) as image:
        return image.mode, image.size, image.tobytes()
