#!/usr/bin/env python3
"""What diffusers' tiled VAE makes of tiles: tests/golden/tiles.json, for tests/tiles.rs.

    python tests/golden/make_tile_goldens.py            # diffusers 0.42.1, torch 2.15

`AutoencoderKL` with `enable_tiling()`, whose networks are replaced by functions that a test can repeat to the last bit and
that depend on the place in the tile, so that tiles disagree where they overlap. Results are given by the CRC-32 of their
bytes, and the first by its values.
"""
import json
import zlib
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL

SIZES = [(4, 4), (5, 4), (4, 7), (9, 11), (13, 6), (16, 16), (7, 3), (10, 10)]
# Latent tiles of 4, 8, 8 and 12. (Where a quarter is no whole cell, diffusers' picture gets another size.)
CONFIGS = [(16, 3), (32, 3), (16, 2), (96, 4)]


def ramp(n):
    return torch.arange(n, dtype=torch.float32)


def upsample(z, scale):
    """Nearest, first 3 channels, plus a slope over the tile."""
    big = z[:, :3].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return big + (ramp(big.shape[2])[:, None] * 0.125 + ramp(big.shape[3])[None, :] * 0.0625)


def downsample(x, scale):
    """Every scale-th pixel of 3 channels, and their negatives, plus a slope over the tile."""
    small = x[:, :, ::scale, ::scale]
    small = torch.cat([small, -small], 1)
    return small + (ramp(small.shape[2])[:, None] * 0.125 + ramp(small.shape[3])[None, :] * 0.0625)


def drawn(*shape):
    """Numbers in no order that integers give exactly."""
    numbers = torch.arange(torch.Size(shape).numel())
    return ((numbers * 7919 % 257).float() / 64 - 2).reshape(shape)


def crc(tensor):
    return zlib.crc32(np.ascontiguousarray(tensor.detach().numpy()).tobytes())


cases, first = [], None
for sample_size, levels in CONFIGS:
    scale = 2 ** (levels - 1)
    vae = AutoencoderKL(sample_size=sample_size, block_out_channels=(4,) * levels, norm_num_groups=4, latent_channels=3,
                        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
                        use_quant_conv=False, use_post_quant_conv=False)
    vae.enable_tiling()
    vae.decoder.forward = lambda z, *_: upsample(z, scale)
    vae.encoder.forward = lambda x, *_: downsample(x, scale)
    for height, width in SIZES:
        z, x = drawn(2, 3, height, width), drawn(1, 3, height * scale, width * scale)
        with torch.no_grad():
            pixels = vae.decode(z).sample
            moments = vae.encode(x).latent_dist.parameters
        first = pixels.flatten().tolist() if (sample_size, levels, height) == (16, 3, 5) else first
        cases.append({"sample_size": sample_size, "levels": levels, "height": height, "width": width, "decoded": crc(pixels),
                      "encoded": crc(moments)})
golden = {"diffusers": diffusers.__version__, "torch": torch.__version__, "first": first, "cases": cases}
path = Path(__file__).parent / "tiles.json"
path.write_text(json.dumps(golden, separators=(",", ":")).replace('{"sample', '\n{"sample') + "\n")
print(len(cases), "cases,", path.stat().st_size, "bytes")
