#!/usr/bin/env python3
"""diffusers on PyTorch: float32, its default attention (SDPA). Options: `channels_last`, `compile`."""
import diffusers
import torch

import pipelines
import worker


def load(job):
    torch.set_num_threads(job["threads"])
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(job["model"], torch_dtype=torch.float32)
    if job["options"].get("channels_last"):
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if job["options"].get("compile"):
        pipe.unet = torch.compile(pipe.unet, dynamic=False)
        pipe.vae.decode = torch.compile(pipe.vae.decode, dynamic=False)
    return pipelines.maker(pipe)


if __name__ == "__main__":
    worker.main(load, ("torch", "diffusers", "transformers"))
