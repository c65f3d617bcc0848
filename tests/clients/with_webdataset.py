"""The `webdataset` library."""
import webdataset

import expect
import folder
from jobs import sample_name
from with_datasets import decoded


def check(out, jobs, pictures):
    shards = folder.shards(out, "webdataset")
    braces = f"{out}/{{000000..{len(shards) - 1:06}}}.tar"
    samples = list(webdataset.WebDataset(braces, shardshuffle=False).decode("pil"))
    expect.equal("keys, in the manifest's order", [sample["__key__"] for sample in samples],
                 [sample_name(image.key) for image in jobs.images])
    endings = None
    for sample in samples:
        key = sample["json"]["key"]
        members = sorted(name for name in sample if not name.startswith("__"))
        endings = endings or members
        expect.equal(f"{key}: members", members, endings)
        for name, value in jobs.by_key[key].values().items():
            expect.equal(f"{key}: {name}", sample["json"][name], value)
        expect.equal(f"{key}: txt", sample["txt"], sample["json"]["text"])
        picture = sample[next(name for name in endings if name not in ["json", "txt"])]
        found = (picture.mode, picture.size, picture.tobytes())
        expect.true(f"{key}: the picture is not the one on disk", found == decoded(pictures[key]))
    expect.equal("members", endings[0], "json") if "png" in endings else None
    yield f"WebDataset('{{000000..{len(shards) - 1:06}}}.tar').decode('pil'): {len(samples)} samples, in order"
