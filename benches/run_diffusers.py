#!/usr/bin/env python3
"""diffusers on PyTorch: float32, its default attention (SDPA). Options: `channels_last`, `compile`."""
import diffusers
import torch

import pipelines
import worker
from cases import batches


def load(job):
    torch.set_num_threads(job["threads"])
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(job["model"], torch_dtype=torch.float32)
    if job["options"].get("channels_last"):
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    make = pipelines.maker(pipe)
    if job["options"].get("compile"):
        compile_for(pipe, job, make)
    return make


def compile_for(pipe, job, make):
    """Compiles UNet and VAE, which happens when they first see a batch: each kind of batch, with one step, before time counts."""
    pipe.unet.compile()
    pipe.vae.decode = torch.compile(pipe.vae.decode)
    for batch in batches(job["rows"], job["batch"]):
        make([{**row, "steps": 1} for row in batch])


if __name__ == "__main__":
    worker.main(load, ("torch", "diffusers", "transformers"))
