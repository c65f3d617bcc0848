"""C5: 64 pictures of 512² encoded and written, by nightshift's encoders and by Pillow, on as many threads each."""
import io
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SIDE, COUNT = 512, 64
# What Pillow's users pass; the first of each kind is its default or nightshift's quality.
PILLOW = {
    "png": {"format": "PNG"}, "png, level 1": {"format": "PNG", "compress_level": 1},
    "jpeg 95": {"format": "JPEG", "quality": 95, "subsampling": 0}, "webp 90": {"format": "WEBP", "quality": 90},
    "webp lossless": {"format": "WEBP", "lossless": True},
}


def measure(args):
    """Seconds and bytes by program and format."""
    count = 4 if args.smoke else COUNT
    folder = args.work / "encoding"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawn = draw(count)
    drawn.tofile(folder / "pixels.rgb")
    return {"pictures": count, "nightshift": nightshift(folder, args.threads), "pillow": pillow(drawn, folder, args.threads)}


def draw(count):
    """Pictures with the detail of photographs: noise of every size, the finer the fainter."""
    random = np.random.default_rng(0)
    total = np.zeros((count, SIDE, SIDE, 3), np.float32)
    for side in (4, 16, 64, 256, 512):
        small = random.normal(0, 60 / side**0.45, (count, side, side, 3)).clip(-127, 127)
        total += [enlarged(picture) for picture in small]
    return (total + 128).clip(0, 255).astype(np.uint8)


def enlarged(picture):
    bands = [Image.fromarray(np.float32(picture[..., i])).resize((SIDE, SIDE), Image.BICUBIC) for i in range(3)]
    return np.stack(bands, axis=-1)


def nightshift(folder, threads):
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "encode", "--", folder / "pixels.rgb", folder / "nightshift"]
    told = subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True, text=True,
                          env={**os.environ, "RAYON_NUM_THREADS": str(threads)})
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    return {line.pop("format"): line for line in lines}


def pillow(drawn, folder, threads):
    """Pillow lets other Python threads run while it encodes."""
    pictures, results = [Image.fromarray(pixels) for pixels in drawn], {}
    for name, options in PILLOW.items():
        place = folder / "pillow" / name
        place.mkdir(parents=True)
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            encoded = list(pool.map(lambda picture: encode(picture, options), pictures))
            encoding = time.perf_counter() - began
            list(pool.map(lambda i: (place / f"{i:04}").write_bytes(encoded[i]), range(len(encoded))))
            both = time.perf_counter() - began
        results[name] = {"encode": encoding, "both": both, "bytes": sum(map(len, encoded))}
    return results


def encode(picture, options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()
