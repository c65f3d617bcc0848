#!/usr/bin/env python3
"""stable-diffusion.cpp through its Python package, built for this machine: float32, one picture after another, as it
has no batches. Noise as torch draws it on the CPU. Options: those of its constructor."""
import stable_diffusion_cpp

import worker

# Its own schedule of a single step begins at the other end than diffusers' does; of more, they are the same.
SIGMAS = {1: "0.0291671,0"}


def load(job):
    model = stable_diffusion_cpp.StableDiffusion(
        model_path=job["model"], n_threads=job["threads"], wtype="f32", vae_decode_only=True, rng_type="cpu",
        sampler_rng_type="cpu", verbose=False, **job["options"])

    def make(rows):
        return [model.generate_image(
            prompt=row["prompt"], sample_steps=row["steps"], cfg_scale=row["guidance"], width=row["size"],
            height=row["size"], seed=row["seed"], sample_method="euler", scheduler="discrete",
            sigmas=SIGMAS.get(row["steps"]))[0] for row in rows]
    return make


if __name__ == "__main__":
    worker.main(load, ("stable-diffusion-cpp-python",))
