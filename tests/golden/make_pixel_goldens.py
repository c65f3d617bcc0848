#!/usr/bin/env python3
"""What Pillow and diffusers make of pictures: tests/golden/pixels/, for tests/pixels.rs.

    python tests/golden/make_pixel_goldens.py            # Pillow 13, diffusers 0.42.1, torch 2.15

Writes noise.png (noise is the hardest picture to resample), modes/*.png (every kind of PNG that Pillow opens as another
mode), jpegs/*.jpg (every kind of JPEG that Pillow can write) and cases.json: pixels in hexadecimal where they are few, CRC-32 of the bytes where they are many.
"""
import io
import json
import struct
import zlib
from pathlib import Path

import diffusers
import numpy as np
import PIL
import PIL.features
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from PIL import Image

SIZES = [(64, 64), (16, 24), (61, 86), (128, 43), (61, 43), (7, 5), (1, 1), (200, 100), (60, 42), (62, 44), (3, 300), (512, 512),
         # Pillow 13 turns the order of the passes where the height loses more than twice as many pixels as the width.
         (51, 24), (51, 23), (51, 22), (104, 42), (104, 43), (104, 44), (60, 40), (60, 1), (30, 1), (57, 36), (57, 35), (57, 34)]
FOLDER = Path(__file__).parent / "pixels"
rng = np.random.default_rng(7)


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def png(width, height, depth, colour, rows, extra=b""):
    """A PNG that Pillow cannot write: 16 bits a channel, 2 and 4 bits of gray."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def rows(bytes_a_row, count=5):
    return [rng.integers(0, 256, bytes_a_row, dtype=np.uint8).tobytes() for _ in range(count)]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)), exif=exif)


rgb = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
rgba[0, :, 3] = 0
palette = Image.fromarray(rgb).quantize(11)
trns = struct.pack(">I", 2) + b"tRNS\0\x80" + struct.pack(">I", zlib.crc32(b"tRNS\0\x80"))
MODES = {
    "one-bit": saved(Image.fromarray(rgb).convert("1")),
    "gray": saved(Image.fromarray(rgb[:, :, 0])),
    "gray-2": png(7, 5, 2, 0, rows(2)),
    "gray-4": png(7, 5, 4, 0, rows(4)),
    "gray-transparent": png(7, 5, 8, 0, rows(7), trns),
    "gray-alpha": saved(Image.fromarray(rgba[:, :, 2:]).convert("LA")),
    "gray-alpha-16": png(7, 5, 16, 4, rows(28)),
    "palette": saved(palette),
    "palette-transparent": saved(palette, transparency=3),
    "rgb": saved(Image.fromarray(rgb)),
    "rgb-16": png(7, 5, 16, 2, rows(42)),
    "rgba": saved(Image.fromarray(rgba)),
    "rgba-16": png(7, 5, 16, 6, rows(56)),
} | {f"turned-{orientation}": turned(orientation) for orientation in range(1, 9)}

(FOLDER / "modes").mkdir(parents=True, exist_ok=True)
modes = []
for name, content in MODES.items():
    path = FOLDER / "modes" / f"{name}.png"
    path.write_bytes(content)
    image = load_image(str(path))
    modes.append({"name": name, "size": image.size, "pixels": np.array(image).tobytes().hex()})

def jpeg(width=43, height=29, mode="RGB", **options):
    """Half noise, half slopes and edges, of a size that is no multiple of blocks."""
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 6 % 256, y * 9 % 256, (x // 5 + y // 7) % 2 * 255], axis=-1)
    pixels = np.where((x < width // 2)[..., None], own.integers(0, 256, (height, width, 3)), slopes)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, "JPEG", **{"quality": 80, **options})
    return file.getvalue()


own = np.random.default_rng(8)
upright = Image.Exif()
upright[0x0112] = 6
JPEGS = {f"{kind}-{name}": jpeg(subsampling=subsampling, progressive=kind == "progressive", quality=quality)
         for kind in ("baseline", "progressive")
         for name, subsampling, quality in (("444", 0, 85), ("422", 1, 60), ("420", 2, 90), ("411", "4:1:1", 75))} | {
    "best": jpeg(quality=100, subsampling=2), "worst": jpeg(quality=5, subsampling=2), "optimized": jpeg(optimize=True),
    "gray": jpeg(mode="L"), "gray-progressive": jpeg(mode="L", progressive=True), "cmyk": jpeg(mode="CMYK"), "rgb": jpeg(keep_rgb=True),
    "restarts": jpeg(restart_marker_blocks=2), "restart-rows": jpeg(restart_marker_rows=1), "dot": jpeg(1, 1), "column": jpeg(1, 37),
    "row": jpeg(50, 2), "wide": jpeg(161, 3, subsampling=1), "turned": jpeg(exif=upright, subsampling=2),
}
(FOLDER / "jpegs").mkdir(parents=True, exist_ok=True)
jpegs = []
for name, content in JPEGS.items():
    path = FOLDER / "jpegs" / f"{name}.jpg"
    path.write_bytes(content)
    image = load_image(str(path))
    jpegs.append({"name": name, "size": image.size, "crc": crc(np.array(image))})

noise = Image.fromarray(rng.integers(0, 256, (43, 61, 3), dtype=np.uint8))
noise.save(FOLDER / "noise.png")
resized = [{"size": size, "crc": crc(np.array(noise.resize(size, Image.LANCZOS)))} for size in SIZES]
small = np.array(noise.resize((4, 6), Image.LANCZOS)).tobytes().hex()

image_processor = VaeImageProcessor(vae_scale_factor=8)
mask_processor = VaeImageProcessor(vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
tensors = []
for width, height in [(64, 48), (104, 16), (512, 256)]:
    image = image_processor.preprocess(noise, height=height, width=width)
    mask = mask_processor.preprocess(noise, height=height, width=width)
    masked = image * (mask < 0.5)
    latents = [(width // 8, height // 8), (width // 3, height // 5), (width + 7, height)]
    near = [crc(torch.nn.functional.interpolate(mask, size=(h, w)).numpy()) for w, h in latents]
    assert mask.shape == (1, 1, height, width) and 0.1 < mask.mean() < 0.9
    tensors.append({"size": (width, height), "image": crc(image.numpy()), "mask": crc(mask.numpy()),
                    "masked": crc(masked.numpy()), "nearest": [[*s, c] for s, c in zip(latents, near)]})

golden = {"pillow": PIL.__version__, "libjpeg_turbo": PIL.features.version("libjpeg_turbo"), "diffusers": diffusers.__version__, "torch": torch.__version__,
          "modes": modes, "jpegs": jpegs, "resized": resized, "small": small, "tensors": tensors}
text = json.dumps(golden, separators=(",", ":")).replace('{"name"', '\n{"name"').replace('{"size"', '\n{"size"')
(FOLDER / "cases.json").write_text(text + "\n")
print(sum(path.stat().st_size for path in FOLDER.rglob("*.*")), "bytes")
