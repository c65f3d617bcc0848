#!/usr/bin/env python3
"""Writes noise.json: what torch's CPU generator and numpy's RandomState draw, for tests/golden.rs. Run on a machine with
AVX2.

    python tests/golden/make_noise_goldens.py            # torch 2.15, numpy 2.4

Each stream is one generator and several successive draws; a draw is its shape and the bits of its first values (all
of them, up to 256) plus the last 16, as unsigned integers, so that nothing is lost in writing.
"""
import json
from pathlib import Path

import numpy as np
import torch

SEEDS = (0, 1, 42, 2**32 + 5, 2**63)
# Scalar path, blocks, ragged tails, latents of 128 and 512 pixels; small draws between large ones keep half a pair.
STREAMS = (
    [(1, 1, 3), (1, 1, 1), (1, 3, 5), (1, 1, 16), (1, 1, 1), (1, 1, 17), (4, 5, 5), (1, 1, 2)],
    [(4, 16, 16), (4, 16, 16)],
    [(4, 64, 64), (1, 7, 3)],
)


def bits(values):
    return [int(b) & 0xFFFFFFFF for b in values.view(torch.int32)]


def draws(seed, shapes):
    generator = torch.Generator("cpu").manual_seed(seed)
    for shape in shapes:
        flat = torch.randn(shape, generator=generator).flatten()
        yield {"shape": shape, "first": bits(flat[:256]), "last": bits(flat[-16:])}


def numpy_draws(seed, shapes):
    state = np.random.RandomState(seed)
    for shape in shapes:
        flat = torch.from_numpy(state.randn(*shape).astype(np.float32).flatten())
        yield {"shape": shape, "first": bits(flat[:256]), "last": bits(flat[-16:])}


numpy_streams = [{"seed": seed, "draws": list(numpy_draws(seed, STREAMS[i]))} for seed, i in ((0, 0), (42, 1), (2**32 - 1, 2))]
streams = [{"seed": seed, "draws": list(draws(seed, shapes))} for seed in SEEDS for shapes in STREAMS]
golden = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "streams": streams,
          "numpy": np.__version__, "numpy_streams": numpy_streams}
path = Path(__file__).parent / "noise.json"
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(path, path.stat().st_size, "bytes")
